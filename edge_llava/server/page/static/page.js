/** The page: its parts and how they are connected. Start reading here. */

import { Announcer } from "./announcer.js";
import { isHandheld } from "./camera.js";
import { ChatList } from "./chat_list.js";
import { Chats } from "./chats.js";
import { Client } from "./client.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Draft } from "./draft.js";
import { save } from "./export.js";
import { FaultBanner } from "./fault_banner.js";
import { readImage } from "./images.js";
import { Intake } from "./intake.js";
import { Scroll } from "./scroll.js";
import { ServedModel } from "./served_model.js";
import { KeyDialog, Settings, SettingsDialog, stored } from "./settings.js";
import { Viewer } from "./viewer.js";

const OPEN = "edge-llava.chat"; // which conversation a reload of this tab shows

const at = (id) => document.getElementById(id);
const settings = new Settings();
const client = new Client(settings);
const viewer = new Viewer(at("viewer"));
const announcer = new Announcer(at("announcer"));
const banner = new FaultBanner(at("fault"));
const scroll = new Scroll(at("latest"));
const keyDialog = new KeyDialog(at("key-dialog"), settings);

const view = (image) => viewer.open(image);
const complain = (message) => banner.show(message);
const served = new ServedModel(client, {
  onFault: complain,
  onBack: () => banner.hide(),
  onKey: () => keyDialog.open(),
});
const settingsDialog = new SettingsDialog(at("settings-dialog"), settings, () => {
  if (settings.keeps) chats.keepAll();
  else chats.remove(null).then(() => chats.keep(conversation)); // in this tab
});
const chats = new Chats(settings, { onFault: complain, onChange: drawList, onDelete: drop });
const list = new ChatList(at("chats"), {
  onOpen: open,
  onSave: (id, format) => read(id).then((record) => record && save(record, format)),
  onRename: (id, title) => chats.rename(id, title),
  onRemove: (id) => {
    chats.remove(id);
    drop(id);
    if (!isHandheld()) draft.focus();
  },
});
const draft = new Draft(at("composer"), {
  onChange: changed,
  onImages: prepare,
  onFault: complain,
  onView: view,
});
const composer = new Composer(at("composer"), {
  onSend: send,
  onStop: () => conversation.stop(),
  onIdea: (question) => {
    draft.write(question);
    send();
  },
});
new Intake(
  (files) => {
    banner.hide();
    draft.add(files);
  },
  complain,
);
let conversation = begin();
let preparing = null; // the AbortController of what is computed while the question is written
let other = ""; // the question that is to be asked about another image

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
at("settings").addEventListener("click", () => {
  settingsDialog.open();
  served.meet();
});
at("new").addEventListener("click", () => {
  draft.clear();
  turnTo();
  draft.focus();
});
at("other").addEventListener("change", askOther);
addEventListener("beforeunload", (event) => {
  if (conversation.isRunning || chats.areUnkept) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden && conversation.isRunning) chats.keep(conversation); // a phone may never show the page again
});
if (!isHandheld()) draft.focus();
changed();
served.meet();
const last = stored(() => sessionStorage.getItem(OPEN));
if (last) open(last);
drawList();

/** An empty conversation. */
function begin() {
  const begun = new Conversation(at("turns"), client, {
    onChange: changed,
    onText: (text) => announcer.feed(text),
    onDrawn: () => scroll.grown(),
    onUnanswered: unanswered,
    onSay: (text) => {
      announcer.finish();
      announcer.say(text);
    },
    onKeep: () => chats.keep(begun),
    onOther: (question) => {
      other = question;
      at("other").click();
    },
    onView: view,
  });
  return begun;
}

/** Leaves the conversation for another one: a record of `Chats`, or else a new one. */
function turnTo(record) {
  conversation.leave();
  conversation = begin();
  if (record) conversation.show(record);
  banner.hide();
  prepare();
  changed();
  drawList();
}

function read(id) {
  return chats.read(id).catch(() => complain("The browser can no longer read this conversation."));
}

async function open(id) {
  list.hide();
  const record = id !== conversation.record?.id && (await read(id)); // the one on the page may be answering
  if (!record) return;
  turnTo(record);
  scroll.toEnd();
  if (!isHandheld()) draft.focus();
}

/** Takes a conversation that is deleted off the page; whichever is there if the id is null. */
function drop(id) {
  if (id !== null && id !== conversation.record?.id) return;
  chats.discard(conversation); // its last answer may just be being kept
  turnTo();
}

async function drawList() {
  document.body.classList.toggle("keeps", chats.areKept);
  const records = await chats.list();
  document.body.classList.toggle("keeps", chats.areKept); // reading may have failed
  const id = conversation.record?.id;
  list.draw(records, id);
  stored(() => sessionStorage.setItem(OPEN, id ?? ""));
}

async function send() {
  const here = conversation;
  await draft.read();
  if (here !== conversation || conversation.isRunning || draft.isEmpty) return;
  ask(draft.take());
  if (isHandheld()) draft.field.blur(); // the keyboard would cover the answer
}

function ask(asked) {
  banner.hide();
  scroll.toEnd();
  preparing = null; // the question continues it
  conversation.ask(asked).then(prepare);
}

/** In a conversation of its own: a model that has seen one image answers less well about another. */
async function askOther({ target }) {
  const [here, question] = [conversation, other];
  const files = [...target.files];
  target.value = ""; // the same file may be chosen again
  const images = await Promise.all(files.map(readImage)).catch((error) => complain(error.message));
  if (!images?.length) return;
  if (here !== conversation || here.isRunning) {
    complain("The other image was not asked about, because you went on while it was chosen. Choose it again.");
    return;
  }
  turnTo();
  ask({ question, images });
}

/** Starts as soon as images are chosen. Removing them stops it. */
function prepare() {
  preparing?.abort();
  preparing = null;
  if (draft.images.length === 0 || conversation.isRunning) return;
  preparing = new AbortController();
  client.prepare(conversation.messagesBefore(draft.images), preparing.signal);
}

function changed() {
  composer.draw(draft, conversation);
  if (!conversation.isRunning) announcer.finish();
  if (!conversation.isEmpty) scroll.grown();
}

/** A question got no answer: it can be sent again, unless its old answer was restored. */
async function unanswered(asked, fault) {
  if (fault.kind === "key" && (await keyDialog.open())) {
    served.meet();
    if (asked) conversation.ask(asked);
    return;
  }
  if (asked) draft.putBack(asked);
  if (fault.kind === "gone") served.lost(fault);
  else if (fault.kind !== "stopped") banner.show(fault.message, fault.retryS);
}
