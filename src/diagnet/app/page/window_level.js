// Which grey values are spread over the screen's: a center (level) and a width, both in [0, 1].

import { clamp } from "./elements.js";

const NARROWEST = 0.004;

export const PRESETS = [
  { name: "As stored", shares: null },
  { name: "Breast", shares: [0.01, 0.998] },
  { name: "Dense tissue", shares: [0.5, 0.9995] },
  { name: "Skin and fat", shares: [0.0, 0.6] },
];

export class WindowLevel {
  constructor() {
    this.center = 0.5;
    this.width = 1;
    this.inverted = false;
    this.preset = 0;
  }

  get low() {
    return this.center - this.width / 2;
  }

  change(center, width) {
    this.center = clamp(this.center + center, 0, 1);
    this.width = clamp(this.width * width, NARROWEST, 1);
    this.preset = -1;
  }

  choose(preset, mammogram) {
    const { shares } = PRESETS[preset];
    const [low, high] = shares ? mammogram.quantiles(shares) : [0, 1];
    this.width = Math.max(high - low, NARROWEST);
    this.center = low + this.width / 2;
    this.preset = preset;
  }

  /** `ends`: what is shown black and white as stored, in units of the file; null where that is no line. */
  text(ends) {
    const inverted = this.inverted ? " inverted" : "";
    if (!ends) return `window ${Math.round(100 * this.width)} level ${Math.round(100 * this.center)} % of what is shown${inverted}`;
    const [black, white] = ends;
    const span = white - black; // below 0 where the file is shown inverted
    const digits = Math.abs(span) < 20 ? 2 : 0;
    return `window ${Math.abs(span * this.width).toFixed(digits)} level ${(black + span * this.center).toFixed(digits)}, units of the file${inverted}`;
  }
}
