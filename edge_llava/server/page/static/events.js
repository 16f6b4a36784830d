/** Server-sent events, read from bytes that are cut anywhere. */

/** Takes text as it arrives, and returns the data of every event that is complete. */
export class EventParser {
  #rest = "";
  #data = [];

  feed(text) {
    // a CR at the very end may be half of CR LF
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      return [];
    }
    if (line !== "" || this.#data.length === 0) return []; // a comment, another field, or nothing
    const data = this.#data.join("\n");
    this.#data = [];
    return [data];
  }
}

/** Yields the data of each event of a response's body. */
export async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder(); // keeps the bytes of a character that is cut
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // a reader that stops also stops the answer
  }
}
