/** The server, by OpenAI's API. Addresses are relative: a proxy may serve all of it below some path. */

import { readEvents } from "./events.js";
import { CUT_OFF, Fault, GONE, UNSENT, refusal } from "./faults.js";

export class Client {
  /**
   * The model that is served, once it is known: its id; n_ctx, the positions of a conversation; notice, a sentence or
   * null; language_on and vision_on, where it computes.
   */
  served = {};

  constructor(settings) {
    this.settings = settings;
  }

  /** Finds out which model is served. Throws a Fault. */
  async meet() {
    const { data } = await (await this.#fetch("v1/models")).json();
    return (this.served = data[0]);
  }

  /** Has the server compute what stands before a question. `signal` stops it. Whatever fails, the question will say. */
  async prepare(messages, signal) {
    await this.#post("v1/prepare", { messages: this.#afterSystem(messages) }, signal).catch(() => {});
  }

  /**
   * Asks, and passes every piece of the answer to `onText`. `signal` stops it, on the server too.
   * Returns a report {finishReason, usage, timings}; throws a Fault if there is no answer, or only part of one.
   */
  async ask(messages, onText, signal) {
    const { temperature, topP, maxTokens } = this.settings;
    const body = {
      messages: this.#afterSystem(messages),
      temperature,
      top_p: topP,
      max_tokens: maxTokens,
      stream: true,
      stream_options: { include_usage: true },
    };
    const response = await this.#post("v1/chat/completions", body, signal);
    try {
      return await readAnswer(response.body, onText);
    } catch (error) {
      const isBroken = error instanceof TypeError || error instanceof SyntaxError; // of the network, or half an event
      throw isBroken ? new Fault(...CUT_OFF) : error;
    }
  }

  #afterSystem(messages) {
    const { system } = this.settings;
    return system ? [{ role: "system", content: system }, ...messages] : messages;
  }

  #post(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.#fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  async #fetch(path, { headers, ...options } = {}) {
    const { key } = this.settings;
    let response;
    try {
      response = await fetch(path, { ...options, headers: key ? { ...headers, Authorization: `Bearer ${key}` } : headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Fault(...((await isAlive()) ? UNSENT : GONE));
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function readAnswer(body, onText) {
  const report = {};
  for await (const data of readEvents(body)) {
    if (data === "[DONE]") return report;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Fault("refused", chunk.error.message);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    report.finishReason = choice?.finish_reason ?? report.finishReason;
    report.usage = chunk.usage ?? report.usage;
    report.timings = chunk.timings ?? report.timings;
  }
  throw new Fault(...CUT_OFF);
}

async function isAlive() {
  try {
    return (await fetch("health", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
