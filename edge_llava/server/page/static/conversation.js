/** Questions and answers, one after the other. */

import { Fault } from "./faults.js";
import { asPart, Exchange } from "./exchange.js";

export class Conversation {
  #exchanges = [];
  #running = null; // the AbortController of the answer that is being written
  #before = null; // the exchange that the running one replaces
  #isLeft = false;

  /** How `Chats` keeps it; null until then. */
  record = null;

  /** Set by `Chats`: nothing of it is kept any more. */
  isDiscarded = false;

  /**
   * hooks: onChange when an answer begins or ends, onText(text) for every piece, onDrawn when it is visible,
   * onSay(text) for what is only visible, onUnanswered(asked, fault) when a question got no answer and was removed,
   * onKeep when there is more to keep, onOther(question) to ask it about another image, onView(image).
   */
  constructor(place, client, hooks) {
    this.place = place;
    this.client = client;
    this.hooks = hooks;
  }

  get isEmpty() {
    return this.#exchanges.length === 0;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** What is kept of it: `Exchange.turn`s. */
  get turns() {
    return this.#exchanges.map((each) => (!each.isOver && !each.answer && this.#before) || each).map(({ turn }) => turn);
  }

  /** Shows a conversation that was kept; it is still empty. */
  show(record) {
    this.record = record;
    for (const turn of record.turns) this.#put(this.#make(turn)).show(turn);
  }

  /**
   * Asks {question, images}, and shows the answer as it comes.
   * before: the exchange that this one replaces; it is restored if there is no new answer.
   */
  async ask(asked, before = null) {
    const exchange = this.#put(this.#make(asked));
    exchange.begin();
    this.hooks.onSay(exchange.doing);
    const messages = this.#exchanges.flatMap((each) => each.messages);
    const running = (this.#running = new AbortController());
    this.#before = before;
    this.hooks.onChange();
    try {
      const report = await this.client.ask(messages, (text) => this.#write(exchange, text), running.signal);
      this.#end(exchange, report, noteOn(report, exchange.answer, this.client.settings));
    } catch (error) {
      this.#break(exchange, asFault(error), before);
    } finally {
      if (!this.#isLeft) {
        this.#running = this.#before = null;
        this.hooks.onKeep();
        this.hooks.onChange();
      }
    }
  }

  /** As OpenAI's messages: what was said, and the images of a question that is still to come. */
  messagesBefore(images) {
    return [...this.#exchanges.flatMap((each) => each.messages), { role: "user", content: images.map(asPart) }];
  }

  stop() {
    this.#running?.abort();
  }

  /** Takes it off the page for good, and stops its answer. */
  leave() {
    if (this.isRunning) this.hooks.onKeep();
    this.#isLeft = true;
    this.stop();
    for (const exchange of this.#exchanges) exchange.remove();
  }

  #make(asked) {
    const exchange = new Exchange(asked, {
      ...this.hooks,
      onAgain: () => this.#askAgain(exchange),
      onOther: () => this.hooks.onOther(exchange.question),
    });
    return exchange;
  }

  #put(exchange) {
    this.#exchanges.push(exchange);
    this.place.append(exchange.element);
    exchange.element.classList.toggle("is-blind", this.#exchanges.length === 1 && exchange.images.length === 0);
    return exchange;
  }

  #write(exchange, text) {
    if (this.#isLeft) return;
    exchange.write(text);
    this.hooks.onText(text);
  }

  #end(exchange, report, note) {
    if (this.#isLeft) return;
    exchange.end(report, note, this.client.served);
    if (note) this.hooks.onSay(note);
  }

  /** There is no answer, or only part of one. */
  #break(exchange, fault, before) {
    if (this.#isLeft) return;
    if (exchange.answer) {
      this.#end(exchange, {}, fault.message);
      return;
    }
    this.#exchanges.pop();
    exchange.remove();
    if (before) this.#put(before);
    this.hooks.onUnanswered(before ? null : exchange, fault);
  }

  #askAgain(exchange) {
    if (this.isRunning) return;
    this.#exchanges.pop();
    exchange.remove();
    this.ask(exchange, exchange);
  }
}

function asFault(error) {
  if (error instanceof Fault) return error;
  if (error.name === "AbortError") return new Fault("stopped", "Stopped.");
  throw error;
}

function noteOn({ finishReason, usage }, answer, { maxTokens }) {
  if (!answer) return "The model ended its answer at once.";
  if (finishReason !== "length") return "";
  if (usage?.completion_tokens >= maxTokens) return `Cut off after ${maxTokens} tokens, as the settings say.`;
  return "Cut off: the context is full. Begin a new chat.";
}
