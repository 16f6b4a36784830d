/** Dialogs that resolve to an answer. */

/** Opens a dialog; resolves, once it is closed, to the value of the button that closed it: "" for Cancel and Esc. */
export function answerOf(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Asks for a title if one is given, or else for agreement. Resolves to the new title, true, or "" for neither. */
export async function agreed(heading, text, verb, title = "") {
  const dialog = document.getElementById("question-dialog");
  const { title: field } = dialog.querySelector("form").elements;
  dialog.querySelector("h2").textContent = heading;
  dialog.querySelector("p").textContent = text;
  dialog.querySelector(".solid").textContent = verb;
  field.hidden = !title;
  field.value = title;
  const answer = answerOf(dialog);
  if (title) field.select();
  return (await answer) && (title === "" || field.value.trim());
}
