/** The foot of the page: the draft's card, questions to begin with, send and stop. */

export class Composer {
  /** hooks: onSend, onStop, onIdea(question). */
  constructor(form, hooks) {
    this.field = form.querySelector("textarea");
    this.ideas = form.querySelector("#ideas");
    this.send = form.querySelector("#send");
    this.stop = form.querySelector("#stop");
    this.stop.addEventListener("click", hooks.onStop);
    for (const idea of this.ideas.children) idea.addEventListener("click", () => hooks.onIdea(idea.textContent));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      hooks.onSend();
    });
    this.field.addEventListener("keydown", (event) => {
      // Enter may confirm a word of an input method
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      hooks.onSend();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open], :popover-open")) hooks.onStop();
    });
  }

  /** Shows what can be done now. */
  draw(draft, conversation) {
    const { isRunning, isEmpty: isNew } = conversation;
    const hasImages = draft.nImages > 0;
    document.body.classList.toggle("is-new", isNew);
    document.body.classList.toggle("is-running", isRunning);
    document.body.classList.toggle("has-images", hasImages);
    const hadFocus = this.send.contains(document.activeElement) || this.stop.contains(document.activeElement);
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    this.send.disabled = draft.isEmpty;
    if (hadFocus) this.field.focus({ preventScroll: true });
    this.ideas.hidden = !(isNew && hasImages && this.field.value === "");
  }
}
