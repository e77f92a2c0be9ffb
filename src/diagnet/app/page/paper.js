// What is laid on paper beside the panel: the notice, the model, the view as it is.

import { byId, make } from "./elements.js";

export function layPaper(view) {
  if (!view.mammogram) return;
  byId("printed").replaceChildren(make("p", { class: "notice" }, document.querySelector("header .notice").textContent), make("h1", {}, `DiagNet: ${view.case.title}`),
    make("p", {}, `${byId("model").hidden ? "" : `${byId("model").textContent} · `}printed ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`), picture(view));
  for (const details of document.querySelectorAll("#panel details")) details.open = true;
}

/** A view, marks and veil included, on a canvas of its own. */
function picture(view) {
  view.paint(); // what WebGL drew is gone after the frame, so it is drawn and copied at once
  const copy = make("canvas", { width: view.canvas.width, height: view.canvas.height });
  const context = copy.getContext("2d");
  const place = ([x0, y0, x1, y1]) => [...view.toScreen(x0, y0), view.scale * (x1 - x0), view.scale * (y1 - y0)];
  context.drawImage(view.canvas, 0, 0);
  context.scale(devicePixelRatio, devicePixelRatio);
  if (view.veiled) {
    context.globalAlpha = Number(view.veiled.canvas.style.opacity);
    context.save();
    const [left, top, width, height] = place(view.case.turned(view.veiled.region));
    context.translate(left + width / 2, top + height / 2);
    context.scale(view.case.turn ? -1 : 1, view.case.turn === "half" ? -1 : 1);
    context.drawImage(view.veiled.canvas, -width / 2, -height / 2, width, height);
    context.restore();
    context.globalAlpha = 1;
  }
  context.font = "bold 16px sans-serif";
  context.lineWidth = 2;
  context.strokeStyle = context.fillStyle = "#f0e442";
  for (const [k, { box }] of view.case.marks.entries()) {
    const [left, top, width, height] = place(box);
    context.strokeRect(left, top, width, height);
    context.fillText(k + 1, left, top - 6);
  }
  return copy;
}
