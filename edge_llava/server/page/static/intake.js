/** The ways by which pictures come in: dropped, pasted, chosen, taken. */

import { Camera } from "./camera.js";
import { picturesOf } from "./pictures.js";

export class Intake {
  constructor(onPictures, onFault) {
    this.onPictures = onPictures;
    this.onFault = onFault;
    this.overlay = document.getElementById("drop");
    this.#listenToDrops();
    document.addEventListener("paste", (event) => this.#paste(event));
    this.#offerFiles();
    if (Camera.isThere) this.#offerCamera();
  }

  #listenToDrops() {
    const onDrag = (type, handle) =>
      document.addEventListener(type, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        handle(event);
      });
    const show = (isOver) => (this.overlay.hidden = !isOver);
    onDrag("dragover", () => show(true));
    onDrag("dragleave", ({ relatedTarget }) => show(relatedTarget !== null)); // null: outside the window
    onDrag("drop", (event) => {
      show(false);
      const files = picturesOf(event.dataTransfer);
      if (files.length > 0) this.onPictures(files);
      else this.onFault("That is no picture.");
    });
  }

  #paste(event) {
    if (document.querySelector("dialog[open]") || event.clipboardData.getData("text/plain")) return; // words
    const files = picturesOf(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    this.onPictures(files);
  }

  #offerFiles() {
    const input = document.getElementById("files");
    for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => input.click());
    this.#takeFrom(input);
  }

  #offerCamera() {
    const input = document.getElementById("phone-camera");
    const camera = new Camera(document.getElementById("camera"), input);
    this.#takeFrom(input);
    for (const button of document.querySelectorAll("[data-camera]")) {
      button.hidden = false;
      button.addEventListener("click", () =>
        camera.open((file) => this.onPictures([file])).catch((error) => this.onFault(error.message)),
      );
    }
  }

  #takeFrom(input) {
    input.addEventListener("change", () => {
      if (input.files.length > 0) this.onPictures([...input.files]);
      input.value = ""; // the same file may be chosen again
    });
  }
}
