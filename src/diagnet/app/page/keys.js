// Every key, in one list: the page acts on it and the help panel shows it.

import { make, refill } from "./elements.js";
import { PRESETS } from "./window_level.js";

const SWITCH = "diagnet.letters";

/** [keys, what they do, action]; the action takes the page's Reader. Keys as KeyboardEvent.key spells them. */
export const KEYS = [
  ["Images", [
    [["o"], "open files", (reader) => reader.chooseFiles()],
    [["n", "PageDown"], "next image", (reader) => reader.step(1)],
    [["p", "PageUp"], "previous image", (reader) => reader.step(-1)],
    [["h"], "one view, two of the breast, four of the study", (reader) => reader.stepLayout()],
    [["2"], "two views of the breast, or one", (reader) => reader.toggleLayout(2)],
    [["4"], "four views of the study, chest walls together, or one", (reader) => reader.toggleLayout(4)],
    [["x"], "the next view", (reader) => reader.otherView()],
    [["k"], "link zoom and pan within a side, or not", (reader) => reader.toggleLink()],
  ]],
  ["Looking", [
    [["+", "="], "zoom in", ({ view }) => view.zoom(1.25)],
    [["-"], "zoom out", ({ view }) => view.zoom(0.8)],
    [["0"], "whole image", ({ view }) => view.fit()],
    [["1"], "one pixel for one pixel", ({ view }) => view.actualSize()],
    [["g"], "magnifying glass at the pointer, else at the mass", (reader) => reader.toggleGlass()],
    [["ArrowLeft"], "pan", ({ view }) => view.pan(60, 0)],
    [["ArrowRight"], "pan", ({ view }) => view.pan(-60, 0)],
    [["ArrowUp"], "pan", ({ view }) => view.pan(0, 60)],
    [["ArrowDown"], "pan", ({ view }) => view.pan(0, -60)],
    [["["], "more contrast (narrower window)", ({ view }) => view.changeWindow(0, 0.9)],
    [["]"], "less contrast (wider window)", ({ view }) => view.changeWindow(0, 1 / 0.9)],
    [["."], "brighter (lower level)", ({ view }) => view.changeWindow(-0.03 * view.window.width, 1)],
    [[","], "darker (higher level)", ({ view }) => view.changeWindow(0.03 * view.window.width, 1)],
    [["w"], `next preset: ${PRESETS.map(({ name }) => name.toLowerCase()).join(", ")}`, ({ view }) => view.choosePreset(view.window.preset + 1)],
    [["f"], "fold the list and the findings away, or show them", (reader) => reader.foldAll()],
    [["i"], "invert", ({ view }) => view.invert()],
  ]],
  ["Marking", [
    [["b"], "new box in the middle of the view; on a box: arrows move it, Shift+arrows resize it, with Ctrl by single pixels, Delete removes it", (reader) => reader.markMiddle()],
    [["c"], "box of the mass under the pointer, or in the middle of the view", (reader) => reader.clickPointer()],
    [["Enter"], "ask the model about the selected mass", ({ scorer }) => scorer.score()],
    [["r"], "ruler in the middle of the view; arrows move its ends, Delete removes it", (reader) => reader.rule()],
    [["v"], "tool: move", (reader) => reader.useTool("move")],
    [["l"], "tool: window and level by drag", (reader) => reader.useTool("window")],
    [["m"], "tool: mark, by a click inside the mass or by drag", (reader) => reader.useTool("mark")],
  ]],
  ["Understanding", [
    [["s"], "saliency on or off", ({ scorer }) => scorer.toggleSaliency()],
    [["Shift+P"], "print, or save as PDF", (reader) => reader.print()],
    [["?"], "this help", (reader) => reader.openHelp()],
  ]],
];

const ACTIONS = new Map(KEYS.flatMap(([, rows]) => rows.flatMap(([keys, , action]) => keys.map((name) => [name, action]))));

const lettersOn = () => localStorage.getItem(SWITCH) !== "off";

export function listenToKeys(reader) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("textarea, input:not([type='range'])")) return;
    if (event.target.closest("select") && event.key !== "Enter") return; // Enter does nothing on a closed list
    const onControl = event.target.closest("button, summary, input");
    if (onControl && (event.key === "Enter" || /^(Arrow|Page)/.test(event.key))) return;
    if (event.key.length === 1 && !lettersOn()) return;
    const inPanel = event.target.closest("#panel, #cases");
    if (inPanel && (event.key.startsWith("Arrow") || event.key.startsWith("Page"))) return; // they scroll there
    const name = event.shiftKey && event.key === "P" ? "Shift+P" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = ACTIONS.get(name);
    if (!action) return;
    event.preventDefault();
    action(reader);
  });
  // A button that a mouse has pressed gives up the focus, so that Enter asks the model; one reached by keys keeps it.
  document.addEventListener("click", ({ detail }) => {
    if (detail === 0) return;
    const leave = () => document.activeElement.closest(":is(button, summary):not(dialog *)")?.blur();
    leave();
    requestAnimationFrame(leave); // drawn anew by then, it may have the focus again
  });
}

export function fillHelp(dialog) {
  const spelled = (name) => ({ ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageDown: "Page ↓", PageUp: "Page ↑" })[name] ?? (name.length === 1 ? name.toUpperCase() : name);
  const letters = make("input", { type: "checkbox", id: "letters", onchange: (event) => localStorage.setItem(SWITCH, event.target.checked ? "on" : "off") });
  letters.checked = lettersOn();
  const merged = (rows) => {
    const byText = new Map();
    for (const [keys, text] of rows) byText.set(text, [...(byText.get(text) ?? []), ...keys.filter((name) => name !== "=")]);
    return [...byText];
  };
  refill(dialog,
    make("div", { class: "row between" }, make("h2", { id: "help-title" }, "Keys"), make("button", { type: "button", onclick: () => dialog.close() }, "Close ", make("kbd", {}, "Esc"))),
    make("div", { class: "help-columns", tabindex: "0", role: "group", "aria-label": "List of keys" }, KEYS.map(([title, rows]) => make("section", {}, make("h3", {}, title),
      make("table", {}, make("tbody", {}, merged(rows).map(([text, keys]) => make("tr", {}, make("th", { scope: "row" }, keys.map((name) => make("kbd", {}, spelled(name)))), make("td", {}, text)))))))),
    make("p", {}, "Mouse: the wheel zooms; the right button drags window and level, the middle one the image, in any tool; a double click shows the whole image. Tab goes through boxes, ruler and controls."),
    make("label", {}, letters, " Single-letter keys are on"));
}
