/** Shows images: one at full size, others as thumbnails. */

export class Viewer {
  constructor(dialog) {
    this.dialog = dialog;
    this.image = dialog.querySelector("img");
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // a click outside of the image
    });
  }

  open({ name, url }) {
    this.image.src = url;
    this.image.alt = name;
    this.dialog.showModal();
  }
}

/** A button that shows an image as a thumbnail, and opens it. */
export function thumbnail(image, onView) {
  const button = document.getElementById("thumbnail").content.firstElementChild.cloneNode(true);
  button.firstElementChild.src = image.url;
  button.setAttribute("aria-label", `View ${image.name}`);
  button.addEventListener("click", () => onView(image));
  return button;
}
