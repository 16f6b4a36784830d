/** Keeps the end of the conversation in view while it grows, unless the reader scrolled away. */

const NEAR = 48; // pixels

export class Scroll {
  #height = 0; // of the page, when it was last measured
  #isAtEnd = true;

  constructor(button) {
    this.button = button;
    button.addEventListener("click", () => this.toEnd());
    addEventListener("scroll", () => this.#look(), { passive: true });
    addEventListener("resize", () => this.#isAtEnd && this.toEnd());
  }

  toEnd() {
    scrollTo(0, document.documentElement.scrollHeight);
    this.#look();
  }

  /** Something was added at the end. */
  grown() {
    // the last event may be out of date: the reader may have scrolled since
    if (this.#height - scrollY - innerHeight < NEAR) this.toEnd();
    else this.#look();
  }

  #look() {
    this.#height = document.documentElement.scrollHeight;
    this.#isAtEnd = this.#height - scrollY - innerHeight < NEAR;
    this.button.hidden = this.#isAtEnd;
  }
}
