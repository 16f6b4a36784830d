/** What stands at the foot of the page: the draft's card, questions to begin with, send and stop. */

export class Composer {
  /** told: onSend, onStop, onIdea(question). */
  constructor(form, told) {
    this.field = form.querySelector("textarea");
    this.ideas = form.querySelector("#ideas");
    this.send = form.querySelector("#send");
    this.stop = form.querySelector("#stop");
    this.stop.addEventListener("click", told.onStop);
    for (const idea of this.ideas.children) idea.addEventListener("click", () => told.onIdea(idea.textContent));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      told.onSend();
    });
    this.field.addEventListener("keydown", (event) => {
      // Enter that confirms a word of an input method is not meant for us
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      told.onSend();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) told.onStop();
    });
  }

  /** Shows what can be done now. */
  draw(draft, conversation) {
    const { isRunning, isEmpty: isNew } = conversation;
    const hasPictures = draft.nPictures > 0;
    document.body.classList.toggle("is-new", isNew);
    document.body.classList.toggle("has-pictures", hasPictures);
    const hadFocus = this.send.contains(document.activeElement) || this.stop.contains(document.activeElement);
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    this.send.disabled = draft.isEmpty;
    if (hadFocus) this.field.focus({ preventScroll: true });
    this.ideas.hidden = !(isNew && hasPictures && this.field.value === "");
  }
}
