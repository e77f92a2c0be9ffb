// What is said of the selected mass: score, meaning, decision, reasons, similar cases, map, downloads.

import { byId, make, percent, refill } from "./elements.js";
import { embeddingMap } from "./embedding_map.js";
import { sizeText } from "./mark.js";

export const NOTICE = "RESEARCH USE ONLY - NOT FOR CLINICAL USE";
const CALLS = {
  malignant: ["▲", "Malignant", "At or above the threshold."],
  benign: ["●", "Benign", "Below the threshold."],
  abstained: ["◆", "No call", "The model abstains. Do not read the score as a call."],
  refused: ["■", "Not scored", "The model refuses this mark."],
};
const tenths = (share) => (share == null ? null : `${(100 * share).toFixed(1)} %`);
const key = (name) => make("kbd", {}, name);

export class Panel {
  /** `actions`: score, remove, select, toggleSaliency, fadeSaliency, report, openFiles, mark, picture(case). */
  constructor(element, actions) {
    this.element = element;
    this.actions = actions;
  }

  /** `now`: {case, mark, model, saliency: {on, opacity}, reading} -- all that is shown, and nothing else. */
  show(now) {
    const { mark } = now;
    refill(this.element,
      now.reading?.card(now) ?? null,
      ...(now.reading?.showsModel === false ? [] : now.case ? this.#ofCase(now) : [this.#start(now)]));
    if (mark?.assessment && !performance.getEntriesByName("score-shown").length) performance.mark("score-shown");
  }

  #start({ cases }) {
    return make("div", { class: "card" }, make("h2", {}, "Start here"), make("ol", { class: "steps" },
      make("li", {}, cases ? "Choose an image on the left." : "Open a mammogram: drop DICOM, PNG or JPEG files anywhere, or press ", cases ? null : key("O")),
      make("li", {}, "Mark a mass: point at it and press ", key("C"), ", or choose Mark and click inside it or drag a box round it."),
      make("li", {}, "Press ", key("Enter"), " to ask the model.")));
  }

  #ofCase(now) {
    const { case: shown, mark } = now;
    if (!mark) {
      return [make("div", { class: "card" }, make("h2", {}, "No mass marked"),
        make("p", {}, "Point at the mass and press ", key("C"), ", or choose Mark and click inside it or drag a box round it. ", key("B"), " makes a box in the middle."),
        make("button", { id: "mark-here", type: "button", onclick: () => this.actions.mark() }, "Mark a mass"), this.#flags(shown.image.flags))];
    }
    const similar = mark.similar;
    return [
      this.#tabs(now),
      this.#score(now),
      mark.assessment?.malignancy != null && this.#saliency(now),
      similar && !similar.failure && this.#similar(now),
      similar?.map?.points?.length ? make("section", { class: "card", "aria-labelledby": "map-title" },
        make("h2", { id: "map-title" }, "Where the network places it"), this.#mapOf(mark)) : null,
      similar?.failure && make("div", { class: "card" }, make("h2", {}, "Similar cases"), make("p", { class: "soft" }, similar.failure)),
      mark.assessment && this.#downloads(now),
      mark.assessment && this.#record(mark.assessment, now.model),
    ];
  }

  // The map keeps its place in the page as long as it says the same, so that looking at it is not disturbed.
  #mapOf(mark) {
    mark.similar.element ??= embeddingMap(mark.similar.map, this.actions.picture);
    return mark.similar.element;
  }

  #tabs({ case: shown, mark }) {
    return make("div", { class: "masses", role: "group", "aria-label": "Marked masses" }, shown.marks.map((other, k) =>
      make("button", { id: `mass-${k + 1}`, type: "button", "aria-pressed": String(other === mark), onclick: () => this.actions.select(other) }, `Mass ${k + 1}`)),
    make("button", { id: "remove-mark", type: "button", class: "quiet", onclick: () => this.actions.remove(mark), "aria-keyshortcuts": "Delete" }, "Remove ", key("Del")));
  }

  #score({ case: shown, mark, model }) {
    const { assessment } = mark;
    const where = `${shown.title} · ${sizeText(...mark.size, shown.image.spacing_mm)}`;
    if (!assessment) {
      const asked = mark.state === "asked";
      return make("section", { class: "card", "aria-label": "Score" }, make("p", { class: "soft" }, where),
        make("button", { id: "score", class: "primary wide", type: "button", "aria-disabled": String(asked), "aria-keyshortcuts": "Enter", onclick: () => this.actions.score(mark) },
          asked ? "Scoring ..." : "Ask the model ", asked ? null : key("Enter")),
        mark.failure && make("p", { class: "refusal", role: "alert" }, "■ ", mark.failure));
    }
    const [symbol, call, meant] = CALLS[assessment.decision];
    const has = assessment.malignancy != null;
    return make("section", { id: "scored", class: `card call ${assessment.decision}`, "aria-label": "Score" },
      make("p", { class: "soft" }, where),
      model.facts?.is_synthetic && make("p", { class: "synthetic" }, "SYNTHETIC MODEL"),
      make("p", { class: "decision" }, make("span", { class: "symbol", "aria-hidden": "true" }, symbol), ` ${call}`),
      make("p", {}, assessment.reason || meant),
      has && make("p", { class: "malignancy" }, make("b", {}, percent(assessment.malignancy)), assessment.is_unlike ? " malignancy; calibration does not hold here" : " malignancy, calibrated"),
      has && this.#scale(assessment),
      has && make("p", { class: "meaning" }, meaningText(assessment, model)),
      make("p", { class: "reminder" }, model.facts?.notice ?? NOTICE),
      mark.similar?.disagreement && make("p", { id: "disagreement", class: "disagreement", role: "note" }, make("b", {}, "≠ Model and nearest cases disagree. "), mark.similar.disagreement),
      this.#flags([...(model.isBlind ? ["On masses it had not seen, this model was not shown to be better than chance."] : []), ...(assessment.flags ?? [])]));
  }

  #scale({ malignancy, threshold, meaning }) {
    const scale = make("div", { class: "scale", role: "img", "aria-label": `Malignancy ${percent(malignancy)}, threshold ${percent(threshold)}` },
      make("span", { class: "fill" }), make("span", { class: "tick" }), make("span", { class: "tick-name" }, `threshold ${percent(threshold)}`));
    scale.style.setProperty("--score", malignancy);
    scale.style.setProperty("--threshold", threshold);
    scale.classList.toggle("left", threshold > 0.6);
    if (meaning?.share?.low != null && meaning.share.high != null) {
      const range = make("span", { class: "range", title: "95 % interval of the fraction that was malignant" });
      range.style.setProperty("--low", meaning.share.low);
      range.style.setProperty("--high", meaning.share.high);
      scale.append(range);
    }
    return scale;
  }

  #flags(flags) {
    return flags?.length ? make("div", { class: "flags" }, make("h3", {}, "To know"), make("ul", {}, flags.map((flag) => make("li", {}, `⚑ ${flag}`)))) : null;
  }

  #saliency({ mark, saliency }) {
    return make("section", { class: "card", "aria-labelledby": "saliency-title" },
      make("h2", { id: "saliency-title" }, "What moved the score"),
      make("div", { class: "row" },
        make("button", { id: "saliency", type: "button", "aria-pressed": String(saliency.on), "aria-keyshortcuts": "S", onclick: () => this.actions.toggleSaliency() }, saliency.on ? "Hide saliency " : "Show saliency ", key("S")),
        make("label", { class: "opacity" }, "Opacity ", make("input", { id: "opacity", type: "range", min: 0, max: 100, value: Math.round(100 * saliency.opacity), oninput: (event) => this.actions.fadeSaliency(event.target.value / 100) }))),
      mark.saliency?.failure && make("p", { class: "refusal" }, mark.saliency.failure),
      mark.saliency?.method && make("p", { class: "soft" },
        `${mark.saliency.signs ? "Orange, plain: speaks for malignant. Blue, striped: for benign." : "The more opaque, the more influence."} Influence on the score, not disease.`),
      mark.saliency?.method && make("details", { id: "saliency-method" }, make("summary", {}, "How it is made"), make("p", { class: "soft" }, mark.saliency.method)));
  }

  #similar({ mark, model }) {
    const column = (label, symbol) => make("div", { class: `column ${label}` }, make("h3", {}, `${symbol} ${label}`),
      make("ul", {}, (mark.similar[label] ?? []).map((found) => make("li", { class: "similar" }, this.actions.picture(found.case),
        make("p", {}, make("b", {}, `Case ${found.case}`), make("br"), `distance ${found.distance.toFixed(3)}`,
          found.malignancy != null ? [make("br"), `scored ${percent(found.malignancy)}`] : null, make("br"),
          make("span", { class: "soft" }, `${found.label}: ${found.label_source || "source not recorded"}`))))));
    return make("section", { class: "card", "aria-labelledby": "similar-title" },
      make("h2", { id: "similar-title" }, "Similar training masses"),
      make("p", {}, "By the network's own distance; nearest first. The nearest of all is ", make("b", {}, mark.similar.nearest_label), "."),
      make("div", { class: "columns" }, column("benign", "●"), column("malignant", "▲")),
      !model.hasPictures && make("p", { class: "soft" }, "The server was started without --data: it has no pictures of them."));
  }

  #downloads() {
    return make("section", { class: "card downloads", "aria-labelledby": "downloads-title" }, make("h2", { id: "downloads-title" }, "Keep"),
      make("div", { class: "row" },
        make("button", { id: "keep-json", type: "button", onclick: () => this.actions.report("json") }, "JSON"),
        make("button", { id: "keep-sr", type: "button", onclick: () => this.actions.report("sr") }, "DICOM SR"),
        make("button", { id: "keep-print", type: "button", "aria-keyshortcuts": "Shift+P", onclick: () => this.actions.print() }, "Print or PDF ", key("Shift P"))));
  }

  #record(assessment, model) {
    const rows = [
      ["Uncalibrated", tenths(assessment.raw_malignancy)], ["Threshold", `${tenths(assessment.threshold)}${model.facts?.operating_point ? ` (${model.facts.operating_point})` : ""}`],
      ["Display", assessment.steps?.join(" · ")], ["Took", `${Math.round(assessment.latency_ms)} ms`],
      ["Model", assessment.model_sha256?.slice(0, 16)], ["Input", assessment.input_sha256?.slice(0, 16)],
    ];
    return make("details", { id: "record", class: "card" }, make("summary", {}, "Record"),
      make("dl", {}, rows.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
  }
}

/** "Of 39 masses with scores like this one (2 to 38 %), 11 were malignant: 28 %, 95 % interval 15 to 43 %." */
function meaningText({ meaning, is_unlike: isUnlike, training_source: source }, model) {
  if (isUnlike) return "What this score means is not known: none of the held-out masses looked like this one. The model's AUC does not hold here.";
  const whose = source ? ` of the source ${source}` : "";
  if (!meaning) return `How many masses scored like this were malignant is not known: the run kept no held-out scores${whose}.`;
  return meaning.text + model.aucOf(source);
}

export function fadeSlider(opacity) {
  const slider = byId("opacity");
  if (slider) slider.value = Math.round(100 * opacity);
}
