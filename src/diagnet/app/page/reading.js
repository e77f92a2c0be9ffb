// A reader study: each case first without the model, then with it; scores and seconds go to the server at once.

import { byId, clamp, download, make, refill } from "./elements.js";
import { Mark } from "./mark.js";

const REMEMBERED = "diagnet.reading";

/** Seconds in which the case could be read: none while the page is hidden or the server is lost. */
class Clock {
  constructor() {
    this.restart();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.go()));
  }

  restart() {
    this.seconds = 0;
    this.since = document.hidden ? null : performance.now();
  }

  stop() {
    if (this.since !== null) this.seconds += (performance.now() - this.since) / 1000;
    this.since = null;
  }

  go() {
    this.since ??= performance.now();
  }

  get read() {
    return this.seconds + (this.since === null ? 0 : (performance.now() - this.since) / 1000);
  }
}

export class Reading {
  /** `reader` is the page's Reader: it shows cases and says things. */
  constructor(reader, { id, reader: name, cases, scores = [] }) {
    Object.assign(this, { reader, id, name, cases, scores });
    this.unreadable = new Set(); // images that the server refuses or lacks: there is nothing to read
    this.clock = new Clock();
    this.saving = false;
    localStorage.setItem(REMEMBERED, id);
  }

  static get remembered() {
    return localStorage.getItem(REMEMBERED);
  }

  #given(stage, image) {
    return this.scores.find((score) => score.image === image && score.stage === stage);
  }

  get next() {
    const isRead = (image) => this.#given("with", image) || this.#given("without", image)?.no_mass || this.unreadable.has(image);
    const next = this.cases.findIndex((image) => !isRead(image));
    return next < 0 ? this.cases.length : next;
  }

  get image() {
    return this.cases[this.next] ?? null;
  }

  get stage() {
    return this.#given("without", this.image) ? "with" : "without";
  }

  get showsModel() {
    return this.image !== null && this.stage === "with";
  }

  get first() {
    return this.#given("without", this.image);
  }

  /** Begin, or go on: the page shows the study's cases and no other marks. */
  async enter() {
    const { reader } = this;
    reader.reading = this;
    await reader.layOut(1);
    Object.assign(reader.view.window, { preset: 0, inverted: false }); // every study begins alike
    this.marksBefore = reader.cases.all.map(({ marks }) => marks);
    for (const known of reader.cases.all) known.marks = [];
    for (const view of reader.views) view.show(null, null); // with boxes, calls and veils that were on it
    reader.says("");
    await this.show();
  }

  /** Show the next case, or the end; with the model only after the reader's own score. */
  async show() {
    const { reader } = this;
    const shown = reader.cases.byId(this.image);
    reader.scorer.saliency.on = false;
    if (!this.showsModel) reader.model.withdraw();
    if (shown && this.first && !shown.marks.length) shown.marks = [new Mark(shown.turned(this.first.box))];
    for (const known of reader.cases.all) known.read = this.cases.slice(0, this.next).includes(known.image.id);
    if (shown && (reader.view.case !== shown || !reader.view.mammogram)) await reader.show(shown);
    else if (!shown) reader.view.show(null, null);
    if (this.image && (!shown || shown.gone || shown.state === "refused")) {
      const told = shown?.state === "refused" ? `${shown.image.name} cannot be read and is passed over.`
        : `The image of case ${this.next + 1} is no longer here and is passed over. Go on with the study when it is back.`;
      this.unreadable.add(this.image);
      await this.show();
      return reader.warns(told); // after what the next image says
    }
    this.#begin();
    reader.render();
    if (shown && this.showsModel) await reader.scorer.score();
    (reader.mark ? byId("reader-slider") : reader.view.canvas)?.focus({ preventScroll: true });
    byId("panel").scrollTop = 0;
  }

  leave() {
    const { reader } = this;
    reader.says(`The study ${this.id} is kept by the server; go on with Reader study.`);
    reader.reading = null;
    for (const [k, known] of reader.cases.all.entries()) Object.assign(known, { marks: this.marksBefore[k] ?? [], read: false });
    if (reader.view.case) reader.show(reader.view.case);
    else reader.render();
    const answered = reader.cases.all.flatMap(({ marks }) => marks).filter(({ assessment }) => assessment?.malignancy != null);
    for (const mark of answered) if (!mark.similar) reader.scorer.askSimilar(mark); // it was taken back
  }

  /** Begin to time what is shown now. */
  #begin() {
    this.score = null;
    this.clock.restart();
  }

  card({ mark }) {
    if (this.image === null) return this.#finished();
    const { stage } = this;
    const changed = (value) => {
      this.score = value;
      byId("reader-slider").value = byId("reader-score").value = value;
      byId("save-score").setAttribute("aria-disabled", "false");
    };
    const input = (id, type) => make("input", {
      id, type, min: 0, max: 100, step: 1, value: this.score ?? (type === "range" ? 50 : ""),
      oninput: (event) => event.target.value !== "" && changed(Math.round(clamp(Number(event.target.value), 0, 100))),
      onkeydown: (event) => event.key === "Enter" && this.save(),
    });
    return make("section", { class: "card reading", "aria-labelledby": "reading-step" },
      make("p", { class: "soft" }, `Reader ${this.name} · case ${this.next + 1} of ${this.cases.length} · time is recorded`),
      make("h2", { id: "reading-step" }, stage === "without" ? "1 of 2: read it without the model" : "2 of 2: read it with the model"),
      make("p", {}, stage === "without" ? (mark ? "Give your score, then the model's is shown." : "Mark the mass (B, or Mark and drag), then give your score.")
        : `You gave ${this.first.score}. Look at what the model says, then give a score again.`),
      make("label", { for: "reader-slider" }, "How likely is malignancy? 0 surely benign, 100 surely malignant"),
      make("div", { class: "row" }, input("reader-slider", "range"), make("label", { class: "hidden", for: "reader-score" }, "Score, 0 to 100"), input("reader-score", "number")),
      make("div", { class: "row" },
        make("button", { id: "save-score", type: "button", class: "primary", "aria-disabled": String(this.score === null || !mark), onclick: () => this.save() },
          stage === "without" ? "Save, show the model" : "Save, next case"),
        stage === "without" && make("button", { id: "no-mass", type: "button", onclick: () => this.saveNoMass() }, "No mass, next case"),
        make("button", { id: "pause-reading", type: "button", class: "quiet", onclick: () => this.leave() }, "Pause")));
  }

  #finished() {
    return make("section", { class: "card reading" }, make("h2", {}, "All cases are read"),
      make("p", {}, `Reader ${this.name}: ${this.cases.length} cases, each without and with the model${this.unreadable.size ? `; ${this.unreadable.size} of them passed over` : ""}.`),
      make("div", { class: "row" },
        make("button", { id: "keep-csv", type: "button", class: "primary", onclick: () => this.exportCsv() }, "Download iMRMC CSV"),
        make("button", { id: "pause-reading", type: "button", onclick: () => this.leave() }, "Leave the study")));
  }

  async save() {
    const { mark } = this.reader;
    if (this.saving) return;
    if (!mark) return this.reader.says("Mark the mass first: press B, or choose Mark and drag a box round it.");
    if (this.score === null) return this.reader.says("Give a score first, with the slider or as a number.");
    await this.#keep({ box: this.reader.view.case.turned(mark.whole), stage: this.stage, score: this.score });
  }

  /** There is nothing for the model to score: the case is read. */
  async saveNoMass() {
    if (this.saving) return;
    if (this.reader.mark) return this.reader.says("A mass is marked: remove it first (Delete), or give it a score.");
    await this.#keep({ box: null, stage: "without", score: 0, no_mass: true });
  }

  async #keep(given) {
    const entry = { image: this.image, ...given, seconds: Math.round(100 * this.clock.read) / 100 };
    this.saving = true;
    try {
      await this.reader.server.json(`v1/reading/${encodeURIComponent(this.id)}/scores`, entry);
      this.scores.push(entry);
    } catch (error) {
      return this.reader.warns(`Your score was not saved: ${error.message} Save it again.`);
    } finally {
      this.saving = false;
    }
    this.#begin();
    await this.show();
  }

  async exportCsv() {
    try {
      download(await this.reader.server.blob(`v1/reading/${encodeURIComponent(this.id)}/imrmc.csv`), `reading-${this.id}-imrmc.csv`);
    } catch (error) {
      this.reader.warns(error.message);
    }
  }
}

/** Ask who reads, and which study goes on, if one does; calls `begin(answer)` with what the server says of the study. */
export function openReadingDialog(dialog, server, begin) {
  const problem = make("p", { class: "refusal", role: "alert" });
  const ask = async (path, body) => {
    try {
      const study = await server.json(path, body);
      if (study.reader !== name.value) throw new Error("This study was begun under another reader's code: begin one of your own.");
      dialog.close();
      begin(study);
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const name = make("input", { id: "reader-name", required: true, maxlength: 32, pattern: "[A-Za-z0-9_\\-]+", autocomplete: "off" });
  const seed = make("input", { id: "reader-seed", type: "number", min: 0, max: 2147483647, placeholder: "drawn", autocomplete: "off" });
  const known = make("input", { id: "reader-known", value: Reading.remembered ?? "", maxlength: 64, autocomplete: "off" });
  const goOn = () => name.reportValidity() && known.value && ask(`v1/reading/${encodeURIComponent(known.value)}`);
  refill(dialog,
    make("h2", { id: "reading-title" }, "Reader study"),
    make("p", {}, "Every image of the server's list comes once, in random order. You read it first without the model, then with it. Scores and times are kept by the server; you may stop at any time and go on later. Each reader has a code and a study of their own."),
    make("form", { onsubmit: (event) => { event.preventDefault(); ask("v1/reading", { reader: name.value, ...(seed.value && { seed: Number(seed.value) }) }); } },
      make("label", {}, "Your reader code (no name) ", name), make("label", {}, "Seed of the order ", seed),
      make("button", { id: "begin-reading", class: "primary", type: "submit" }, "Begin")),
    make("form", { onsubmit: (event) => { event.preventDefault(); goOn(); } },
      make("label", {}, "Study to go on with, under your code ", known), make("button", { id: "resume-reading", type: "submit" }, "Go on")),
    problem,
    make("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"));
  dialog.showModal();
  name.focus();
}
