/** All conversations: kept in the browser if the settings say so, otherwise in this tab until it is closed. */

import { got, useDatabase } from "./database.js";
import { shrink, toDataUrl } from "./images.js";

const FULL = "The browser's storage is full: this conversation is not kept. Delete others, or save it as a file.";
const BLOCKED = "The browser does not let this page store anything: conversations are not kept.";

/** Records of conversations: {id, title, thumbnail: URL or "", changedAt: ms, revision, turns: `Exchange.turn`s}. */
export class Chats {
  #inTab = new Map(); // by id
  #queue = Promise.resolve();
  #channel = new BroadcastChannel("edge-llava.chats"); // to the other tabs
  #complaint = "";

  /** hooks: onFault(message), onChange when the list is another, onDelete(id) in another tab; null means all. */
  constructor(settings, hooks) {
    this.settings = settings;
    this.hooks = hooks;
    this.#channel.onmessage = ({ data }) => {
      if (data.isDeleted) hooks.onDelete(data.id);
      hooks.onChange();
    };
  }

  /** Whether closing this tab would end conversations. */
  get areUnkept() {
    return this.#inTab.size > 0;
  }

  /** The latest first. */
  async list() {
    const kept = await useDatabase("readonly", (store) => got(store.getAll())).catch(() => []); // blocked: none
    const others = kept.filter(({ id }) => !this.#inTab.has(id));
    return [...this.#inTab.values(), ...others].sort((a, b) => b.changedAt - a.changedAt);
  }

  /** A record whose images have URLs; undefined if there is none. */
  read(id) {
    return this.#then(async () => {
      const record = this.#inTab.get(id) ?? (await useDatabase("readonly", (store) => got(store.get(id))));
      return record && { ...record, turns: await Promise.all(record.turns.map(withUrls)) };
    });
  }

  /** Keeps a conversation as it will be when the calls before this one are done. */
  keep(conversation) {
    return this.#then(async () => {
      const { record, turns } = conversation;
      if (turns.length > 0) {
        conversation.record = { ...(record ?? (await begin(turns[0]))), turns, changedAt: Date.now() };
        await this.#write(conversation.record);
      } else if (record) {
        conversation.record = null; // its only question got no answer
        this.remove(record.id);
      }
    });
  }

  /** Keeps in the browser what was in this tab only. */
  keepAll() {
    return this.#then(() => Promise.all([...this.#inTab.values()].map((record) => this.#write(record))));
  }

  rename(id, title) {
    return this.#then(async () => {
      if (this.#inTab.has(id)) this.#inTab.get(id).title = title;
      await this.#change({ id }, async (store) => {
        const record = await got(store.get(id));
        if (record) store.put({ ...record, title });
      });
    });
  }

  /** Deletes a conversation; all if the id is null. */
  remove(id) {
    return this.#then(async () => {
      if (id === null) this.#inTab.clear();
      else this.#inTab.delete(id);
      await this.#change({ id, isDeleted: true }, (store) => (id === null ? store.clear() : store.delete(id)));
    });
  }

  async #write(record) {
    const { id } = record;
    this.#inTab.set(id, record);
    if (!this.settings.keeps) return this.hooks.onChange();
    const written = await this.#change({ id }, async (store) => {
      const stored = await got(store.get(id));
      const next = { ...record, title: stored?.title ?? record.title }; // it may have been renamed
      // another tab went on with it: its answers must not be lost, so from here on they are two conversations
      if (stored && stored.revision !== record.revision) Object.assign(next, { id: newId(), revision: 0 });
      next.revision += 1;
      store.put(next);
      return next;
    });
    if (!written) return;
    Object.assign(record, written);
    this.#inTab.delete(id);
  }

  /** Resolves to what `work` with the database does; undefined if it failed. */
  async #change(news, work) {
    try {
      const result = await useDatabase("readwrite", work);
      this.#channel.postMessage(news);
      return result;
    } catch ({ name }) {
      const message = name === "QuotaExceededError" ? FULL : BLOCKED;
      // once, not after every answer
      if (this.settings.keeps && message !== this.#complaint) this.hooks.onFault((this.#complaint = message));
    } finally {
      this.hooks.onChange();
    }
  }

  #then(work) {
    return (this.#queue = this.#queue.then(work, work)); // one that failed holds up none
  }
}

async function begin({ question, images }) {
  const thumbnail = images.length > 0 ? await shrink(images[0].blob).then(toDataUrl, () => "") : "";
  return { id: newId(), title: question.match(/^.{0,100}/su)[0], thumbnail, revision: 0 };
}

/** Not by randomUUID, which browsers offer on https and localhost only. */
function newId() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

async function withUrls({ images, ...turn }) {
  const read = images.map(async (image) => ({ ...image, url: await toDataUrl(image.blob) }));
  return { ...turn, images: await Promise.all(read) };
}
