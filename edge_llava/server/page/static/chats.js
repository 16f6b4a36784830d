/** All conversations: kept in the browser if the settings say so, otherwise in this tab until it is closed. */

import { got, useDatabase } from "./database.js";
import { shrink, toDataUrl } from "./images.js";

const FULL = "The browser's storage is full: this conversation is not kept. Delete others, or save it as a file.";
const BLOCKED = "The browser does not let this page store anything: conversations are not kept.";
const GONE =
  "This conversation is no longer stored: it was deleted elsewhere. It lasts until this tab is closed; " +
  "save it as a file to keep it.";
const UNTITLED = "The browser could not store the new title.";
const UNDELETED = "The browser could not delete what it may have stored. Clear this site's data in its settings.";

/**
 * Records of conversations: {id, title, thumbnail: URL or "", changedAt: ms, revision, turns: `Exchange.turn`s}.
 * revision: how often it was stored, 0 for never; isGone, in this tab only: it was stored, and deleted elsewhere.
 */
export class Chats {
  #inTab = new Map(); // by id
  #titles = new Map(); // by id: those that were renamed, here or in another tab
  #queue = Promise.resolve();
  #channel = new BroadcastChannel("edge-llava.chats"); // to the other tabs
  #complaint = ""; // why the last one could not be stored
  #isBlocked = false;

  /** hooks: onFault(message), onChange when the list is another, onDelete(id) in another tab; null means all. */
  constructor(settings, hooks) {
    this.settings = settings;
    this.hooks = hooks;
    this.#channel.onmessage = ({ data: { id, title, isDeleted } }) => {
      if (title) this.#retitle(id, title);
      if (isDeleted) {
        hooks.onDelete(id);
        this.#then(() => this.#forget(id));
        this.keepAll(); // there may be room now
      }
      this.#then(() => hooks.onChange());
    };
  }

  /** Whether answers are kept in the browser: it is so set, and possible as far as is known. */
  get areKept() {
    return this.settings.keeps && !this.#isBlocked && this.#complaint === "";
  }

  /** Whether closing this tab would end conversations. */
  get areUnkept() {
    return this.#inTab.size > 0;
  }

  /** The latest first. */
  async list() {
    const kept = await useDatabase("readonly", (store) => got(store.getAll())).catch(() => null);
    this.#isBlocked = !kept;
    const others = (kept ?? []).filter(({ id }) => !this.#inTab.has(id));
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
      if (conversation.isDiscarded) return;
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
    return this.#then(() => this.#writeAll());
  }

  rename(id, title) {
    return this.#then(async () => {
      this.#retitle(id, title);
      try {
        await useDatabase("readwrite", async (store) => {
          const record = await got(store.get(id));
          if (record) store.put({ ...record, title });
        });
        this.#channel.postMessage({ id, title });
      } catch {
        if (!this.#inTab.has(id)) this.hooks.onFault(UNTITLED);
      }
      this.hooks.onChange();
    });
  }

  /** Deletes a conversation, here and in the other tabs; all if the id is null. */
  remove(id) {
    return this.#then(() => this.#delete({ id, isDeleted: true }));
  }

  /** Deletes what is kept of a conversation, or will be when the calls before this one are done. */
  discard(conversation) {
    conversation.isDiscarded = true;
    return this.#then(async () => {
      const { record } = conversation;
      if (record?.revision > 0) await this.#delete({ id: record.id });
      else if (record) this.#forget(record.id);
    });
  }

  async #write(record) {
    record.title = this.#titles.get(record.id) ?? record.title;
    this.#inTab.set(record.id, record);
    if (!this.settings.keeps) record.revision = 0; // nothing is stored
    else if (!record.isGone) await this.#store(record);
    this.hooks.onChange();
  }

  async #store(record) {
    const { id } = record;
    let complaint = "";
    try {
      const stored = await useDatabase("readwrite", (store) => put(store, record, this.#titles.get(id)));
      if (stored) {
        Object.assign(record, stored);
        this.#inTab.delete(id);
        this.#channel.postMessage({ id });
      } else {
        record.isGone = true;
        this.hooks.onFault(GONE);
      }
    } catch ({ name }) {
      complaint = name === "QuotaExceededError" ? FULL : BLOCKED;
    }
    if (complaint && complaint !== this.#complaint) this.hooks.onFault(complaint); // once, not after every answer
    this.#complaint = complaint;
  }

  async #writeAll() {
    for (const record of [...this.#inTab.values()]) await this.#write(record);
  }

  /** news: what the other tabs are told. */
  async #delete(news) {
    const { id } = news;
    const isStored = this.#inTab.get(id)?.revision !== 0;
    this.#forget(id);
    try {
      if (isStored) await useDatabase("readwrite", (store) => (id === null ? store.clear() : store.delete(id)));
      this.#channel.postMessage(news);
      if (isStored) this.#complaint = "";
    } catch {
      this.hooks.onFault(UNDELETED);
    }
    this.hooks.onChange();
    await this.#writeAll(); // there may be room now
  }

  #forget(id) {
    if (id === null) this.#inTab.clear();
    else this.#inTab.delete(id);
  }

  #retitle(id, title) {
    this.#titles.set(id, title);
    if (this.#inTab.has(id)) this.#inTab.get(id).title = title;
  }

  #then(work) {
    return (this.#queue = this.#queue.then(work, work)); // one that failed holds up none
  }
}

/** Returns the record as it is stored now; undefined, and stores nothing, if it was deleted elsewhere. */
async function put(store, record, title) {
  const stored = await got(store.get(record.id));
  if (!stored && record.revision > 0) return undefined;
  const next = { ...record, title: title ?? stored?.title ?? record.title }; // it may have been renamed
  // another tab went on with it: its answers must not be lost, so from here on they are two conversations
  if (stored && stored.revision !== record.revision) Object.assign(next, { id: newId(), revision: 0 });
  next.revision += 1;
  store.put(next);
  return next;
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
