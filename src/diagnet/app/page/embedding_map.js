// The case among the training masses as the network places them, with its attracting and repelling neighbors.

import { make, makeSvg, refill } from "./elements.js";

const [WIDTH, HEIGHT, MARGIN] = [320, 240, 14];
const SHAPES = {
  benign: (x, y, r) => makeSvg("circle", { cx: x, cy: y, r }),
  malignant: (x, y, r) => makeSvg("path", { d: `M${x} ${y - 1.25 * r}L${x + 1.15 * r} ${y + r}H${x - 1.15 * r}Z` }),
};

/** Map points to the picture, both axes by one factor: distances mean something. */
function placing(points) {
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = range(points.map(({ x }) => x));
  const [bottom, top] = range(points.map(({ y }) => y));
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (top - bottom || 1));
  return ({ x, y }) => [WIDTH / 2 + scale * (x - (left + right) / 2), HEIGHT / 2 - scale * (y - (bottom + top) / 2)];
}

/** `picture(case)` gives an element that shows a training mass. */
export function embeddingMap({ points, here, attracting, repelling }, picture) {
  const place = placing([...points, here]);
  const middle = place(here);
  const edges = new Map([...attracting.map((name) => [name, "attracting"]), ...repelling.map((name) => [name, "repelling"])]);
  const shown = make("div", { class: "map-mass", "aria-live": "polite" },
    make("p", { class: "soft" }, "Point at a mass to see it, or step through them with the arrow keys, nearest first."));
  const drawn = points.map((point) => {
    const [x, y] = place(point);
    const edge = edges.get(point.case);
    const synthetic = point.kind && point.kind !== "original" && point.kind !== 0;
    const shape = SHAPES[point.label]?.(x, y, edge ? 5 : 3) ?? SHAPES.benign(x, y, 3);
    shape.setAttribute("class", `point ${point.label} ${edge ?? ""} ${synthetic ? "synthetic" : ""}`);
    return { point, x, y, edge, synthetic, shape, far: Math.hypot(x - middle[0], y - middle[1]) };
  }).sort((a, b) => a.far - b.far);

  let current = -1;
  const show = (k) => {
    drawn[current]?.shape.classList.remove("current");
    current = k;
    const { point, edge, synthetic, shape } = drawn[k];
    shape.classList.add("current");
    const facts = `${point.label === "malignant" ? "▲" : "●"} ${point.label}${edge ? `, ${edge} neighbor` : ""}${synthetic ? ", synthetic" : ""}`;
    refill(shown, synthetic ? null : picture(point.case), make("p", {}, make("b", {}, `Case ${point.case}`), make("br"), facts));
  };
  const lines = drawn.filter(({ edge }) => edge).map(({ x, y, edge }) =>
    makeSvg("line", { class: `graph-edge ${edge}`, x1: middle[0], y1: middle[1], x2: x, y2: y }));
  const svg = makeSvg("svg", {
    id: "map", class: "map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0", role: "img",
    "aria-label": `Map of ${points.length} training masses; this mass has ${attracting.length} attracting and ${repelling.length} repelling neighbors`,
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step || !drawn.length) return;
      event.preventDefault();
      event.stopPropagation();
      show((Math.max(current, step < 0 ? 0 : -1) + step + drawn.length) % drawn.length);
    },
    onpointermove: (event) => {
      const { left, top, width } = svg.getBoundingClientRect();
      const at = [event.clientX - left, event.clientY - top].map((value) => (value * WIDTH) / width);
      let nearest = -1, reach = 12;
      for (const [k, { x, y }] of drawn.entries()) {
        const far = Math.hypot(x - at[0], y - at[1]);
        if (far < reach) [nearest, reach] = [k, far];
      }
      if (nearest >= 0 && nearest !== current) show(nearest);
    },
  }, drawn.filter(({ edge }) => !edge).map(({ shape }) => shape), lines, drawn.filter(({ edge }) => edge).map(({ shape }) => shape),
  makeSvg("path", { class: "here", d: `M${middle[0] - 9} ${middle[1]}h18M${middle[0]} ${middle[1] - 9}v18` }),
  makeSvg("circle", { class: "here", cx: middle[0], cy: middle[1], r: 6 }));
  return make("div", {}, svg, legend(), shown);
}

function legend() {
  const sample = (shape) => makeSvg("svg", { viewBox: "0 0 22 14", width: 22, height: 14, "aria-hidden": "true" }, shape);
  const line = (edge) => makeSvg("line", { class: `graph-edge ${edge}`, x1: 0, y1: 7, x2: 22, y2: 7 });
  const point = (label) => {
    const shape = SHAPES[label](11, 7, 5);
    shape.setAttribute("class", `point ${label}`);
    return shape;
  };
  return make("ul", { class: "legend" }, [
    [makeSvg("path", { class: "here", d: "M3 7h16M11 0v14" }), "this mass"], [point("benign"), "benign"], [point("malignant"), "malignant"],
    [line("attracting"), "attracting"], [line("repelling"), "repelling"],
  ].map(([shape, text]) => make("li", {}, sample(shape), ` ${text}`)));
}
