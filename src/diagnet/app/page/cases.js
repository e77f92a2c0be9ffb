// The list of images: what the server has, and what is sent to it.

import { Case, STATES } from "./case.js";
import { make, refill } from "./elements.js";
import { ServerLost } from "./server.js";

const READABLE = /\.(dcm|dicom|png|jpe?g|tiff?)$/i;
const UID_ENDING = /\.\d+$/; // DICOM files are often named by their UID alone
const LARGEST_UPLOAD = 128 * 2 ** 20; // where the server does not tell its own

const megabytes = (bytes) => `${Math.max(bytes / 2 ** 20, 0.1).toFixed(1)} MB`;
const pathOf = ({ image }) => `v1/images/${encodeURIComponent(image.id)}`;

export class Cases {
  /** `reader` says things; `largest()` is the largest upload, where the server told. */
  constructor(server, reader, largest) {
    this.server = server;
    this.reader = reader;
    this.largest = () => largest() ?? LARGEST_UPLOAD;
    this.all = [];
    this.describing = Promise.resolve();
  }

  of(mark) {
    return this.all.find(({ marks }) => marks.includes(mark));
  }

  byId(id) {
    return this.all.find(({ image }) => image.id === id) ?? null;
  }

  async refresh() {
    const images = await this.server.json("v1/images");
    const there = new Set(images.map(({ id }) => id));
    for (const known of this.all) known.gone = !there.has(known.image.id);
    for (const image of images) if (!this.byId(image.id)) this.#add(new Case(image));
  }

  #add(added) {
    this.all.push(added);
    // One after the other: a folder of mammograms would keep the server from everything else.
    this.describing = this.describing.then(() => this.#describe(added)).catch(() => {});
    return added;
  }

  /** Side, view and thumbnail come late: the server reads an image of its folder when it is asked for it. */
  async #describe(added) {
    if (!added.image.width) {
      await this.askFacts(added);
      this.reader.renderList();
    }
    if (added.state !== "refused") await added.drawThumbnail(this.server);
  }

  async askFacts(asked) {
    Object.assign(asked.image, await this.server.json(pathOf(asked)));
  }

  /** Send a file; its case, or null where it is not taken, which the reader is told in one line. */
  async send(file) {
    if (file.size > this.largest()) {
      return this.reader.warns(`${file.name} is too large: ${megabytes(file.size)}, at most ${megabytes(this.largest())} are taken.`);
    }
    if (!file.size) return this.reader.warns(`${file.name} is empty.`);
    if (file.name.includes(".") && !READABLE.test(file.name) && !UID_ENDING.test(file.name)) {
      return this.reader.warns(`${file.name} is not an image that can be read: DICOM, PNG, JPEG, TIFF or PGM.`);
    }
    const form = new FormData();
    form.append("file", file);
    this.reader.says(`Opening ${file.name} ...`);
    try {
      const image = await this.server.json("v1/images", form);
      this.reader.says("");
      const again = this.all.find((known) => known.file === file);
      if (again) return Object.assign(again, { image, gone: false });
      return this.byId(image.id) ?? this.#add(new Case(image, file));
    } catch (error) {
      this.reader.says("");
      return this.reader.warns(`${file.name}: ${error.message}`);
    }
  }

  /** A server that started anew gets the opened files again. */
  async sendLost() {
    for (const { file, gone } of [...this.all]) if (gone && file) await this.send(file);
  }

  /** Whether it was removed: not without the server, and not against the user's will. */
  async remove(removed) {
    if (removed.marks.length && !confirm(`Remove ${removed.title} and its marks from the list?`)) return false;
    try {
      if (!removed.gone) await this.server.remove(pathOf(removed));
    } catch (error) {
      if (error instanceof ServerLost) return Boolean(this.reader.warns(error.message));
    }
    this.all = this.all.filter((other) => other !== removed);
    return true;
  }

  /** `looked`: the cases in the views; `current`: the one looked at; `choose`, `close`: null while they must not. */
  render(element, { looked, current, choose, close }) {
    refill(element, this.all.map((shown, k) => make("li", {},
      make("button", {
        id: `case-${k + 1}`, type: "button", class: `case ${shown.state}`, "aria-disabled": String(!choose),
        "aria-current": shown === current ? "true" : null, onclick: () => choose?.(shown),
      }, shown.thumbnail, make("span", { class: "side" }, shown.side || "Side not known"),
      make("span", { class: "name" }, shown.image.name),
      make("span", { class: "state" }, STATES[shown.state], looked.slice(1).some(Boolean) && looked.includes(shown) ? ` · view ${"ABCD"[looked.indexOf(shown)]}` : "")),
      shown.file && close && make("button", {
        id: `close-${k + 1}`, type: "button", class: "close", "aria-label": `Remove ${shown.title}`, onclick: () => close(shown),
      }, "×"))));
  }
}
