/** What is told to a screen reader: whole sentences of an answer as they are complete, not every token. */

const END = /[.!?…。！？]["'”’)\]]*\s|\n/g; // of a sentence
const FORGET_MS = 20_000; // read out by then, and not to be met again while browsing

export class Announcer {
  /** region: polite, and seen by nobody. */
  constructor(region) {
    this.region = region;
    this.rest = "";
  }

  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.region.append(line);
    setTimeout(() => line.remove(), FORGET_MS);
  }

  feed(text) {
    END.lastIndex = Math.max(0, this.rest.length - 4); // what was searched before need not be again
    this.rest += text;
    let end = 0;
    while (END.test(this.rest)) end = END.lastIndex;
    if (end === 0) return;
    this.say(this.rest.slice(0, end));
    this.rest = this.rest.slice(end);
  }

  /** The answer is over. */
  finish() {
    if (this.rest.trim()) this.say(this.rest);
    this.rest = "";
  }
}
