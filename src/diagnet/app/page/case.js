// An image that was opened: what the server says of it, the marks on it, the file it came from.

import { make } from "./elements.js";
import { Mark } from "./mark.js";

/** Where the four views hang: chest walls together. */
export const PLACES = [["R", "CC"], ["L", "CC"], ["R", "MLO"], ["L", "MLO"]];
const THUMBNAIL_PX = 160;
export const STATES = { new: "○ new", marked: "□ marked", scored: "● scored", unscored: "■ not scored", read: "✓ read", gone: "✕ lost", refused: "■ refused" };

export class Case {
  constructor(image, file = null) {
    this.image = image;
    this.file = file; // kept, so that it can be sent again to a server that started anew
    this.marks = (image.boxes ?? []).map((box) => new Mark(box));
    this.read = this.gone = false;
    this.turn = "";
    this.thumbnail = make("canvas", { class: "thumbnail", width: 1, height: 1, "aria-hidden": "true" });
  }

  get side() {
    return [this.image.laterality, this.image.view].filter(Boolean).join(" ");
  }

  get title() {
    return `${this.side || "Side not known"}, ${this.image.name}`;
  }

  get state() {
    if (this.gone) return "gone";
    if (this.image.state === "refused") return "refused";
    if (this.read) return "read";
    if (this.marks.some((mark) => mark.assessment?.malignancy != null)) return "scored";
    if (this.marks.some((mark) => mark.assessment)) return "unscored";
    return this.marks.length ? "marked" : "new";
  }

  async drawThumbnail(server) {
    const { width, height, pixels } = await server.pixels(this.image.id, THUMBNAIL_PX);
    [this.thumbnail.width, this.thumbnail.height] = [width, height];
    const image = new ImageData(width, height);
    for (let k = 0; k < pixels.length; k++) image.data.set([pixels[k] >> 8, pixels[k] >> 8, pixels[k] >> 8, 255], 4 * k);
    this.thumbnail.getContext("2d").putImageData(image, 0, 0);
  }

  /** Whether two images belong to the same study of the same patient; what is not known is never the same. */
  isOfStudy({ image: other }) {
    const { image } = this;
    return !image.unpaired && !other.unpaired && ["patient", "study", "by_patient_alone"].every((name) => image[name] === other[name]);
  }

  /** Whether two images show the same breast in the same study. */
  pairs(other) {
    return this.isOfStudy(other) && other.image.laterality === this.image.laterality && other.image.view !== this.image.view;
  }

  /** What hangs at each of PLACES beside this image: a case, or null. */
  hanging(cases) {
    const there = [this, ...cases.filter((other) => other !== this && !other.gone && other.image.state !== "refused" && this.isOfStudy(other))];
    const found = PLACES.map(([side, view]) => there.find(({ image }) => image.laterality === side && image.view === view) ?? null);
    return found.includes(this) ? found : [this, null, null, null];
  }

  /** A box in pixels of the file as it lies in the picture as shown; and the other way round, for it is the same. */
  turned([x0, y0, x1, y1]) {
    const { width, height } = this.image;
    if (this.turn) [x0, x1] = [width - x1, width - x0];
    if (this.turn === "half") [y0, y1] = [height - y1, height - y0];
    return [x0, y0, x1, y1];
  }

  /** Show the picture otherwise: "" as stored, "mirror" left for right, "half" by half a turn. */
  turnTo(turn) {
    const inFile = this.marks.map(({ box }) => this.turned(box));
    this.turn = turn;
    for (const [k, mark] of this.marks.entries()) mark.box = this.turned(inFile[k]);
  }

  /** On which side of the picture its chest wall belongs. */
  get wall() {
    return { L: "left", R: "right" }[this.image.laterality] ?? "";
  }

  /** The other view of the same breast in the same study, or null. */
  partner(cases) {
    return cases.find((other) => other !== this && !other.gone && other.image.state !== "refused" && this.pairs(other)) ?? null;
  }

  /** Why there is no other view to stand beside this one. */
  get alone() {
    return this.image.unpaired ? `No second view: ${this.image.unpaired}.` : "No second view: no other image here is of the same patient, study and side.";
  }
}
