/** What a screen reader announces: whole sentences of an answer once they are complete, not every token. */

const END = /[.!?…。！？]["'”’)\]]*\s|\n/g; // of a sentence
const FORGET_MS = 20_000; // it was read out by then, and should not be found again while browsing

export class Announcer {
  /** region: polite, and not visible. */
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
    END.lastIndex = Math.max(0, this.rest.length - 4); // the rest was searched before
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
