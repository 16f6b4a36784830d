/** The question that is being written, and its images. */

import { readImage } from "./images.js";
import { thumbnail } from "./viewer.js";

export class Draft {
  #images = [];
  #nReading = 0;
  #reading = Promise.resolve(); // of all images that were added so far
  #generation = 0; // of the draft: what was added to an earlier one is dropped

  /** hooks: onChange, onImages when others were chosen, onFault(message), onView(image). */
  constructor(form, hooks) {
    this.hooks = hooks;
    this.field = form.querySelector("textarea");
    this.list = form.querySelector("#shown");
    this.field.addEventListener("input", () => this.#changed());
  }

  /** Includes those that are still being read. */
  get nImages() {
    return this.#images.length + this.#nReading;
  }

  /** Those that were read. */
  get images() {
    return this.#images;
  }

  get isEmpty() {
    return this.nImages === 0 && this.field.value.trim() === "";
  }

  /** The question that is asked if none is written. */
  get suggestion() {
    if (this.nImages === 0) return "";
    return this.nImages === 1 ? "Describe this image." : "Describe these images.";
  }

  add(files) {
    this.#nReading += files.length;
    this.#drawImages();
    this.focus();
    const generation = this.#generation;
    this.#reading = this.#reading.then(() => this.#readAll(files, generation));
  }

  /** Resolves once no image is being read. */
  async read() {
    let read;
    do {
      read = this.#reading;
      await read;
    } while (read !== this.#reading); // more were added
  }

  /** Returns the question and its images, and empties the draft. */
  take() {
    const taken = { question: this.field.value.trim() || this.suggestion, images: this.#images };
    this.clear();
    return taken;
  }

  write(question) {
    this.field.value = question;
    this.#changed();
  }

  /** Restores a question that was not answered, before what was written since. */
  putBack({ question, images }) {
    const later = this.field.value;
    this.#images = [...images, ...this.#images];
    this.field.value = later ? `${question}\n${later}` : question;
    this.#drawImages();
  }

  /** Drops images that are still being read, too. */
  clear() {
    this.#generation += 1;
    this.#nReading = 0;
    this.#reading = Promise.resolve();
    this.field.value = "";
    this.#images = [];
    this.#drawImages();
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  async #readAll(files, generation) {
    const results = await Promise.allSettled(files.map(readImage));
    if (generation !== this.#generation) return;
    this.#nReading -= files.length;
    this.#images.push(...results.flatMap(({ value }) => value ?? []));
    this.#drawImages();
    this.hooks.onImages();
    const faults = results.flatMap(({ reason }) => reason?.message ?? []);
    if (faults.length > 0) this.hooks.onFault(faults.join(" "));
  }

  #remove(image) {
    this.#images = this.#images.filter((other) => other !== image);
    this.#drawImages();
    this.hooks.onImages();
    this.focus();
  }

  #drawImages() {
    this.list.replaceChildren(
      ...this.#images.map((image) => this.#drawImage(image)),
      ...Array.from({ length: this.#nReading }, drawComing),
    );
    this.list.hidden = this.nImages === 0;
    this.#changed();
  }

  #drawImage(image) {
    const item = document.getElementById("removable").content.firstElementChild.cloneNode(true);
    const remove = item.firstElementChild;
    remove.setAttribute("aria-label", `Remove ${image.name}`);
    remove.addEventListener("click", () => this.#remove(image));
    item.prepend(thumbnail(image, this.hooks.onView));
    return item;
  }

  #changed() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.field.placeholder = this.suggestion || "Ask anything";
    this.hooks.onChange();
  }
}

function drawComing() {
  const item = document.createElement("li");
  item.className = "coming";
  return item;
}
