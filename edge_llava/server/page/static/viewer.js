/** Shows pictures: one large, others small. */

export class Viewer {
  constructor(dialog) {
    this.dialog = dialog;
    this.image = dialog.querySelector("img");
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // beside the picture
    });
  }

  open({ name, url }) {
    this.image.src = url;
    this.image.alt = name;
    this.dialog.showModal();
  }
}

/** A button that shows a picture small, and opens it. */
export function thumbnail(picture, onView) {
  const button = document.getElementById("picture").content.firstElementChild.cloneNode(true);
  button.firstElementChild.src = picture.url;
  button.setAttribute("aria-label", `View ${picture.name}`);
  button.addEventListener("click", () => onView(picture));
  return button;
}
