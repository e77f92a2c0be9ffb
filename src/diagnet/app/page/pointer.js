// What the pointer and its wheel do to a view: zoom, pan, window, mark, rule.

import { clamp } from "./elements.js";
import { boxBetween, lengthText } from "./mark.js";

export function listenToPointer(view) {
  view.element.addEventListener("pointerdown", (event) => pressed(view, event));
  view.element.addEventListener("wheel", (event) => wheeled(view, event), { passive: false });
  view.element.addEventListener("contextmenu", (event) => event.preventDefault());
  view.element.addEventListener("dblclick", () => view.tool === "mark" || view.fit());
  view.element.addEventListener("pointermove", (event) => {
    view.pointer = [event.clientX, event.clientY];
    if (view.listener.isMagnified) view.requestPaint();
  });
  view.element.addEventListener("pointerleave", () => { view.pointer = null; });
}

function wheeled(view, event) {
  if (!view.mammogram) return;
  event.preventDefault();
  const { left, top } = view.element.getBoundingClientRect();
  view.zoom(Math.exp(-clamp(event.deltaY, -120, 120) / 400), event.clientX - left, event.clientY - top);
}

function pressed(view, event) {
  view.listener.activated(view);
  if (!view.mammogram) return;
  event.preventDefault();
  view.canvas.focus({ preventScroll: true });
  const tool = event.button === 2 ? "window" : event.button === 1 ? "move" : view.tool;
  const start = view.toImage(event.clientX, event.clientY);
  let [x, y] = [event.clientX, event.clientY];
  view.element.setPointerCapture(event.pointerId);
  const move = (next) => {
    const [dx, dy] = [next.clientX - x, next.clientY - y];
    [x, y] = [next.clientX, next.clientY];
    dragged(view, tool, dx, dy, start, view.toImage(x, y));
  };
  const stop = (last) => {
    for (const [name, act] of heard) view.element.removeEventListener(name, act);
    released(view, tool, last.type === "pointerup", start);
  };
  const heard = [["pointermove", move], ["pointerup", stop], ["pointercancel", stop]];
  for (const [name, act] of heard) view.element.addEventListener(name, act);
}

function dragged(view, tool, dx, dy, start, here) {
  const { width, height } = view.mammogram;
  if (tool === "move") return view.pan(dx, dy);
  if (tool === "window") view.changeWindow((dy * view.window.width) / 300, Math.exp(dx / 200));
  else if (tool === "mark") view.layer.draft = boxBetween(start, here, width, height);
  else if (tool === "ruler") {
    if (!view.layer.rulerGroup) view.layer.setRuler([start, here]);
    view.layer.ruler = [start, here];
    view.says(`Ruler: ${lengthText(here[0] - start[0], here[1] - start[1], view.case.image.spacing_mm)}`);
  }
  view.requestPaint();
}

function released(view, tool, meant, start) {
  const box = view.layer.draft;
  view.layer.draft = null;
  view.requestPaint();
  if (tool !== "mark" || !meant) return;
  if (box) view.listener.drawn(view, box);
  else view.listener.clicked(view, start);
}
