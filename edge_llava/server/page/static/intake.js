/** How images reach the page: they are dropped, pasted, chosen, or taken with a camera. */

import { Camera } from "./camera.js";
import { imagesOf } from "./images.js";

export class Intake {
  constructor(onImages, onFault) {
    this.onImages = onImages;
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
      const files = imagesOf(event.dataTransfer);
      if (files.length > 0) this.onImages(files);
      else this.onFault("That is not an image.");
    });
  }

  #paste(event) {
    if (document.querySelector("dialog[open]") || event.clipboardData.getData("text/plain")) return; // words
    const files = imagesOf(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    this.onImages(files);
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
        camera.open((file) => this.onImages([file])).catch((error) => this.onFault(error.message)),
      );
    }
  }

  #takeFrom(input) {
    input.addEventListener("change", () => {
      if (input.files.length > 0) this.onImages([...input.files]);
      input.value = ""; // the same file may be chosen again
    });
  }
}
