// One image on the screen: where it lies, its window, what is laid over it.

import { CanvasPainter } from "./canvas_painter.js";
import { clamp, make } from "./elements.js";
import { boxBetween } from "./mark.js";
import { MarksLayer } from "./marks_layer.js";
import { listenToPointer } from "./pointer.js";
import { TexturePainter } from "./texture_painter.js";
import { PRESETS, WindowLevel } from "./window_level.js";

const LARGEST_SCALE = 16;
const SCALE_BAR_MM = [1, 2, 5, 10, 20, 50, 100];

export class View {
  /** `listener` hears activated(view), selected(view, mark), changed(mark), removed(mark), confirmed(mark), says(text). */
  constructor(name, listener) {
    this.name = name;
    this.listener = listener;
    this.case = this.mammogram = this.selected = null;
    this.window = new WindowLevel();
    this.tool = "move";
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.layer = new MarksLayer(this);
    this.title = make("p", { class: "corner title" });
    this.doubt = make("p", { class: "corner doubt", role: "note" });
    this.facts = make("p", { class: "corner facts" });
    this.bar = make("p", { class: "corner scale-bar" });
    this.empty = make("p", { class: "empty" });
    this.element = make("section", { class: "view", "aria-label": `View ${name}`, "data-tool": "move" },
      this.layer.svg, this.title, this.doubt, this.facts, this.bar, this.empty);
    this.#makeCanvas(TexturePainter.on);
    listenToPointer(this);
    this.element.addEventListener("focusin", () => listener.activated(this));
    new ResizeObserver(() => this.#resized()).observe(this.element);
  }

  #makeCanvas(painterOn) {
    this.canvas?.remove();
    this.canvas = make("canvas", { class: "pixels", tabindex: "0", role: "img", "aria-label": `View ${this.name}: no image` });
    this.painter = painterOn(this.canvas);
    if (!this.painter) return this.#makeCanvas((canvas) => new CanvasPainter(canvas));
    this.canvas.addEventListener("webglcontextlost", () => {
      this.#makeCanvas((canvas) => new CanvasPainter(canvas));
      if (this.mammogram) this.painter.show(this.mammogram);
      this.#resized();
    });
    this.canvas.dataset.painter = this.painter.name;
    this.element.prepend(this.canvas);
  }

  show(shown, mammogram) {
    this.case = shown;
    this.mammogram = mammogram;
    this.selected = shown?.marks[0] ?? null;
    this.layer.ruler = null;
    this.veil(null);
    this.element.classList.toggle("filled", Boolean(mammogram));
    if (mammogram) {
      if (!this.painter.takes(mammogram)) this.#makeCanvas((canvas) => new CanvasPainter(canvas));
      this.painter.show(mammogram);
      this.window.choose(Math.max(this.window.preset, 0), mammogram);
      this.canvas.setAttribute("aria-label", `${shown.title}, ${shown.image.width} by ${shown.image.height} pixels`);
      this.title.replaceChildren(make("b", {}, shown.side || "side not known"), ` ${shown.image.name}`);
    }
    this.#resized();
    this.fit();
    this.layer.rebuild();
  }

  saying(text) {
    this.empty.textContent = text;
  }

  says(text) {
    this.listener.says(text);
  }

  // -- where the image lies: screen = scale * image + (x, y), in CSS pixels

  toScreen(x, y) {
    return [this.scale * x + this.x, this.scale * y + this.y];
  }

  toImage(clientX, clientY) {
    const { left, top } = this.element.getBoundingClientRect();
    return [(clientX - left - this.x) / this.scale, (clientY - top - this.y) / this.scale];
  }

  get fitting() {
    const { clientWidth, clientHeight } = this.element;
    return Math.min(clientWidth / this.mammogram.width, clientHeight / this.mammogram.height);
  }

  fit() {
    if (!this.mammogram) return;
    this.scale = this.fitting;
    this.#center(this.mammogram.width / 2, this.mammogram.height / 2);
    this.fitted = true;
  }

  #center(x, y) {
    this.x = this.element.clientWidth / 2 - this.scale * x;
    this.y = this.element.clientHeight / 2 - this.scale * y;
    this.requestPaint();
  }

  pan(dx, dy) {
    if (!this.mammogram) return;
    const margin = 40; // of the image always stays to be seen
    this.x = clamp(this.x + dx, margin - this.scale * this.mammogram.width, this.element.clientWidth - margin);
    this.y = clamp(this.y + dy, margin - this.scale * this.mammogram.height, this.element.clientHeight - margin);
    this.fitted = false;
    this.requestPaint();
  }

  /** Zoom about a point of the view, by default its middle. */
  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    if (!this.mammogram) return;
    const scale = clamp(this.scale * factor, this.fitting / 2, LARGEST_SCALE);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.pan(0, 0);
  }

  actualSize() {
    if (this.mammogram) this.zoom(1 / devicePixelRatio / this.scale);
  }

  showBox(mark) {
    const [x0, y0, x1, y1] = mark.box;
    const [left, top] = this.toScreen(x0, y0);
    const [right, bottom] = this.toScreen(x1, y1);
    if (right < 0 || bottom < 0 || left > this.element.clientWidth || top > this.element.clientHeight) {
      this.#center((x0 + x1) / 2, (y0 + y1) / 2);
    }
  }

  #resized() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return; // hidden, as on paper: it comes back as it was
    this.canvas.width = Math.max(1, Math.round(clientWidth * devicePixelRatio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * devicePixelRatio));
    if (this.fitted) this.fit();
    this.requestPaint();
  }

  // -- painting: once a frame, and only when something changed

  requestPaint() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  paint() {
    if (!this.mammogram) return;
    const ratio = devicePixelRatio;
    this.painter.paint({ scale: this.scale * ratio, x: this.x * ratio, y: this.y * ratio, window: this.window });
    this.layer.place();
    this.#placeVeil();
    this.facts.textContent = `${Math.round(100 * this.scale * ratio)} % · ${this.window.text}`;
    this.#placeScaleBar();
  }

  #placeScaleBar() {
    const spacing = this.case.image.spacing_mm;
    if (!spacing) {
      this.bar.textContent = "spacing not known";
      this.bar.removeAttribute("style");
      return;
    }
    const pxPerMm = this.scale / spacing[1];
    const length = SCALE_BAR_MM.findLast((mm) => mm * pxPerMm < this.element.clientWidth / 4) ?? SCALE_BAR_MM[0];
    this.bar.textContent = `${length} mm`;
    this.bar.style.setProperty("--length", `${length * pxPerMm}px`);
  }

  /** Lay `canvas` over `region` (x0, y0, x1, y1 of the image), or take it away. */
  veil(canvas, region, opacity = 0.6) {
    this.veiled?.canvas.remove();
    this.veiled = canvas && { canvas, region };
    if (canvas) {
      canvas.style.opacity = opacity;
      this.layer.svg.before(canvas);
    }
    this.requestPaint();
  }

  #placeVeil() {
    if (!this.veiled) return;
    const { canvas, region: [x0, y0, x1, y1] } = this.veiled;
    const [left, top] = this.toScreen(x0, y0);
    canvas.style.transform = `translate(${left}px, ${top}px) scale(${(this.scale * (x1 - x0)) / canvas.width}, ${(this.scale * (y1 - y0)) / canvas.height})`;
  }

  // -- marks

  select(mark) {
    if (this.selected === mark) return;
    this.selected = mark;
    for (const [other, { group }] of this.layer.groups) {
      group.classList.toggle("selected", other === mark);
      group.setAttribute("aria-pressed", other === mark);
    }
    this.listener.selected(this, mark);
  }

  changed(mark) {
    this.listener.changed(this, mark);
  }

  removed(mark) {
    this.listener.removed(this, mark);
  }

  confirmed(mark) {
    this.listener.confirmed(this, mark);
  }

  /** The box that the keyboard's B makes: a seventh of the view, in its middle. */
  get middleBox() {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    const half = Math.min(width, height) / 14;
    const [x, y] = [left + width / 2, top + height / 2];
    return boxBetween(this.toImage(x - half, y - half), this.toImage(x + half, y + half), this.mammogram.width, this.mammogram.height);
  }

  ruleMiddle() {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    this.layer.setRuler([-60, 60].map((dx) => this.toImage(left + width / 2 + dx, top + height / 2)));
    this.layer.focusRuler();
    this.says(`Ruler: ${this.layer.rulerText}`);
  }

  // -- its window

  changeWindow(center, width) {
    this.window.change(center, width);
    this.requestPaint();
    this.listener.windowed(this);
  }

  choosePreset(preset) {
    if (!this.mammogram) return;
    this.window.choose((preset + PRESETS.length) % PRESETS.length, this.mammogram);
    this.requestPaint();
    this.listener.windowed(this);
  }

  invert() {
    this.window.inverted = !this.window.inverted;
    this.requestPaint();
    this.listener.windowed(this);
  }

  useTool(tool) {
    this.tool = tool;
    this.element.dataset.tool = tool;
  }
}
