// One image on the screen: where it lies, its window, what is laid over it.

import { CanvasPainter } from "./canvas_painter.js";
import { clamp, make } from "./elements.js";
import { Magnifier } from "./magnifier.js";
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
    this.wall = ""; // the side of the view that the picture stands at
    this.name = name;
    this.listener = listener;
    this.case = this.mammogram = this.selected = null;
    this.window = new WindowLevel();
    this.tool = "move";
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.layer = new MarksLayer(this);
    this.title = make("p", { class: "corner title" });
    this.doubt = make("p", { class: "corner doubt", role: "note" });
    this.turning = make("div", { class: "corner turning", role: "group", "aria-label": "Turn the picture" });
    this.facts = make("p", { class: "corner facts" });
    this.bar = make("p", { class: "corner scale-bar" });
    this.empty = make("p", { class: "empty" });
    this.element = make("section", { class: "view", "aria-label": `View ${name}`, "data-tool": "move" },
      this.layer.svg, this.title, this.doubt, this.turning, this.facts, this.bar, this.empty);
    this.glass = new Magnifier(this);
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
    this.#offerTurning();
    this.#resized();
    this.fit();
    this.layer.rebuild();
  }

  /** A picture whose chest wall is on the wrong side may be mirrored or upside down: the reader says which, nobody else. */
  #offerTurning() {
    const { case: shown, mammogram } = this;
    const isWrong = shown?.wall && mammogram?.wall && shown.wall !== mammogram.wall;
    const button = (turn, text) => make("button", { type: "button", onpointerdown: (event) => event.stopPropagation(), onclick: () => this.listener.turn(this, turn) }, text);
    this.turning.replaceChildren(...(mammogram && shown.turn ? [`Shown ${shown.turn === "half" ? "turned by 180°" : "mirrored"}, not as stored. `, button("", "As stored")]
      : isWrong ? [`The chest wall is on the ${mammogram.wall} of this ${shown.image.laterality} picture: mirrored, turned or labeled wrongly. `, button("mirror", "Mirror it"), " ", button("half", "Turn it by 180°")] : []));
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
    return this.toImageOfView(clientX - left, clientY - top);
  }

  toImageOfView(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  get fitting() {
    const { clientWidth, clientHeight } = this.element;
    return Math.min(clientWidth / this.mammogram.width, clientHeight / this.mammogram.height);
  }

  fit() {
    if (!this.mammogram) return;
    this.scale = this.fitting;
    this.#center(this.mammogram.width / 2, this.mammogram.height / 2);
    if (this.wall) this.x = this.wall === "left" ? 0 : this.element.clientWidth - this.scale * this.mammogram.width;
    this.fitted = true;
    this.listener.moved(this);
  }

  /** Look at the same part, in fractions of the picture, as another view does. */
  follow(other) {
    if (other.fitted && this.fitted) return;
    this.fitted = other.fitted;
    this.scale = (this.fitting * other.scale) / other.fitting;
    const [x, y] = other.toImageOfView(other.element.clientWidth / 2, other.element.clientHeight / 2);
    this.#center((x / other.mammogram.width) * this.mammogram.width, (y / other.mammogram.height) * this.mammogram.height);
    if (this.fitted && this.wall) this.x = this.wall === "left" ? 0 : this.element.clientWidth - this.scale * this.mammogram.width;
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
    this.listener.moved(this);
  }

  /** What a reader looks at: where the pointer is, else the selected mass, else the middle; in pixels of the view. */
  get looked() {
    const { left, top } = this.element.getBoundingClientRect();
    if (this.pointer) return [this.pointer[0] - left, this.pointer[1] - top];
    const [x0, y0, x1, y1] = this.selected?.box ?? [];
    return this.selected ? this.toScreen((x0 + x1) / 2, (y0 + y1) / 2) : [this.element.clientWidth / 2, this.element.clientHeight / 2];
  }

  /** Zoom about a point of the view, by default the one looked at. */
  zoom(factor, x = this.looked[0], y = this.looked[1]) {
    if (!this.mammogram) return;
    const scale = clamp(this.scale * factor, this.fitting / 2, LARGEST_SCALE);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.pan(0, 0);
  }

  actualSize() {
    if (!this.mammogram) return;
    const place = this.toImageOfView(...this.looked);
    this.scale = 1 / devicePixelRatio;
    this.#center(...place);
    this.pan(0, 0);
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
    this.glass.paint();
    if (!this.mammogram) return;
    const ratio = devicePixelRatio;
    this.painter.paint({ scale: this.scale * ratio, x: this.x * ratio, y: this.y * ratio, window: this.window });
    this.layer.place();
    this.#placeVeil();
    this.facts.textContent = `${Math.round(100 * this.scale * ratio)} % · ${this.window.text(this.case.image.ends)}`;
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
    const { canvas, region } = this.veiled;
    const [x0, y0, x1, y1] = this.case.turned(region);
    const { turn } = this.case;
    const [left, top] = this.toScreen(turn ? x1 : x0, turn === "half" ? y1 : y0);
    const [across, down] = [(this.scale * (x1 - x0)) / canvas.width, (this.scale * (y1 - y0)) / canvas.height];
    canvas.style.transform = `translate(${left}px, ${top}px) scale(${turn ? -across : across}, ${turn === "half" ? -down : down})`;
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

  /** Where the pointer is, in pixels of the file; the middle of the view where it is elsewhere. */
  get pointed() {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    return this.toImage(...(this.pointer ?? [left + width / 2, top + height / 2]));
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
