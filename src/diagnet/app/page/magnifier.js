// A glass over the place that is looked at: what lies there, larger, and without marks.

import { CanvasPainter } from "./canvas_painter.js";
import { make } from "./elements.js";

const SIZE_PX = 260;
const FACTOR = 2.5; // of the view's own scale, and one pixel for one pixel at least

export class Magnifier {
  constructor(view) {
    this.view = view;
    this.canvas = make("canvas", { class: "glass", hidden: true, "aria-hidden": "true" });
    this.painter = new CanvasPainter(this.canvas);
    view.element.append(this.canvas);
  }

  paint() {
    const { view, canvas } = this;
    canvas.hidden = !view.listener.isMagnified || view.listener.view !== view || !view.mammogram;
    if (canvas.hidden) return;
    const [x, y] = view.looked;
    const [u, v] = view.toImageOfView(x, y);
    const size = Math.round(SIZE_PX * devicePixelRatio);
    const scale = Math.max(FACTOR * view.scale * devicePixelRatio, 1);
    canvas.width = canvas.height = size;
    this.painter.show(view.mammogram);
    this.painter.paint({ scale, x: size / 2 - scale * u, y: size / 2 - scale * v, window: view.window });
    canvas.style.transform = `translate(${x - SIZE_PX / 2}px, ${y - SIZE_PX / 2}px)`;
  }
}
