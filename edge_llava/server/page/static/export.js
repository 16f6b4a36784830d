/** A conversation as one file, its images inside: Markdown, or HTML. */

const HEAD = `<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 45rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; max-height: 30rem; }
h2 { font-size: 1rem; }
h2, p { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
`;

/** Saves a record, as `Chats.read` returns it. */
export function save({ title, turns }, { write, type, suffix }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(title, turns)], { type }));
  link.download = (title.match(/[\p{L}\p{N}]+/gu) ?? ["conversation"]).join("-").slice(0, 60) + suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The data of the images stands at the end, so that the text can be read. */
function writeMarkdown(title, turns) {
  const sources = [];
  const link = ({ name, url }) => {
    sources.push(`[image-${sources.length + 1}]: ${url}`);
    return `![${name.replace(/[\\[\]]/g, "\\$&")}][image-${sources.length}]`;
  };
  const lines = turns.flatMap(({ question, images, answer, note }) => [
    ...images.map(link),
    `**User:** ${question}`,
    `**Assistant:** ${answer}`,
    note && `*${note}*`,
  ]);
  return [`# ${title.replace(/\s+/g, " ")}`, ...lines.filter(Boolean), ...sources].join("\n\n") + "\n";
}

/** Texts are only ever set as text, and the file may load nothing. */
function writeHtml(title, turns) {
  const { head, body } = document.implementation.createHTMLDocument(title);
  const add = (tag, attributes) => body.append(Object.assign(document.createElement(tag), attributes));
  add("h1", { textContent: title });
  for (const { question, images, answer, note } of turns) {
    for (const { name, url } of images) add("img", { src: url, alt: name });
    add("h2", { textContent: question, dir: "auto" });
    add("p", { textContent: answer, dir: "auto" });
    if (note) add("small", { textContent: note });
  }
  return `${HEAD}${head.innerHTML}\n${body.outerHTML}\n`;
}

export const MARKDOWN = { write: writeMarkdown, type: "text/markdown", suffix: ".md" };
export const HTML = { write: writeHtml, type: "text/html", suffix: ".html" };
