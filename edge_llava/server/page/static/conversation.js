/** Questions and answers, one after the other. The only memory of them: a reload forgets all. */

import { Fault } from "./faults.js";
import { asPart, Exchange } from "./exchange.js";

export class Conversation {
  #exchanges = [];
  #running = null; // the AbortController of the answer that is being written

  /**
   * hooks: onChange when an answer begins or ends, onText(text) for every piece, onDrawn when it is visible,
   * onSay(text) for what is only visible, onUnanswered(asked, fault) when a question got no answer and was removed,
   * onView(image).
   */
  constructor(place, client, hooks) {
    this.place = place;
    this.client = client;
    this.hooks = hooks;
    this.nCtx = undefined; // positions of a conversation
  }

  get isEmpty() {
    return this.#exchanges.length === 0;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /**
   * Asks {question, images}, and shows the answer as it comes.
   * before: the exchange that this one replaces; it is restored if there is no new answer.
   */
  async ask(asked, before) {
    const exchange = new Exchange(asked, { ...this.hooks, onAgain: () => this.#askAgain(exchange) });
    this.#put(exchange);
    this.hooks.onSay(exchange.doing);
    const messages = this.#exchanges.flatMap((each) => each.messages);
    const running = (this.#running = new AbortController());
    this.hooks.onChange();
    try {
      const report = await this.client.ask(messages, (text) => this.#write(exchange, text), running.signal);
      this.#end(exchange, report, noteOn(report, exchange.answer, this.client.settings));
    } catch (error) {
      this.#break(exchange, asFault(error), before);
    } finally {
      if (this.#running === running) this.#running = null;
      this.hooks.onChange();
    }
  }

  /** As OpenAI's messages: what was said, and the images of a question that is still to come. */
  messagesBefore(images) {
    return [...this.#exchanges.flatMap((each) => each.messages), { role: "user", content: images.map(asPart) }];
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    for (const exchange of this.#exchanges) exchange.remove();
    this.#exchanges = [];
    this.stop();
    this.#running = null;
  }

  #put(exchange) {
    this.#exchanges.push(exchange);
    this.place.append(exchange.element);
  }

  #write(exchange, text) {
    if (this.#exchanges.includes(exchange)) {
      exchange.write(text);
      this.hooks.onText(text);
    }
  }

  #end(exchange, report, note) {
    exchange.end(report, note, this.nCtx);
    if (note) this.hooks.onSay(note);
  }

  /** There is no answer, or only part of one. */
  #break(exchange, fault, before) {
    if (!this.#exchanges.includes(exchange)) return; // it was cleared
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
