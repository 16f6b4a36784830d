/** The page: its parts and how they are connected. Start reading here. */

import { Announcer } from "./announcer.js";
import { isHandheld } from "./camera.js";
import { Client } from "./client.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Draft } from "./draft.js";
import { FaultBanner } from "./fault_banner.js";
import { Intake } from "./intake.js";
import { Scroll } from "./scroll.js";
import { KeyDialog, Settings, SettingsDialog } from "./settings.js";
import { Viewer } from "./viewer.js";

const LOOK_AGAIN_MS = 3000;
let lookingAgain = 0;
let preparing = null; // the AbortController of what is computed while the question is written

const at = (id) => document.getElementById(id);
const settings = new Settings();
const client = new Client(settings);
const viewer = new Viewer(at("viewer"));
const announcer = new Announcer(at("announcer"));
const banner = new FaultBanner(at("fault"));
const scroll = new Scroll(at("latest"));
const keyDialog = new KeyDialog(at("key-dialog"), settings);
const settingsDialog = new SettingsDialog(at("settings-dialog"), settings);

const view = (image) => viewer.open(image);
const complain = (message) => banner.show(message);
const conversation = new Conversation(at("turns"), client, {
  onChange: changed,
  onText: (text) => announcer.feed(text),
  onDrawn: () => scroll.grown(),
  onUnanswered: unanswered,
  onSay: (text) => {
    announcer.finish();
    announcer.say(text);
  },
  onView: view,
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

at("settings").addEventListener("click", () => settingsDialog.open());
at("new").addEventListener("click", () => {
  conversation.clear();
  draft.clear();
  prepare();
  banner.hide();
  changed();
  draft.focus();
});
if (!isHandheld()) draft.focus();
changed();
meet();

/** Finds out which model is served; retries while nothing answers. */
async function meet() {
  try {
    const model = await client.model();
    conversation.nCtx = model.n_ctx;
    at("model").hidden = false;
    at("model-name").textContent = at("model").title = model.id;
    if (at("model").classList.contains("is-gone")) banner.hide();
    at("model").classList.remove("is-gone");
  } catch (fault) {
    if (fault.kind === "gone") lost(fault);
    else if (fault.kind === "key" && (await keyDialog.open())) await meet();
    else banner.show(fault.message);
  }
}

function lost(fault) {
  banner.show(fault.message);
  at("model").classList.add("is-gone");
  clearTimeout(lookingAgain);
  lookingAgain = setTimeout(meet, LOOK_AGAIN_MS);
}

async function send() {
  await draft.read;
  if (conversation.isRunning || draft.isEmpty) return;
  banner.hide();
  scroll.toEnd();
  preparing = null; // the question continues it
  conversation.ask(draft.take()).then(prepare);
  if (isHandheld()) draft.field.blur(); // the keyboard would cover the answer
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
    meet();
    if (asked) conversation.ask(asked);
    return;
  }
  if (asked) draft.putBack(asked);
  if (fault.kind === "gone") lost(fault);
  else if (fault.kind !== "stopped") banner.show(fault.message, fault.retryS);
}
