// The page as a whole: which images are open, which is looked at, what is asked of the server.

import { Cases } from "./cases.js";
import { byId, download, make, refill } from "./elements.js";
import { fillHelp, listenToKeys } from "./keys.js";
import { Mammogram } from "./mammogram.js";
import { Mark } from "./mark.js";
import { Model } from "./model.js";
import { fadeSlider, NOTICE, Panel } from "./panel.js";
import { openReadingDialog, Reading } from "./reading.js";
import { veilOf } from "./saliency.js";
import { Problem, Server, ServerLost } from "./server.js";
import { fillToolbar } from "./toolbar.js";
import { View } from "./view.js";

const KEPT_IMAGES = 3; // decoded ones, most recent last; a large one has about 50 MB

export class Reader {
  constructor() {
    this.server = new Server();
    this.model = new Model(this.server);
    this.cases = new Cases(this.server, this, () => this.model.facts?.limits?.max_upload_bytes);
    this.decoded = new Map();
    this.reading = null;
    this.tool = "move";
    this.saliency = { on: false, opacity: 0.6 };
    this.views = ["A", "B"].map((name) => new View(name, this));
    this.view = this.views[0];
    this.isDouble = false;
    this.panel = new Panel(byId("panel"), {
      score: (mark) => this.score(mark),
      remove: (mark) => this.removed(this.view, mark),
      select: (mark) => { this.view.select(mark); this.view.showBox(mark); },
      toggleSaliency: () => this.toggleSaliency(),
      fadeSaliency: (opacity) => this.fadeSaliency(opacity),
      report: (format) => this.report(format),
      print: () => this.print(),
      mark: () => this.markMiddle(),
      picture: (name) => this.model.picture(name),
    });
  }

  async start() {
    byId("views").append(this.view.element);
    this.view.saying("Drop mammograms here: DICOM, PNG or JPEG");
    this.#listen();
    this.render();
    await this.connect();
  }

  #listen() {
    byId("open-files").onclick = () => this.chooseFiles();
    byId("files").onchange = (event) => { this.open([...event.target.files]); event.target.value = ""; };
    byId("start-reading").onclick = () => (this.reading ? this.leaveReading() : openReadingDialog(byId("reading"), this.server, (study) => this.beginReading(study)));
    byId("open-help").onclick = () => this.openHelp();
    document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
    document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
    document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); this.open([...event.dataTransfer.files]); });
    addEventListener("beforeprint", () => this.#layPaper());
    addEventListener("afterprint", () => byId("printed").replaceChildren());
    listenToKeys(this);
    this.server.addEventListener("lost", () => this.#lost());
    this.server.addEventListener("back", () => this.#back());
  }

  // -- the server

  async connect() {
    try {
      await this.model.refresh();
      await this.cases.refresh();
      this.#connected();
      await this.#showFirst();
    } catch (error) {
      if (error instanceof Problem) this.warns(error.status === 401 ? "The server asks for its token: open the address that it printed, with #token=..." : error.message);
    }
    this.render();
  }

  #connected() {
    byId("connection").textContent = "● Connected";
    byId("connection").className = "connection";
    byId("lost").hidden = true;
    byId("model").textContent = this.model.text;
  }

  #lost() {
    byId("connection").textContent = "✕ Server lost";
    byId("connection").className = "connection down";
    byId("lost").textContent = "✕ The server cannot be reached. Your images and marks stay on this page; it is tried again every 2 seconds.";
    byId("lost").hidden = false;
    this.reading?.clock.stop();
  }

  /** Take up again: a server that started anew gets the opened files again, and what waited is asked. */
  async #back() {
    await this.connect();
    if (this.server.isLost) return;
    this.says("The server is back.");
    await this.cases.sendLost();
    this.reading?.clock.go();
    if (this.view.case?.gone) this.says("This image is no longer on the server: open it again to score it.");
    for (const view of this.views) if (view.case && !view.mammogram) await this.show(view.case, view);
    for (const { marks, gone } of this.cases.all) for (const mark of marks) if (mark.state === "waiting" && !gone) this.score(mark);
    this.render();
  }

  async #showFirst() {
    if (this.view.case || this.reading) return;
    for (const first of this.cases.all) {
      await this.show(first);
      if (first.state !== "refused") break;
    }
  }

  // -- files

  chooseFiles() {
    if (!this.reading) byId("files").click();
  }

  async open(files) {
    if (this.reading) return this.warns("Files are not opened during a reader study.");
    if (files.length && !performance.getEntriesByName("file-chosen").length) performance.mark("file-chosen");
    let first = null;
    for (const file of files) first = (await this.cases.send(file)) ?? first;
    if (first) await this.show(first);
    this.render();
  }

  async close(closed) {
    if (!(await this.cases.remove(closed))) return;
    for (const view of this.views) if (view.case === closed) view.show(null, null);
    await this.#showFirst();
    this.render();
  }

  // -- looking

  async show(shown, view = this.view) {
    this.says("");
    view.show(null, null);
    view.case = shown;
    view.saying(`Loading ${shown.image.name} ...`);
    this.render();
    try {
      if (!shown.image.width) await this.cases.askFacts(shown);
      if (shown.state === "refused") throw new Problem(422, shown.image.reason || "The server refuses this image.");
      const mammogram = await this.#decode(shown.image.id);
      if (view.case !== shown) return; // another one was chosen meanwhile
      view.show(shown, mammogram);
      view.saying("");
    } catch (error) {
      if (error instanceof Problem && error.status < 500 && error.status !== 404) shown.image.state = "refused";
      view.saying(error instanceof ServerLost ? "Not loaded: the server cannot be reached. It will be loaded when it is back." : error.message);
    }
    if (view === this.view) this.#veil();
    this.render();
  }

  async #decode(id) {
    const found = this.decoded.get(id) ?? new Mammogram(await this.server.pixels(id));
    this.decoded.delete(id);
    this.decoded.set(id, found);
    for (const old of [...this.decoded.keys()].slice(0, -KEPT_IMAGES)) this.decoded.delete(old);
    return found;
  }

  step(by) {
    const { all } = this.cases;
    if (!this.reading && all.length) this.show(all[(all.indexOf(this.view.case) + by + all.length) % all.length]);
  }

  async toggleSecond() {
    const [first, second] = this.views;
    this.isDouble = !this.isDouble;
    byId("views").classList.toggle("double", this.isDouble);
    if (this.isDouble) {
      byId("views").append(second.element);
      const partner = !this.reading && first.case?.partner(this.cases.all);
      second.saying("No other image is open");
      if (partner) await this.show(partner, second);
    } else {
      second.element.remove();
      second.show(null, null);
      this.activated(first);
    }
    this.render();
  }

  otherView() {
    if (this.isDouble) this.views.find((view) => view !== this.view).canvas.focus();
  }

  useTool(tool) {
    this.tool = tool;
    for (const view of this.views) view.useTool(tool);
    this.#renderToolbar();
  }

  rule() {
    this.useTool("ruler");
    if (this.view.mammogram) this.view.ruleMiddle();
  }

  // -- what a view tells

  activated(view) {
    if (this.view === view) return;
    this.view = view;
    this.#veil();
    this.render();
  }

  windowed() {
    this.#renderToolbar();
  }

  selected(view) {
    if (view === this.view) this.#veil();
    this.render();
  }

  drawn(view, box) {
    const mark = new Mark(box);
    if (this.reading) view.case.marks.length = 0; // a study's case has one mass
    view.case.marks.push(mark);
    view.selected = mark;
    view.layer.rebuild();
    this.useTool("move");
    view.layer.focus(mark);
    this.#veil();
    this.render();
  }

  markMiddle() {
    const box = this.view.mammogram && this.view.middleBox;
    if (!box || this.reading?.showsModel) return;
    this.drawn(this.view, box);
    this.view.element.scrollIntoView({ block: "nearest" });
  }

  changed(view, mark) {
    view.layer.unanswer(mark);
    this.#veil();
    this.render();
  }

  removed(view, mark) {
    if (!mark || this.reading?.showsModel) return;
    view.case.marks = view.case.marks.filter((other) => other !== mark);
    view.selected = view.case.marks.at(-1) ?? null;
    view.layer.rebuild();
    view.canvas.focus();
    this.#veil();
    this.render();
  }

  confirmed(_view, mark) {
    this.score(mark);
  }

  get mark() {
    return this.view.selected;
  }

  // -- the model

  async score(mark = this.mark) {
    if (!mark) return this.says("Mark a mass first: press B, or choose Mark and drag a box round it.");
    if (mark.state === "asked" || mark.state === "answered") return;
    if (this.reading && !this.reading.showsModel) {
      byId("reader-slider").focus();
      return this.says("First give your own score.");
    }
    const asked = this.cases.of(mark);
    if (asked.gone) return this.warns("This image is no longer on the server: open it again to score it.");
    if (document.activeElement?.id === "score") this.view.layer.focus(mark); // the button goes, the keyboard stays
    const { version } = mark;
    const place = [asked.image.id, mark.whole];
    Object.assign(mark, { state: "asked", failure: "" });
    this.render();
    try {
      const assessment = await this.model.assessment(...place);
      if (mark.version !== version) return;
      Object.assign(mark, { state: "answered", assessment });
      this.says("The model has answered: see the findings."); // for ears; the score itself stands beside its notice
    } catch (error) {
      if (mark.version !== version) return;
      const waits = error instanceof ServerLost;
      Object.assign(mark, { state: waits ? "waiting" : "failed", failure: waits ? "Not scored yet: the server cannot be reached. It is asked again when the server is back." : error.message });
    }
    this.#rebuildMarks();
    this.render();
    if (mark.assessment?.malignancy == null) return;
    if (this.saliency.on) this.#askSaliency(mark);
    const similar = await this.model.similar(...place);
    if (mark.version !== version) return;
    mark.similar = similar;
    this.render();
  }

  #rebuildMarks() {
    for (const view of this.views) if (view.mammogram) view.layer.rebuild();
  }

  async toggleSaliency() {
    if (this.reading && !this.reading.showsModel) return;
    if (this.mark?.assessment?.malignancy == null) return this.says("Saliency comes with a score: ask the model first.");
    this.saliency.on = !this.saliency.on;
    this.says(this.saliency.on ? "Saliency on" : "Saliency off");
    await this.#askSaliency(this.mark);
  }

  async #askSaliency(mark) {
    if (this.saliency.on && !mark.saliency?.values) {
      const { version } = mark;
      const saliency = await this.model.saliency(this.cases.of(mark).image.id, mark.whole);
      if (mark.version !== version) return;
      mark.saliency = saliency;
    }
    this.#veil();
    this.render();
  }

  /** Lay the selected mass's saliency over its view, and over no other. */
  #veil() {
    const saliency = this.saliency.on && !(this.reading && !this.reading.showsModel) && this.mark?.saliency;
    for (const view of this.views) {
      const shown = view === this.view && saliency?.values ? saliency : null;
      if (view.veiledBy === shown) continue;
      view.veiledBy = shown;
      view.veil(shown && veilOf(shown), shown?.region, this.saliency.opacity);
    }
  }

  fadeSaliency(opacity) {
    this.saliency.opacity = opacity;
    if (this.view.veiled) this.view.veiled.canvas.style.opacity = opacity;
    fadeSlider(opacity);
  }

  async report(format) {
    const scored = this.view.case.marks.filter(({ assessment }) => assessment);
    try {
      const blob = await this.model.report(this.view.case.image.id, scored.map(({ whole }) => whole), format);
      download(blob, `diagnet-${this.view.case.image.name.replace(/\W+/g, "-")}.${format === "sr" ? "dcm" : "json"}`);
    } catch (error) {
      this.warns(error.message);
    }
  }

  print() {
    if (this.view.mammogram) globalThis.print();
  }

  #layPaper() {
    const paper = byId("printed");
    const { view } = this;
    if (!view.mammogram) return;
    paper.replaceChildren(make("p", { class: "notice" }, NOTICE), make("h1", {}, `DiagNet: ${view.case.title}`),
      make("p", {}, `${byId("model").textContent} · printed ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`), view.picture());
    for (const details of document.querySelectorAll("#panel details")) details.open = true;
  }

  // -- the reader study

  async beginReading(study) {
    this.reading = new Reading(this, study);
    if (this.isDouble) await this.toggleSecond();
    Object.assign(this.view.window, { preset: 0, inverted: false }); // every study begins alike
    this.readBefore = this.cases.all.map(({ marks }) => marks);
    for (const known of this.cases.all) known.marks = [];
    await this.showReading();
  }

  /** Show the study's next case, or its end; with the model only after the reader's own score. */
  async showReading() {
    const { reading } = this;
    const shown = this.cases.byId(reading.image);
    this.saliency.on = false;
    if (reading.image && !shown) this.warns("The study's next image is not on the server: start it with the same folder.");
    if (shown && reading.first && !shown.marks.length) shown.marks = [new Mark([...reading.first.box])];
    for (const known of this.cases.all) known.read = reading.cases.indexOf(known.image.id) >= 0 && reading.cases.indexOf(known.image.id) < reading.next;
    if (shown && (this.view.case !== shown || !this.view.mammogram)) await this.show(shown);
    else if (!shown) this.view.show(null, null);
    if (shown?.state === "refused") {
      this.warns(`${shown.image.name} cannot be read and is passed over.`);
      reading.unreadable.add(shown.image.id);
      return this.showReading();
    }
    reading.begin();
    this.render();
    if (shown && reading.showsModel) await this.score(this.mark);
    (this.mark ? byId("reader-slider") : this.view.canvas)?.focus({ preventScroll: true });
    byId("panel").scrollTop = 0;
  }

  leaveReading() {
    this.says(`The study ${this.reading.id} is kept by the server; go on with Reader study.`);
    this.reading = null;
    for (const [k, known] of this.cases.all.entries()) Object.assign(known, { marks: this.readBefore[k] ?? [], read: false });
    if (this.view.case) this.show(this.view.case);
    else this.render();
  }

  // -- the page

  openHelp() {
    fillHelp(byId("help"));
    byId("help").showModal();
  }

  says(text) {
    byId("says").className = "says";
    byId("says").textContent = text;
    return null;
  }

  warns(text) {
    refill(byId("says"), make("span", { role: "alert" }, `■ ${text}`));
    byId("says").className = "says warning";
    return null;
  }

  render() {
    document.body.classList.toggle("reading-on", Boolean(this.reading));
    byId("start-reading").textContent = this.reading ? "Pause study" : "Reader study";
    for (const view of this.views) view.element.classList.toggle("active", view === this.view);
    this.renderList();
    this.#renderToolbar();
    this.panel.show({ case: this.view.case, mark: this.mark, model: this.model, saliency: this.saliency, reading: this.reading, cases: this.cases.all.length });
  }

  #renderToolbar() {
    const { preset, inverted } = this.view.window;
    const key = [this.view.name, this.tool, preset, inverted, this.isDouble].join();
    if (key === this.toolbarKey) return; // a drag changes the window sixty times a second
    this.toolbarKey = key;
    fillToolbar(byId("toolbar"), this);
  }

  renderList() {
    this.cases.render(byId("list"), {
      looked: this.views.map((view) => view.case), current: this.view.case,
      choose: this.reading ? null : (shown) => this.show(shown), close: this.reading ? null : (closed) => this.close(closed),
    });
  }
}
