/** Shows which model is served, what must be known about it, and where it computes. */

const LOOK_AGAIN_MS = 3000;

const at = (id) => document.getElementById(id);

export class ServedModel {
  #lookingAgain = 0;

  /** hooks: onFault(message), onBack when the server answers again, onKey -> whether the user gave another key. */
  constructor(client, hooks) {
    this.client = client;
    this.hooks = hooks;
    this.pill = at("model");
  }

  /** Finds out; retries while nothing answers. */
  async meet() {
    try {
      this.#draw(await this.client.meet());
    } catch (fault) {
      if (fault.kind === "gone") this.lost(fault);
      else if (fault.kind === "key" && (await this.hooks.onKey())) await this.meet();
      else this.hooks.onFault(fault.message);
    }
  }

  lost(fault) {
    this.hooks.onFault(fault.message);
    this.pill.classList.add("is-gone");
    clearTimeout(this.#lookingAgain);
    this.#lookingAgain = setTimeout(() => this.meet(), LOOK_AGAIN_MS);
  }

  #draw(model) {
    this.pill.hidden = false;
    at("model-name").textContent = this.pill.title = model.id;
    if (this.pill.classList.contains("is-gone")) this.hooks.onBack();
    this.pill.classList.remove("is-gone");
    at("notice").textContent = model.notice;
    at("notice").hidden = !model.notice;
    for (const place of document.querySelectorAll("[data-places]")) place.textContent = describe(model);
  }
}

function describe({ language_on: language, vision_on: vision }) {
  if (language === vision) return `The server computes on ${written(language)}.`;
  return `The server computes answers on ${written(language)}, and reads images on ${written(vision)}.`;
}

/** "CPU" for "cpu"; a device with a number of layers, "Vulkan0 33/33", stays. */
function written(place) {
  return place.replace(/\b(cpu|cuda)\b/g, (word) => word.toUpperCase());
}
