// The page as a whole: which images are open, which is looked at, what is asked of the server.

import { PLACES } from "./case.js";
import { Cases } from "./cases.js";
import { byId, make, refill } from "./elements.js";
import { fillHelp, listenToKeys } from "./keys.js";
import { Mammogram } from "./mammogram.js";
import { Mark } from "./mark.js";
import { Model } from "./model.js";
import { Panel } from "./panel.js";
import { layPaper } from "./paper.js";
import { openReadingDialog, Reading } from "./reading.js";
import { Scorer } from "./scorer.js";
import { Problem, Server, ServerLost } from "./server.js";
import { fillToolbar } from "./toolbar.js";
import { View } from "./view.js";

const FOLDED = "diagnet.folded"; // which parts of the page are, kept by the browser
const KEPT_IMAGES = 4; // decoded ones, most recent last; a large one has about 50 MB

export class Reader {
  constructor() {
    this.server = new Server();
    this.model = new Model(this.server);
    this.cases = new Cases(this.server, this, () => this.model.facts?.limits?.max_upload_bytes);
    this.decoded = new Map();
    this.reading = null;
    this.tool = "move";
    this.folded = (localStorage.getItem(FOLDED) ?? "").split(" ").filter(Boolean);
    this.scorer = new Scorer(this);
    this.views = ["A", "B", "C", "D"].map((name) => new View(name, this));
    this.view = this.views[0];
    this.layout = 1; // views on the screen: 1, 2, or 4
    this.isLinked = true;
    this.isMagnified = false;
    this.panel = new Panel(byId("panel"), {
      score: (mark) => this.scorer.score(mark),
      remove: (mark) => this.removed(this.view, mark),
      select: (mark) => { this.view.select(mark); this.view.showBox(mark); },
      toggleSaliency: () => this.scorer.toggleSaliency(),
      fadeSaliency: (opacity) => this.scorer.fadeSaliency(opacity),
      report: (format) => this.scorer.report(format),
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
    byId("start-reading").onclick = () => (this.reading ? this.reading.leave() : openReadingDialog(byId("reading"), this.server, (study) => new Reading(this, study).enter()));
    byId("open-help").onclick = () => this.openHelp();
    document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
    document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
    document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); this.open([...event.dataTransfer.files]); });
    addEventListener("beforeprint", () => layPaper(this.view));
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
    document.querySelector("header .notice").textContent = this.model.facts.notice;
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
    for (const { marks, gone } of this.cases.all) for (const mark of marks) if (mark.state === "waiting" && !gone) this.scorer.score(mark);
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
      const mammogram = await this.#decode(shown);
      if (view.case !== shown) return; // another one was chosen meanwhile
      view.show(shown, mammogram);
      view.saying("");
      this.#comparePair();
    } catch (error) {
      if (error instanceof Problem && [404, 410].includes(error.status)) shown.gone = true;
      else if (error instanceof Problem && error.status < 500) shown.image.state = "refused";
      view.saying(error instanceof ServerLost ? "Not loaded: the server cannot be reached. It will be loaded when it is back." : error.message);
    }
    if (view === this.view) this.scorer.veil();
    this.render();
    if (this.layout === 2 && view === this.views[0] && view.case === shown) await this.#showPartner();
  }

  async #decode(shown, turn = shown.turn) {
    const key = shown.image.id + turn;
    let found = this.decoded.get(key);
    if (!found && turn) found = (await this.#decode(shown, "")).turned(turn);
    if (!found) {
      found = new Mammogram(await this.server.pixels(shown.image.id));
      shown.gone = false;
    }
    this.decoded.delete(key);
    this.decoded.set(key, found);
    for (const old of [...this.decoded.keys()].slice(0, -KEPT_IMAGES)) this.decoded.delete(old);
    return found;
  }

  /** Show an image that was chosen, where it hangs. */
  choose(shown) {
    return this.layout === 4 ? this.#hang(shown) : this.show(shown);
  }

  step(by) {
    const { all } = this.cases;
    if (!this.reading && all.length) this.choose(all[(all.indexOf(this.view.case) + by + all.length) % all.length]);
  }

  /** One view, two of a breast, or four of a study. */
  async layOut(n) {
    if (n === this.layout) return;
    if (this.reading && n > 1) return this.says("A reader study shows one image at a time.");
    const [first] = this.views;
    const looked = this.layout === 4 ? this.view.case : first.case;
    this.layout = n;
    byId("views").dataset.layout = n;
    for (const [k, view] of this.views.entries()) {
      if (k < n) byId("views").append(view.element);
      else view.element.remove();
      view.element.dataset.wall = view.wall = n === 4 ? { R: "right", L: "left" }[PLACES[k][0]] : "";
      if (k >= n) view.show(null, null);
      else view.fit();
    }
    this.activated(first);
    if (n === 4) await (looked ? this.#hang(looked) : null);
    else if (looked && first.case !== looked) await this.show(looked, first);
    else if (n === 2) await this.#showPartner();
    this.render();
  }

  toggleLayout(n) {
    return this.layOut(this.layout === n ? 1 : n);
  }

  stepLayout() {
    return this.layOut({ 1: 2, 2: 4, 4: 1 }[this.layout]);
  }

  /** Four views of a study, each at its place, or nothing and the reason. */
  async #hang(looked) {
    const hanging = looked.hanging(this.cases.all);
    this.activated(this.views[hanging.indexOf(looked)]);
    await Promise.all(this.views.map((view, k) => {
      if (hanging[k]) return view.case === hanging[k] && view.mammogram ? null : this.show(hanging[k], view);
      view.show(null, null);
      return view.saying(looked.image.unpaired ? looked.alone : `No ${PLACES[k].join(" ")} of the same patient and study here.`);
    }));
    this.render();
  }

  /** Beside view A stands the other view of the same breast in the same study, or nothing and the reason. */
  async #showPartner() {
    const [first, second] = this.views;
    const partner = !this.reading && first.case?.partner(this.cases.all);
    if (partner) return this.show(partner, second);
    second.show(null, null);
    second.saying(this.reading ? "A reader study shows one image at a time." : first.case?.alone ?? "No image is open.");
  }

  /** An image that was chosen for view B by hand may be another woman's: the view says so. */
  #comparePair() {
    const [{ case: first }, second] = this.views;
    const isOther = this.layout === 2 && first && second.case && first !== second.case && !first.pairs(second.case);
    second.doubt.textContent = isOther ? "≠ not shown to be the same patient, study and side as view A" : "";
    if (this.layout > 1 && second.case && !isOther && first?.image.by_patient_alone) this.says("Paired by patient and side: the table of --images tells no study.");
  }

  /** To the next view on the screen. */
  otherView() {
    if (this.layout === 1) return;
    const other = this.views[(this.views.indexOf(this.view) + 1) % this.layout];
    other.canvas.focus();
    this.activated(other); // an empty one takes no keyboard, and may be filled all the same
  }

  /** The views of a side are looked at alike. */
  moved(view) {
    if (!this.isLinked || !view.case?.image.laterality) return;
    for (const other of this.views) {
      if (other !== view && other.mammogram && other.case.image.laterality === view.case.image.laterality && other.case.isOfStudy(view.case)) other.follow(view);
    }
  }

  toggleLink() {
    this.isLinked = !this.isLinked;
    this.says(this.isLinked ? "Zoom and pan are linked within a side." : "Each view is zoomed and panned by itself.");
    this.#renderToolbar();
  }

  toggleGlass() {
    this.isMagnified = !this.isMagnified;
    this.#renderToolbar();
    for (const view of this.views) view.requestPaint();
  }

  /** Show a picture turned, or as stored; the marks go along, and the server knows nothing of it. */
  async turn(view, turn) {
    view.case.turnTo(turn);
    const { case: shown, selected } = view;
    await this.show(shown, view);
    if (selected) view.select(selected);
  }

  useTool(tool) {
    this.tool = tool;
    for (const view of this.views) view.useTool(tool);
    this.#renderToolbar();
  }

  // -- what folds away: the list of images and the findings, so that the image has the room

  fold(part) {
    const folded = this.folded.includes(part) ? this.folded.filter((other) => other !== part) : [...this.folded, part];
    this.#fold(folded);
  }

  foldAll() {
    this.#fold(this.folded.length ? [] : ["list", "panel"]);
  }

  /** What is said there must be seen. */
  unfoldPanel() {
    if (this.folded.includes("panel")) this.fold("panel");
  }

  #fold(folded) {
    this.folded = folded;
    localStorage.setItem(FOLDED, folded.join(" "));
    if (!this.isFolded("panel") || !byId("panel").contains(document.activeElement)) return this.render();
    this.view.canvas.focus();
    this.render();
  }

  isFolded(part) {
    return this.folded.includes(part) && !(part === "panel" && this.reading); // a reader study asks there
  }

  rule() {
    this.useTool("ruler");
    if (this.view.mammogram) this.view.ruleMiddle();
  }

  // -- what a view tells

  activated(view) {
    if (this.view === view) return;
    this.view.requestPaint(); // the glass goes along
    this.view = view;
    view.requestPaint();
    this.scorer.veil();
    this.render();
  }

  windowed() {
    this.#renderToolbar();
  }

  selected(view) {
    if (view === this.view) this.scorer.veil();
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
    this.scorer.veil();
    this.render();
  }

  /** One click inside a mass: the server suggests its box. */
  async clicked(view, place) {
    const { case: shown, mammogram } = view;
    if (!mammogram || place[0] < 0 || place[1] < 0 || place[0] >= mammogram.width || place[1] >= mammogram.height) return;
    if (this.reading) return this.says("In a reader study boxes are drawn by hand: drag a box round the mass.");
    if (shown.gone) return this.warns("This image is no longer on the server: open it again, or drag a box round the mass.");
    if (this.finding) return; // a double click means one mass
    this.finding = true;
    try {
      const { turn } = shown;
      const [x, y] = shown.turned([...place, ...place]);
      const box = await this.model.boxAt(shown.image.id, [x, y]);
      if (view.case !== shown || shown.turn !== turn || this.reading) return;
      this.drawn(view, shown.turned(box));
      this.says("A suggested box: correct it by its handles, or press Enter to ask the model.");
    } catch (error) {
      if (error.name !== "AbortError") this.warns(`${error.message} Drag a box round the mass instead.`);
    } finally {
      this.finding = false;
    }
  }

  clickPointer() {
    this.clicked(this.view, this.view.pointed);
  }

  markMiddle() {
    const box = this.view.mammogram && this.view.middleBox;
    if (!box || this.reading?.showsModel) return;
    this.drawn(this.view, box);
    this.view.element.scrollIntoView({ block: "nearest" });
  }

  changed(view, mark) {
    view.layer.unanswer(mark);
    this.scorer.veil();
    this.render();
  }

  removed(view, mark) {
    if (!mark || this.reading?.showsModel) return;
    view.case.marks = view.case.marks.filter((other) => other !== mark);
    view.selected = view.case.marks.at(-1) ?? null;
    view.layer.rebuild();
    view.canvas.focus();
    this.scorer.veil();
    this.render();
  }

  confirmed(_view, mark) {
    this.scorer.score(mark);
  }

  get mark() {
    return this.view.selected;
  }

  // -- the page

  print() {
    if (this.view.mammogram) globalThis.print();
  }

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
    for (const part of ["list", "panel"]) document.body.classList.toggle(`no-${part}`, this.isFolded(part));
    byId("model").hidden = this.reading?.showsModel === false;
    byId("start-reading").textContent = this.reading ? "Pause study" : "Reader study";
    for (const view of this.views) view.element.classList.toggle("active", view === this.view);
    this.renderList();
    this.#renderToolbar();
    this.panel.show({ case: this.view.case, mark: this.mark, model: this.model, saliency: this.scorer.saliency, reading: this.reading, cases: this.cases.all.length });
  }

  #renderToolbar() {
    const { preset, inverted } = this.view.window;
    const key = [this.view.name, this.tool, preset, inverted, this.layout, this.isLinked, this.isMagnified, this.isFolded("list"), this.isFolded("panel")].join();
    if (key === this.toolbarKey) return; // a drag changes the window sixty times a second
    this.toolbarKey = key;
    fillToolbar(byId("toolbar"), this);
  }

  renderList() {
    this.cases.render(byId("list"), {
      looked: this.views.map((view) => view.case), current: this.view.case,
      choose: this.reading ? null : (shown) => this.choose(shown), close: this.reading ? null : (closed) => this.close(closed),
    });
  }
}
