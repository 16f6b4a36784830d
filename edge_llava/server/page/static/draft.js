/** The question that is being written, with the pictures it will show. */

import { readPicture } from "./pictures.js";
import { thumbnail } from "./viewer.js";

export class Draft {
  #pictures = [];
  #nReading = 0;

  /** told: onChange, onFault(message), onView(picture). */
  constructor(form, told) {
    this.told = told;
    this.field = form.querySelector("textarea");
    this.list = form.querySelector("#shown");
    /** Resolved once all pictures are there that were added so far. */
    this.read = Promise.resolve();
    this.field.addEventListener("input", () => this.#changed());
  }

  /** Those that are still read among them. */
  get nPictures() {
    return this.#pictures.length + this.#nReading;
  }

  get isEmpty() {
    return this.nPictures === 0 && this.field.value.trim() === "";
  }

  /** What is asked if nothing is written. */
  get suggestion() {
    if (this.nPictures === 0) return "";
    return this.nPictures === 1 ? "Describe this picture." : "Describe these pictures.";
  }

  add(files) {
    this.#nReading += files.length;
    this.#drawPictures();
    this.focus();
    this.read = this.read.then(() => this.#readAll(files));
  }

  /** Gives what was written; the draft is empty then. */
  take() {
    const taken = { question: this.field.value.trim() || this.suggestion, pictures: this.#pictures };
    this.clear();
    return taken;
  }

  write(question) {
    this.field.value = question;
    this.#changed();
  }

  /** Puts a question back that was not answered, before what was written since. */
  putBack({ question, pictures }) {
    const later = this.field.value;
    this.#pictures = [...pictures, ...this.#pictures];
    this.field.value = later ? `${question}\n${later}` : question;
    this.#drawPictures();
  }

  clear() {
    this.field.value = "";
    this.#pictures = [];
    this.#drawPictures();
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  async #readAll(files) {
    const results = await Promise.allSettled(files.map(readPicture));
    this.#nReading -= files.length;
    this.#pictures.push(...results.flatMap(({ value }) => value ?? []));
    this.#drawPictures();
    const faults = results.flatMap(({ reason }) => reason?.message ?? []);
    if (faults.length > 0) this.told.onFault(faults.join(" "));
  }

  #remove(picture) {
    this.#pictures = this.#pictures.filter((other) => other !== picture);
    this.#drawPictures();
    this.focus();
  }

  #drawPictures() {
    this.list.replaceChildren(
      ...this.#pictures.map((picture) => this.#drawPicture(picture)),
      ...Array.from({ length: this.#nReading }, drawComing),
    );
    this.list.hidden = this.nPictures === 0;
    this.#changed();
  }

  #drawPicture(picture) {
    const item = document.getElementById("removable").content.firstElementChild.cloneNode(true);
    const remove = item.firstElementChild;
    remove.setAttribute("aria-label", `Remove ${picture.name}`);
    remove.addEventListener("click", () => this.#remove(picture));
    item.prepend(thumbnail(picture, this.told.onView));
    return item;
  }

  #changed() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.field.placeholder = this.suggestion || "Ask anything";
    this.told.onChange();
  }
}

function drawComing() {
  const item = document.createElement("li");
  item.className = "coming";
  return item;
}
