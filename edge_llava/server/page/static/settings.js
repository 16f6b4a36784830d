/** How to answer and whether to keep conversations, kept in this browser; and the key, kept for this tab. */

import { agreed, answerOf } from "./question_dialog.js";

const KEPT_AS = "edge-llava.settings";
const KEY_KEPT_AS = "edge-llava.key";
const DEFAULTS = { temperature: 0.2, topP: 1, maxTokens: 512, system: "", keeps: true };

export class Settings {
  key = "";

  constructor() {
    this.#read();
    addEventListener("storage", ({ key }) => key === KEPT_AS && this.#read()); // another tab changed them
    const given = new URLSearchParams(location.hash.slice(1)).get("key");
    if (given) {
      // a link that was printed with the key: it must not stay in the address bar
      history.replaceState(null, "", location.pathname + location.search);
      this.changeKey(given);
    }
  }

  change(values) {
    const { key, ...kept } = Object.assign(this, values);
    stored(() => localStorage.setItem(KEPT_AS, JSON.stringify(kept)));
  }

  changeKey(key) {
    this.key = key;
    stored(() => sessionStorage.setItem(KEY_KEPT_AS, key));
  }

  #read() {
    Object.assign(this, DEFAULTS, stored(() => JSON.parse(localStorage.getItem(KEPT_AS))));
    this.key = stored(() => sessionStorage.getItem(KEY_KEPT_AS)) ?? this.key;
  }
}

/** What `work` with the browser's storage returns; null if it is blocked: kept until the page is left. */
export function stored(work) {
  try {
    return work();
  } catch {
    return null;
  }
}

/** The dialog that changes the settings; its fields have the same names. */
export class SettingsDialog {
  /** onKeeps: called when conversations are to be kept from now on, or no more. */
  constructor(dialog, settings, onKeeps) {
    this.dialog = dialog;
    this.settings = settings;
    this.onKeeps = onKeeps;
    const form = dialog.querySelector("form");
    this.fields = form.elements;
    form.addEventListener("input", () => this.#drawOutputs());
    form.addEventListener("submit", () => this.#save());
  }

  open() {
    const { keeps, ...shown } = this.settings;
    for (const name of ["temperature", "topP", "maxTokens", "system"]) this.fields[name].value = shown[name];
    this.fields.keeps.checked = keeps;
    this.#drawOutputs();
    this.dialog.showModal();
  }

  async #save() {
    const { temperature, topP, maxTokens, system, keeps } = this.fields;
    this.settings.change({
      temperature: +temperature.value,
      topP: +topP.value,
      maxTokens: +maxTokens.value,
      system: system.value.trim(),
    });
    if (keeps.checked === this.settings.keeps) return;
    const text = "Conversations in this browser are deleted; the one on this page stays until its tab is closed.";
    if (!keeps.checked && !(await agreed("Keep no conversations?", text, "Keep none"))) return;
    this.settings.change({ keeps: keeps.checked });
    this.onKeeps();
  }

  #drawOutputs() {
    for (const name of ["temperature", "topP"]) {
      this.fields[name].closest("label").querySelector("b").textContent = this.fields[name].value;
    }
  }
}

/** Asks for the key of a server that requires one. */
export class KeyDialog {
  constructor(dialog, settings) {
    this.dialog = dialog;
    this.settings = settings;
  }

  /** Resolves, once the dialog is closed, to whether a key was given. */
  async open() {
    const { key: field } = this.dialog.querySelector("form").elements;
    this.dialog.querySelector("[data-wrong]").hidden = !this.settings.key;
    const isGiven = (await answerOf(this.dialog)) === "given";
    const key = field.value;
    field.value = "";
    if (!isGiven || key === "") return false;
    this.settings.changeKey(key.replace(/[^!-~]/g, "")); // no space that was copied with it
    return true;
  }
}
