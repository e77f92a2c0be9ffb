// The buttons over the views; what they do, keys do too.

import { make, refill } from "./elements.js";
import { PRESETS } from "./window_level.js";

const TOOLS = [["move", "Move", "V"], ["window", "Window", "L"], ["mark", "Mark", "M", "click inside the mass, or drag a box round it"], ["ruler", "Ruler", "R"]];

export function fillToolbar(element, reader) {
  const { view } = reader;
  const tool = ([name, text, letter, how = "drag on the image"]) => make("button", {
    id: `tool-${name}`, type: "button", "aria-pressed": String(reader.tool === name), "aria-keyshortcuts": letter,
    title: `${text}: ${how} (key ${letter})`, onclick: () => reader.useTool(name),
  }, text);
  const presets = make("select", { id: "preset", "aria-label": "Window preset", onchange: (event) => view.choosePreset(Number(event.target.value)) },
    view.window.preset < 0 && make("option", { value: "-1", selected: true }, "By hand"),
    PRESETS.map(({ name }, k) => make("option", { value: k, selected: view.window.preset === k }, name)));
  const button = (id, text, name, letter, action, pressed) => make("button", {
    id, type: "button", "aria-label": name, title: `${name} (key ${letter})`, "aria-keyshortcuts": letter, onclick: action,
    "aria-pressed": pressed === undefined ? null : String(pressed),
  }, text);
  const folds = (part, text, name) => button(`fold-${part}`, text, name, "F", () => reader.fold(part), !reader.isFolded(part));
  refill(element,
    make("div", { class: "group", role: "group", "aria-label": "Tool for dragging" }, TOOLS.map(tool)),
    make("div", { class: "group" }, presets, button("invert", "Invert", "Invert grey values", "I", () => view.invert(), view.window.inverted)),
    make("div", { class: "group" },
      button("zoom-out", "−", "Zoom out", "-", () => view.zoom(0.8)), button("zoom-in", "+", "Zoom in", "+", () => view.zoom(1.25)),
      button("fit", "Fit", "Fit whole image", "0", () => view.fit()), button("actual", "1:1", "1:1, one pixel for one pixel", "1", () => view.actualSize()),
      button("glass", "Glass", "Magnifying glass", "G", () => reader.toggleGlass(), reader.isMagnified)),
    make("div", { class: "group" }, button("second", "Two", "Two views of the breast", "2", () => reader.toggleLayout(2), reader.layout === 2),
      button("four", "Four", "Four views of the study", "4", () => reader.toggleLayout(4), reader.layout === 4),
      reader.layout > 1 && button("link", "Link", "Link zoom and pan within a side", "K", () => reader.toggleLink(), reader.isLinked)),
    make("div", { class: "group folds" }, folds("list", "List", "List of images"), folds("panel", "Findings", "Findings")));
}
