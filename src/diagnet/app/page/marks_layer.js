// Boxes and the ruler over an image: SVG elements that take the keyboard and the pointer.

import { makeSvg, refill } from "./elements.js";
import { lengthText, sizeText } from "./mark.js";

const HANDLES = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const HANDLE_PX = 9;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP_PX = 6; // of the screen, for one press of an arrow key
const SYMBOLS = { malignant: "▲", benign: "●", abstained: "◆", refused: "■" };

export class MarksLayer {
  /** `view` tells the place of things; `changed(mark)`, `selected(mark)`, `removed(mark)`, `confirmed(mark)` are its callbacks. */
  constructor(view) {
    this.view = view;
    this.svg = makeSvg("svg", { class: "marks" });
    this.groups = new Map();
    this.ruler = null;
    this.draft = null;
  }

  /** Make the elements anew: marks have come, gone, or changed what they say. */
  rebuild() {
    const { view } = this;
    const focused = [...this.groups.keys()].find((mark) => this.groups.get(mark).group === document.activeElement);
    this.groups.clear();
    const groups = (view.case?.marks ?? []).flatMap((mark, k) => this.#makeMark(mark, k + 1));
    this.rulerGroup = this.ruler && this.#makeRuler();
    this.draftRect = makeSvg("rect", { class: "draft" });
    refill(this.svg, groups, this.rulerGroup, this.draftRect);
    this.place();
    if (focused) this.groups.get(focused)?.group.focus({ preventScroll: true });
  }

  /** Take the model's call from a mark whose box has changed; the element stays, for it may be under the pointer. */
  unanswer(mark) {
    const { label, number, edge } = this.groups.get(mark);
    label.textContent = number;
    edge.setAttribute("class", "edge open");
  }

  focus(mark) {
    this.groups.get(mark)?.group.focus({ preventScroll: true });
  }

  #makeMark(mark, number) {
    const { view } = this;
    const decision = mark.assessment?.decision;
    const group = makeSvg("g", {
      class: `mark${view.selected === mark ? " selected" : ""}`, tabindex: "0", role: "button", "aria-pressed": view.selected === mark ? "true" : "false",
      onfocus: () => view.select(mark), onkeydown: (event) => this.#markKey(event, mark),
    });
    const parts = {
      group,
      number,
      halo: makeSvg("rect", { class: "halo" }),
      edge: makeSvg("rect", { class: `edge ${decision ?? "open"}` }),
      label: makeSvg("text", { class: "mark-label", "aria-hidden": "true" }, `${number}${decision ? ` ${SYMBOLS[decision]}` : ""}`),
      size: makeSvg("text", { class: "mark-size", "aria-hidden": "true" }),
      handles: Object.keys(HANDLES).map((edges) => [
        edges, makeSvg("rect", { class: `handle ${edges}`, width: HANDLE_PX, height: HANDLE_PX, "data-edges": edges }),
      ]),
    };
    group.append(parts.halo, parts.edge, ...parts.handles.map(([, handle]) => handle));
    for (const rect of [parts.edge, parts.halo, ...parts.handles.map(([, handle]) => handle)]) {
      rect.addEventListener("pointerdown", (event) => this.#dragMark(event, mark, rect.dataset.edges));
    }
    this.groups.set(mark, parts);
    return [group, parts.label, parts.size];
  }

  /** Put every element where the view has it now. */
  place() {
    const { view } = this;
    for (const [mark, parts] of this.groups) {
      const [x0, y0] = view.toScreen(mark.box[0], mark.box[1]);
      const [x1, y1] = view.toScreen(mark.box[2], mark.box[3]);
      for (const rect of [parts.halo, parts.edge]) setRect(rect, x0, y0, x1 - x0, y1 - y0);
      setPoint(parts.label, x0, y0 - 7);
      setPoint(parts.size, x0, y1 + 17);
      const size = sizeText(...mark.size, view.case.image.spacing_mm);
      parts.size.textContent = size;
      parts.group.setAttribute("aria-label", `Mass ${parts.number}, ${size}`);
      for (const [edges, handle] of parts.handles) {
        const [u, v] = HANDLES[edges];
        setPoint(handle, x0 + u * (x1 - x0) - HANDLE_PX / 2, y0 + v * (y1 - y0) - HANDLE_PX / 2);
      }
    }
    if (this.draftRect) {
      this.draftRect.toggleAttribute("hidden", !this.draft);
      if (this.draft) {
        const [x0, y0] = view.toScreen(this.draft[0], this.draft[1]);
        const [x1, y1] = view.toScreen(this.draft[2], this.draft[3]);
        setRect(this.draftRect, x0, y0, x1 - x0, y1 - y0);
      }
    }
    if (this.rulerGroup) this.#placeRuler();
  }

  #dragMark(event, mark, edges) {
    if (event.button !== 0 || this.view.tool === "window") return;
    event.stopPropagation();
    event.preventDefault();
    this.view.select(mark);
    this.focus(mark);
    this.#drag(event, (dx, dy) => this.#adjust(mark, edges, dx, dy));
  }

  /** Call `step` with movements in pixels of the file until the pointer is let go. */
  #drag(event, step) {
    const target = this.svg;
    let [x, y] = [event.clientX, event.clientY];
    target.setPointerCapture(event.pointerId);
    const move = (next) => {
      step((next.clientX - x) / this.view.scale, (next.clientY - y) / this.view.scale);
      [x, y] = [next.clientX, next.clientY];
    };
    const stop = () => {
      target.removeEventListener("pointermove", move);
      target.removeEventListener("pointerup", stop);
      target.removeEventListener("pointercancel", stop);
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", stop);
    target.addEventListener("pointercancel", stop);
  }

  #adjust(mark, edges, dx, dy) {
    const { width, height } = this.view.case.image;
    const version = mark.version;
    if (edges) mark.resize(edges, dx, dy, width, height);
    else mark.move(dx, dy, width, height);
    this.view.requestPaint();
    if (mark.version !== version) this.view.changed(mark);
  }

  #markKey(event, mark) {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.ctrlKey ? 1 : Math.max(1, Math.round(STEP_PX / this.view.scale));
      this.#adjust(mark, event.shiftKey ? "se" : "", arrow[0] * step, arrow[1] * step);
    } else if (event.key === "Delete" || event.key === "Backspace") this.view.removed(mark);
    else if (event.key === "Enter") this.view.confirmed(mark);
    else if (event.key === "Escape") this.view.canvas.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // -- the ruler: two ends, each movable

  setRuler(ends) {
    this.ruler = ends;
    this.rebuild();
  }

  focusRuler() {
    this.ends[1].focus({ preventScroll: true });
  }

  #makeRuler() {
    this.lines = [makeSvg("line", { class: "ruler-halo" }), makeSvg("line", { class: "ruler" })];
    this.length = makeSvg("text", { class: "ruler-length" });
    this.ends = [0, 1].map((end) => makeSvg("circle", {
      class: "ruler-end", r: 6, tabindex: "0", role: "button", "aria-label": `Ruler, ${end ? "second" : "first"} end`,
      onkeydown: (event) => this.#rulerKey(event, end),
      onpointerdown: (event) => {
        event.stopPropagation();
        event.preventDefault();
        event.target.focus({ preventScroll: true });
        this.#drag(event, (dx, dy) => this.#moveEnd(end, dx, dy));
      },
    }));
    return makeSvg("g", {}, this.lines, this.length, this.ends);
  }

  #placeRuler() {
    const [a, b] = this.ruler.map(([x, y]) => this.view.toScreen(x, y));
    for (const line of this.lines) {
      for (const [name, value] of [["x1", a[0]], ["y1", a[1]], ["x2", b[0]], ["y2", b[1]]]) line.setAttribute(name, value);
    }
    for (const [end, [x, y]] of [[this.ends[0], a], [this.ends[1], b]]) {
      end.setAttribute("cx", x);
      end.setAttribute("cy", y);
    }
    const isRight = Math.max(a[0], b[0]) > 0.6 * this.view.element.clientWidth; // no room for the length beside it
    setPoint(this.length, isRight ? Math.max(a[0], b[0]) : Math.max(a[0], b[0]) + 12, isRight ? Math.max(a[1], b[1]) + 26 : (a[1] + b[1]) / 2 + 5);
    this.length.setAttribute("text-anchor", isRight ? "end" : "start");
    this.length.textContent = this.rulerText;
  }

  get rulerText() {
    const [[ax, ay], [bx, by]] = this.ruler;
    return lengthText(bx - ax, by - ay, this.view.case.image.spacing_mm);
  }

  #moveEnd(end, dx, dy) {
    this.ruler[end] = [this.ruler[end][0] + dx, this.ruler[end][1] + dy];
    this.view.requestPaint();
  }

  #rulerKey(event, end) {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.ctrlKey ? 1 : Math.max(1, Math.round(STEP_PX / this.view.scale));
      this.#moveEnd(end, arrow[0] * step, arrow[1] * step);
      this.view.says(`Ruler: ${this.rulerText}`);
    } else if (["Delete", "Backspace", "Escape"].includes(event.key)) {
      this.setRuler(null);
      this.view.canvas.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function setRect(rect, x, y, width, height) {
  setPoint(rect, x, y);
  rect.setAttribute("width", Math.max(width, 0));
  rect.setAttribute("height", Math.max(height, 0));
}

function setPoint(element, x, y) {
  element.setAttribute("x", x);
  element.setAttribute("y", y);
}
