/** How to answer, and the key. They are kept for this tab, until it is closed. */

const KEPT_AS = "edge-llava.settings";
const DEFAULTS = { temperature: 0.2, maxTokens: 512, system: "", key: "" };

export class Settings {
  constructor() {
    Object.assign(this, DEFAULTS, read());
    const given = new URLSearchParams(location.hash.slice(1)).get("key");
    if (given) {
      // a link that was printed with the key: it must not stay in the address bar
      history.replaceState(null, "", location.pathname + location.search);
      this.change({ key: given });
    }
  }

  change(values) {
    Object.assign(this, values);
    try {
      sessionStorage.setItem(KEPT_AS, JSON.stringify(this));
    } catch {
      // storage is blocked: kept until the page is left
    }
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT_AS)) ?? {};
  } catch {
    return {};
  }
}

/** The dialog that changes the settings; its fields have the same names. */
export class SettingsDialog {
  constructor(dialog, settings) {
    this.dialog = dialog;
    this.settings = settings;
    const form = dialog.querySelector("form");
    this.fields = form.elements;
    form.addEventListener("input", () => this.#drawOutput());
    form.addEventListener("submit", () => this.#save());
    form.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  }

  open() {
    for (const name of ["temperature", "maxTokens", "system"]) this.fields[name].value = this.settings[name];
    this.#drawOutput();
    this.dialog.showModal();
  }

  #save() {
    const { temperature, maxTokens, system } = this.fields;
    this.settings.change({ temperature: +temperature.value, maxTokens: +maxTokens.value, system: system.value.trim() });
  }

  #drawOutput() {
    this.dialog.querySelector("b").textContent = this.fields.temperature.value;
  }
}

/** Asks for the key of a server that requires one. */
export class KeyDialog {
  constructor(dialog, settings) {
    this.dialog = dialog;
    this.settings = settings;
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  }

  /** Resolves, once the dialog is closed, to whether a key was given. */
  open() {
    const { key } = this.dialog.querySelector("form").elements;
    this.dialog.querySelector("[data-wrong]").hidden = !this.settings.key;
    this.dialog.returnValue = "";
    this.dialog.showModal();
    return new Promise((resolve) =>
      this.dialog.addEventListener("close", () => resolve(this.#take(key)), { once: true }),
    );
  }

  #take(field) {
    const key = field.value;
    field.value = "";
    if (this.dialog.returnValue !== "given" || key === "") return false;
    this.settings.change({ key: key.replace(/[^!-~]/g, "") }); // no space that was copied with it
    return true;
  }
}
