/** The list of conversations: at the side of a wide window, a drawer of a narrow one, a sheet on a phone. */

import { HTML, MARKDOWN } from "./export.js";
import { agreed } from "./question_dialog.js";

const ICON = "page/icon.svg"; // of a conversation without an image

export class ChatList {
  /** hooks: onOpen(id), onSave(id, format), onRename(id, title), onRemove(id), where null means all. */
  constructor(place, hooks) {
    this.place = place;
    this.hooks = hooks;
    this.list = place.querySelector("ul");
    place.querySelector("[data-remove-all]").addEventListener("click", () => {
      const heading = `Delete all conversations (${this.list.children.length})?`;
      this.#remove(null, heading, "Their questions, answers and images are deleted.", "Delete everything");
    });
  }

  /** Shows records of `Chats`; `openId` is the conversation on the page. */
  draw(records, openId) {
    const items = records.map((record) => this.#draw(record, openId));
    const focused = document.activeElement;
    if (`${items.map(({ id }) => id)}` !== `${[...this.list.children].map(({ id }) => id)}`) {
      this.list.replaceChildren(...items);
      if (this.list.contains(focused)) focused.focus(); // moving it took the focus away
    }
    document.body.classList.toggle("has-chats", records.length > 0);
    if (records.length === 0) this.hide();
  }

  /** Closes the drawer. */
  hide() {
    if (this.place.matches(":popover-open")) this.place.hidePopover();
  }

  #draw({ id, title, thumbnail, changedAt }, openId) {
    const item = document.getElementById(id) ?? this.#make(id);
    const [open, image, name, time, , summary] = item.querySelectorAll("*");
    open.setAttribute("aria-current", id === openId);
    image.src = thumbnail || ICON;
    name.textContent = title;
    time.textContent = when(new Date(changedAt));
    summary.setAttribute("aria-label", `Actions for ${title}`);
    return item;
  }

  #make(id) {
    const item = document.getElementById("chat").content.firstElementChild.cloneNode(true);
    const [open, , name, , details, summary] = item.querySelectorAll("*");
    item.id = id;
    open.addEventListener("click", () => this.hooks.onOpen(id));
    const gone = () => `“${name.textContent}” and its images are deleted.`;
    const actions = {
      Rename: () => this.#rename(id, name.textContent),
      "Save as HTML": () => this.hooks.onSave(id, HTML),
      "Save as Markdown": () => this.hooks.onSave(id, MARKDOWN),
      Delete: () => this.#remove(id, "Delete this conversation?", gone(), "Delete"),
    };
    for (const [label, act] of Object.entries(actions)) {
      const button = details.appendChild(document.createElement("button"));
      button.className = "quiet small";
      button.textContent = label;
      button.addEventListener("click", () => {
        details.open = false;
        summary.focus(); // where the focus returns to after a dialog
        act();
      });
    }
    return item;
  }

  async #rename(id, title) {
    const renamed = await agreed("Rename the conversation", "", "Rename", title);
    if (renamed) this.hooks.onRename(id, renamed);
  }

  async #remove(id, ...question) {
    if (await agreed(...question)) this.hooks.onRemove(id);
  }
}

function when(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium" });
}
