/** A question and its answer on the page. Texts are only ever set as text: a model's answer is never markup. */

import { copyText } from "./clipboard.js";
import { thumbnail } from "./viewer.js";
import { figuresOf, seconds } from "./figures.js";

const TICK_MS = 1000;
const DRAW_MS = 40; // laying out a long text takes longer than the next token
const COPIED_MS = 2000;

/** An image as a part of a message of OpenAI's API. */
export const asPart = ({ url }) => ({ type: "image_url", image_url: { url } });

export class Exchange {
  #startedAt = performance.now();
  #firstS = 0;
  #text = document.createTextNode(""); // as much of the answer as is drawn
  #drawing = 0;
  #figures = null;

  answer = "";
  note = "";
  isOver = false;

  /** hooks: onAgain, onOther, onDrawn, onSay(text), onView(image). */
  constructor({ question, images }, hooks) {
    this.hooks = hooks;
    this.question = question;
    this.images = images;
    this.element = document.getElementById("exchange").content.firstElementChild.cloneNode(true);
    this.#part(".question").textContent = question;
    this.#part(".images").append(...images.map((image) => thumbnail(image, hooks.onView)));
    this.#part(".answer").append(this.#text);
    this.doing = images.length > 0 ? "Looking…" : "Thinking…";
    this.#part("[data-doing]").textContent = this.doing;
    this.#part("[data-again]").addEventListener("click", hooks.onAgain);
    this.#part("[data-other]").addEventListener("click", hooks.onOther);
    this.#part("[data-copy]").addEventListener("click", () => this.#copy());
  }

  /** What is kept of it. */
  get turn() {
    const { question, answer } = this;
    const images = this.images.map(({ name, blob }) => ({ name, blob }));
    return { question, images, answer, note: this.isOver ? this.note : "Interrupted.", figures: this.#figures };
  }

  /** The question is sent now. */
  begin() {
    this.#part(".doing").hidden = false;
    this.ticking = setInterval(() => this.#tick(), TICK_MS);
  }

  /** As OpenAI's messages; images stand before the question, as in LLaVA's training. */
  get messages() {
    const shown = this.images.map(asPart);
    const content = shown.length > 0 ? [...shown, { type: "text", text: this.question }] : this.question;
    const asked = { role: "user", content };
    return this.isOver ? [asked, { role: "assistant", content: this.answer }] : [asked];
  }

  write(text) {
    this.answer += text;
    if (this.#firstS === 0) {
      this.#firstS = this.#elapsedS;
      this.#settle();
      this.element.classList.add("is-writing");
      this.#part(".answer").hidden = false;
      this.#draw();
    }
    this.#drawing ||= setTimeout(() => this.#draw(), DRAW_MS);
  }

  /** The answer is over; the note says why it is not whole. served: the model, as `Client.served`. */
  end(report, note, served) {
    const figures = figuresOf(report, { firstS: this.#firstS, wholeS: this.#elapsedS }, served);
    this.show({ answer: this.answer, note, figures });
  }

  /** Shows an answer that is over. */
  show({ answer, note, figures }) {
    this.answer = answer;
    this.#settle();
    this.#draw();
    this.isOver = true;
    this.element.classList.remove("is-writing");
    this.#part(".answer").hidden = !answer;
    this.#part(".after").hidden = false;
    this.#part(".note").hidden = !note;
    this.#part(".note").textContent = this.note = note;
    this.#part(".figures").hidden = !figures;
    if (figures) this.#drawFigures(figures);
  }

  remove() {
    this.#settle();
    this.element.remove();
  }

  get #elapsedS() {
    return (performance.now() - this.#startedAt) / 1000;
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #tick() {
    this.#part("[data-seconds]").textContent = `${Math.round(this.#elapsedS)} s`;
  }

  #draw() {
    clearTimeout(this.#drawing);
    this.#drawing = 0;
    this.#text.appendData(this.answer.slice(this.#text.length));
    this.hooks.onDrawn();
  }

  #settle() {
    clearInterval(this.ticking);
    this.#part(".doing").hidden = true;
  }

  #drawFigures(figures) {
    const { summary, times, counts } = (this.#figures = figures);
    this.#part("summary").textContent = summary;
    this.#part(".bar").append(...times.map(segment));
    this.#part(".times").append(...times.map(({ name, kind, seconds: s }) => pair(name, seconds(s), kind)));
    this.#part(".counts").append(...counts.map(([name, value]) => pair(name, value)));
  }

  async #copy() {
    const label = this.#part("[data-copy] span");
    label.textContent = (await copyText(this.answer)) ? "Copied" : "Not copied";
    this.hooks.onSay(label.textContent);
    setTimeout(() => (label.textContent = "Copy"), COPIED_MS);
  }
}

function segment({ kind, seconds: s }) {
  const part = document.createElement("span");
  part.className = kind;
  part.style.flexGrow = s * 1000; // if they added up to less than 1, they would not fill the line
  return part;
}

function pair(name, value, kind = "") {
  const row = document.createElement("div");
  row.className = kind;
  row.append(document.createElement("dt"), document.createElement("dd"));
  row.firstChild.textContent = name;
  row.lastChild.textContent = value;
  return row;
}
