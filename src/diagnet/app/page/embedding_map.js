// The case among the training masses as the network places them, with its attracting and repelling neighbors.

import { make, makeSvg, refill } from "./elements.js";

const [WIDTH, HEIGHT, MARGIN] = [320, 240, 22];
const REACH_PX = 14; // of the pointer
const SHAPES = {
  benign: (r) => makeSvg("circle", { r }),
  malignant: (r) => makeSvg("path", { d: `M0 ${-1.25 * r}L${1.15 * r} ${r}H${-1.15 * r}Z` }),
};
const ARROWS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Place `points` on the picture, both axes by one factor: distances mean something. */
function placing(points) {
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = range(points.map(({ x }) => x));
  const [bottom, top] = range(points.map(({ y }) => y));
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (top - bottom || 1));
  return ({ x, y }) => [WIDTH / 2 + scale * (x - (left + right) / 2), HEIGHT / 2 - scale * (y - (bottom + top) / 2)];
}

class EmbeddingMap {
  constructor({ points, here, attracting, repelling }, picture) {
    this.here = here;
    this.picture = picture;
    this.current = -1;
    const edges = new Map([...attracting.map((name) => [name, "attracting"]), ...repelling.map((name) => [name, "repelling"])]);
    const far = ({ x, y }) => Math.hypot(x - here.x, y - here.y);
    this.drawn = points.map((point) => this.#drawn(point, edges.get(point.case))).sort((a, b) => far(a.point) - far(b.point));
    this.neighbors = this.drawn.filter(({ edge }) => edge);
    for (const neighbor of this.neighbors) neighbor.line = makeSvg("line", { class: `graph-edge ${neighbor.edge}` });
    this.cross = makeSvg("path", { class: "here", d: "M-9 0h18M0 -9v18" });
    this.svg = makeSvg("svg", {
      id: "map", class: "map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0", role: "img",
      "aria-label": `Map of ${points.length} training masses; this mass has ${attracting.length} attracting and ${repelling.length} repelling neighbors. Arrow keys step through them.`,
      onkeydown: (event) => this.#key(event), onpointermove: (event) => this.#point(event),
    }, this.drawn.filter(({ edge }) => !edge).map(({ shape }) => shape), this.neighbors.map(({ line }) => line),
    this.neighbors.map(({ shape }) => shape), this.cross);
    this.shown = make("div", { class: "map-mass", "aria-live": "polite" },
      make("p", { class: "soft" }, "Point at a mass to see it, or step through them with the arrow keys, nearest first."));
    this.switches = [["map-all", "All masses", false], ["map-near", "Its neighbors", true]].map(([id, text, near]) =>
      make("button", { id, type: "button", onclick: () => this.place(near) }, text));
    this.place(false);
  }

  #drawn(point, edge) {
    const synthetic = /neighbor|positive|negative/.test(point.kind ?? "");
    const shape = (SHAPES[point.label] ?? SHAPES.benign)(edge ? 5.5 : 3);
    shape.setAttribute("class", `point ${point.label} ${edge ?? ""} ${synthetic ? "synthetic" : ""}`);
    return { point, edge, synthetic, shape };
  }

  /** Show all masses, or come near enough to tell the neighbors apart. */
  place(near) {
    const place = placing([...(near && this.neighbors.length ? this.neighbors : this.drawn).map(({ point }) => point), this.here]);
    const at = ([x, y]) => `translate(${x} ${y})`;
    const middle = place(this.here);
    this.cross.setAttribute("transform", at(middle));
    for (const drawn of this.drawn) {
      drawn.place = place(drawn.point);
      drawn.shape.setAttribute("transform", at(drawn.place));
      for (const [k, [x, y]] of drawn.line ? [middle, drawn.place].entries() : []) {
        drawn.line.setAttribute(`x${k + 1}`, x);
        drawn.line.setAttribute(`y${k + 1}`, y);
      }
    }
    this.switches[0].setAttribute("aria-pressed", !near);
    this.switches[1].setAttribute("aria-pressed", near);
  }

  show(k) {
    this.drawn[this.current]?.shape.classList.remove("current");
    this.current = k;
    const { point, edge, synthetic, shape } = this.drawn[k];
    shape.classList.add("current");
    const facts = [`${point.label === "malignant" ? "▲" : "●"} ${point.label}`, edge && `${edge} neighbor in the graph`, synthetic && "synthetic, not a patient"];
    refill(this.shown, this.picture(point.case), make("p", {}, make("b", {}, `Case ${point.case}`), facts.filter(Boolean).map((fact) => [make("br"), fact]).flat()));
  }

  #key(event) {
    const step = ARROWS[event.key];
    if (!step || !this.drawn.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.show((Math.max(this.current, step < 0 ? 0 : -1) + step + this.drawn.length) % this.drawn.length);
  }

  #point(event) {
    const { left, top, width } = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top].map((value) => (value * WIDTH) / width);
    let [nearest, reach] = [-1, REACH_PX];
    for (const [k, drawn] of this.drawn.entries()) {
      const far = Math.hypot(drawn.place[0] - x, drawn.place[1] - y) - (drawn.edge ? 3 : 0); // neighbors are larger
      if (far < reach) [nearest, reach] = [k, far];
    }
    if (nearest >= 0 && nearest !== this.current) this.show(nearest);
  }
}

/** `picture(case)` gives an element that shows a training mass. */
export function embeddingMap(answer, picture) {
  const map = new EmbeddingMap(answer, picture);
  return make("div", {}, make("div", { class: "row", role: "group", "aria-label": "Part of the map" }, map.switches), map.svg, legend(), map.shown);
}

function legend() {
  const sample = (shape) => makeSvg("svg", { viewBox: "0 0 22 14", width: 22, height: 14, "aria-hidden": "true" }, shape);
  const line = (edge) => makeSvg("line", { class: `graph-edge ${edge}`, x1: 0, y1: 7, x2: 22, y2: 7 });
  const point = (label, kind = "") => {
    const shape = SHAPES[label](5);
    shape.setAttribute("class", `point ${label} ${kind}`);
    shape.setAttribute("transform", "translate(11 7)");
    return shape;
  };
  return make("ul", { class: "legend" }, [
    [makeSvg("path", { class: "here", d: "M3 7h16M11 0v14" }), "this mass"], [point("benign"), "benign"], [point("malignant"), "malignant"],
    [point("benign", "synthetic"), "hollow: synthetic"], [line("attracting"), "attracting"], [line("repelling"), "repelling"],
  ].map(([shape, text]) => make("li", {}, sample(shape), ` ${text}`)));
}
