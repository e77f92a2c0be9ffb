// What is asked of the model about a mark, and what comes of it: score, similar cases, saliency, report.

import { byId, download } from "./elements.js";
import { fadeSlider } from "./panel.js";
import { veilOf } from "./saliency.js";
import { ServerLost } from "./server.js";

export class Scorer {
  /** `reader` is the page's Reader. */
  constructor(reader) {
    this.reader = reader;
    this.saliency = { on: false, opacity: 0.6 };
  }

  async score(mark = this.reader.mark) {
    if (!mark) return this.reader.says("Mark a mass first: press B, or choose Mark and drag a box round it.");
    if (mark.state === "asked" || mark.state === "answered") return;
    if (this.reader.reading?.showsModel === false) {
      byId("reader-slider").focus();
      return this.reader.says("First give your own score.");
    }
    const asked = this.reader.cases.of(mark);
    if (asked.gone) return this.reader.warns("This image is no longer on the server: open it again to score it.");
    if (document.activeElement?.id === "score") this.reader.view.layer.focus(mark); // the button goes, the keyboard stays
    this.reader.unfoldPanel();
    const { version } = mark;
    const place = [asked.image.id, asked.turned(mark.whole)];
    Object.assign(mark, { state: "asked", failure: "" });
    this.reader.render();
    try {
      const assessment = await this.reader.model.assessment(...place);
      if (mark.version !== version) return;
      Object.assign(mark, { state: "answered", assessment });
      if (this.reader.reading?.showsModel === false) return;
      this.reader.says("The model has answered: see the findings."); // for ears; the score itself stands beside its notice
    } catch (error) {
      if (mark.version !== version) return;
      if (error.name === "AbortError") return void (mark.state = "new"); // a reader study began meanwhile
      const waits = error instanceof ServerLost;
      Object.assign(mark, { state: waits ? "waiting" : "failed", failure: waits ? "Not scored yet: the server cannot be reached. It is asked again when the server is back." : error.message });
    }
    for (const view of this.reader.views) if (view.mammogram) view.layer.rebuild();
    this.reader.render();
    if (mark.assessment?.malignancy == null) return;
    if (this.saliency.on) this.#askSaliency(mark);
    await this.askSimilar(mark);
  }

  async askSimilar(mark) {
    if (this.reader.reading?.showsModel === false) return;
    const { version } = mark;
    const of = this.reader.cases.of(mark);
    const similar = await this.reader.model.similar(of.image.id, of.turned(mark.whole));
    if (mark.version !== version) return;
    mark.similar = similar;
    this.reader.render();
  }

  async toggleSaliency() {
    if (this.reader.reading?.showsModel === false) return;
    if (this.reader.mark?.assessment?.malignancy == null) return this.reader.says("Saliency comes with a score: ask the model first.");
    this.saliency.on = !this.saliency.on;
    this.reader.says(this.saliency.on ? "Saliency on" : "Saliency off");
    await this.#askSaliency(this.reader.mark);
  }

  async #askSaliency(mark) {
    if (this.saliency.on && !mark.saliency?.values) {
      const { version } = mark;
      const of = this.reader.cases.of(mark);
      const saliency = await this.reader.model.saliency(of.image.id, of.turned(mark.whole));
      if (mark.version !== version) return;
      mark.saliency = saliency;
    }
    this.veil();
    this.reader.render();
  }

  /** Lay the selected mass's saliency over its view, and over no other. */
  veil() {
    const saliency = this.saliency.on && this.reader.reading?.showsModel !== false && this.reader.mark?.saliency;
    for (const view of this.reader.views) {
      const shown = view === this.reader.view && saliency?.values ? saliency : null;
      if (view.veiledBy === shown) continue;
      view.veiledBy = shown;
      view.veil(shown && veilOf(shown), shown?.region, this.saliency.opacity);
    }
  }

  fadeSaliency(opacity) {
    this.saliency.opacity = opacity;
    if (this.reader.view.veiled) this.reader.view.veiled.canvas.style.opacity = opacity;
    fadeSlider(opacity);
  }

  async report(format) {
    const scored = this.reader.view.case.marks.filter(({ assessment }) => assessment);
    try {
      const blob = await this.reader.model.report(this.reader.view.case.image.id, scored.map(({ whole }) => this.reader.view.case.turned(whole)), format);
      download(blob, `diagnet-${this.reader.view.case.image.name.replace(/\W+/g, "-")}.${format === "sr" ? "dcm" : "json"}`);
    } catch (error) {
      if (error.name !== "AbortError") this.reader.warns(error.message);
    }
  }
}
