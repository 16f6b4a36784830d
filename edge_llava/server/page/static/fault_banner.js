/** Shows above the composer what went wrong, and what to do. */

export class FaultBanner {
  #waiting = 0;

  constructor(element) {
    this.element = element;
    this.text = element.querySelector("p");
    element.querySelector("[data-dismiss]").addEventListener("click", () => this.hide());
  }

  /** retryS: seconds after which to try again. */
  show(message, retryS = 0) {
    clearTimeout(this.#waiting);
    this.element.hidden = false;
    this.text.textContent = retryS > 0 ? `${message} Send it again in ${retryS} s.` : message;
    // twice and not every second: screen readers read it out
    if (retryS > 0) this.#waiting = setTimeout(() => this.show(`${message} Send it again now.`), retryS * 1000);
  }

  hide() {
    clearTimeout(this.#waiting);
    this.element.hidden = true;
    this.text.textContent = "";
  }
}
