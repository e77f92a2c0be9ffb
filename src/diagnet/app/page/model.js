// What the server's model says: scores, similar cases, saliency, pictures of training masses, reports.

import { make } from "./elements.js";

const N_SIMILAR = 4;

const failureOf = (error) => (error.name === "AbortError" ? null : { failure: error.message });

const intervalOf = (auc) => (auc?.low == null ? "" : ` (${auc.low.toFixed(2)} to ${auc.high.toFixed(2)})`);

export class Model {
  #asked = new AbortController();

  constructor(server) {
    this.server = server;
    this.facts = null;
    this.pictures = new Map();
  }

  async refresh() {
    this.facts = await this.server.json("v1/model");
  }

  /** Whether the interval of the model's AUC holds chance. */
  get isBlind() {
    return this.facts?.auc?.low != null && this.facts.auc.low <= 0.5;
  }

  /** A sentence on the AUC of held-out masses of a source; "" where the run had one source. */
  aucOf(source) {
    const auc = this.facts?.auc_by_source?.[source];
    return auc?.value == null ? "" : ` On masses of that source the model's AUC is ${auc.value.toFixed(2)}${intervalOf(auc)}.`;
  }

  get hasPictures() {
    return (this.facts?.has_pictures ?? this.facts?.has_cases) !== false;
  }

  get text() {
    const { name, version, auc, n_training: n } = this.facts;
    return [
      `${this.facts.is_synthetic ? "SYNTHETIC model" : "Model"} ${name} ${version}`,
      auc?.value != null && `AUC ${this.#aucText}${this.isBlind ? ", not shown to be better than chance" : ""}`,
      n?.benign != null && `trained on ${n.benign + n.malignant} masses`,
    ].filter(Boolean).join(" · ");
  }

  /** The AUC; of each source where there are several, as one figure for all would be true of none. */
  get #aucText() {
    const bySource = Object.entries(this.facts.auc_by_source ?? {}).filter(([, auc]) => auc.value != null);
    return bySource.length
      ? bySource.map(([source, auc]) => `${auc.value.toFixed(2)}${intervalOf(auc)} on ${source}`).join(", ")
      : `${this.facts.auc.value.toFixed(2)}${intervalOf(this.facts.auc)}`;
  }

  /** Take back what is being asked: nothing that the model says of it arrives any more. */
  withdraw() {
    this.#asked.abort();
    this.#asked = new AbortController();
  }

  /** The box of the mass that a click lies in: a suggestion, and no finding. */
  async boxAt(image, [x, y]) {
    return (await this.server.json("v1/box", { image, x, y }, this.#asked.signal)).box;
  }

  async assessment(image, box) {
    return (await this.server.json("v1/predict", { image, boxes: [box] }, this.#asked.signal)).assessments[0];
  }

  /** Similar cases, or {failure} in one line: a score stands without them; null where it was taken back. */
  similar(image, box) {
    return this.server.json("v1/similar", { image, box, n: N_SIMILAR }, this.#asked.signal).catch(failureOf);
  }

  /** Saliency, or {failure} in one line; null where it was taken back. */
  saliency(image, box) {
    return this.server.json("v1/saliency", { image, box }, this.#asked.signal).catch(failureOf);
  }

  report(image, boxes, format) {
    return this.server.blob("v1/report", { image, boxes, format }, this.#asked.signal);
  }

  /** A training mass's region; without --data the server has pictures of synthetic neighbors ("n0", "n1", ...) alone. */
  picture(name) {
    const none = () => make("span", { class: "picture none" }, "no picture");
    if (!this.hasPictures && !name.startsWith("n")) return none();
    const image = make("img", { class: "picture", alt: "", width: 96, height: 96 });
    if (!this.pictures.has(name)) {
      const asked = this.server.blob(`v1/cases/${encodeURIComponent(name)}/picture`, undefined, this.#asked.signal);
      this.pictures.set(name, asked.then((blob) => URL.createObjectURL(blob)));
    }
    this.pictures.get(name).then((address) => Object.assign(image, { src: address, alt: `Training mass ${name}` }), () => {
      this.pictures.delete(name);
      image.replaceWith(none());
    });
    return image;
  }
}
