/** The server, by OpenAI's API. Addresses are relative: a proxy may serve all of it below some path. */

import { readEvents } from "./events.js";
import { CUT_OFF, Fault, GONE, UNSENT, refusal } from "./faults.js";

export class Client {
  constructor(settings) {
    this.settings = settings;
  }

  /** The model that is served: its id, and n_ctx, the positions of a conversation. Throws a Fault. */
  async model() {
    const { data } = await (await this.#fetch("v1/models")).json();
    return data[0];
  }

  /**
   * Asks, and passes every piece of the answer to `onText`. `signal` stops it, on the server too.
   * Returns a report {finishReason, usage, timings}; throws a Fault if there is no answer, or only part of one.
   */
  async ask(messages, onText, signal) {
    const { system, temperature, maxTokens } = this.settings;
    const body = {
      messages: system ? [{ role: "system", content: system }, ...messages] : messages,
      temperature,
      max_tokens: maxTokens,
      stream: true,
      stream_options: { include_usage: true },
    };
    const response = await this.#fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    try {
      return await readAnswer(response.body, onText);
    } catch (error) {
      const isBroken = error instanceof TypeError || error instanceof SyntaxError; // of the network, or half an event
      throw isBroken ? new Fault(...CUT_OFF) : error;
    }
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
