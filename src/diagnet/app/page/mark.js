// A mass marked by a box (x0, y0, x1, y1) in pixels of the file, x1 and y1 exclusive, with what the model said of it.

import { clamp } from "./elements.js";

const SMALLEST_PX = 4;

export class Mark {
  constructor(box) {
    this.box = box;
    this.forget();
  }

  /** What the model said belongs to the box as it was. */
  forget() {
    this.state = "new"; // "asked", "waiting" (for the server), "answered", "failed"
    this.assessment = this.similar = this.saliency = null;
    this.failure = "";
    this.version = (this.version ?? 0) + 1;
  }

  move(dx, dy, width, height) {
    const [x0, y0, x1, y1] = this.box;
    dx = clamp(dx, -x0, width - x1);
    dy = clamp(dy, -y0, height - y1);
    this.#change([x0 + dx, y0 + dy, x1 + dx, y1 + dy]);
  }

  /** Drag the named edges ("n", "se", ...) by dx, dy; the box keeps a size. */
  resize(edges, dx, dy, width, height) {
    let [x0, y0, x1, y1] = this.box;
    if (edges.includes("w")) x0 = clamp(x0 + dx, 0, x1 - SMALLEST_PX);
    if (edges.includes("e")) x1 = clamp(x1 + dx, x0 + SMALLEST_PX, width);
    if (edges.includes("n")) y0 = clamp(y0 + dy, 0, y1 - SMALLEST_PX);
    if (edges.includes("s")) y1 = clamp(y1 + dy, y0 + SMALLEST_PX, height);
    this.#change([x0, y0, x1, y1]);
  }

  #change(box) {
    if (box.every((value, k) => value === this.box[k])) return;
    this.box = box;
    this.forget();
  }

  /** As sent and shown: whole pixels. */
  get whole() {
    return this.box.map(Math.round);
  }

  get size() {
    const [x0, y0, x1, y1] = this.whole;
    return [x1 - x0, y1 - y0];
  }
}

/** The box between two corners, or null where it is too small to mean a mass. */
export function boxBetween([ax, ay], [bx, by], width, height) {
  const box = [
    clamp(Math.min(ax, bx), 0, width), clamp(Math.min(ay, by), 0, height),
    clamp(Math.max(ax, bx), 0, width), clamp(Math.max(ay, by), 0, height),
  ];
  return box[2] - box[0] < SMALLEST_PX || box[3] - box[1] < SMALLEST_PX ? null : box;
}

/** "24 x 30 mm", or pixels where the spacing is not known. */
export function sizeText(width, height, spacing) {
  if (!spacing) return `${Math.round(width)} × ${Math.round(height)} pixels`;
  return `${(width * spacing[1]).toFixed(1)} × ${(height * spacing[0]).toFixed(1)} mm`;
}

export function lengthText(dx, dy, spacing) {
  if (!spacing) return `${Math.round(Math.hypot(dx, dy))} pixels (spacing not known)`;
  return `${Math.hypot(dx * spacing[1], dy * spacing[0]).toFixed(1)} mm`;
}
