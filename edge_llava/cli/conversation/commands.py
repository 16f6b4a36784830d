"""The commands of the conversation, which begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_llava.cli.conversation.arguments import check_image_name
from edge_llava.cli.conversation.clipboard import copy_text, grab_screen, paste_image
from edge_llava.cli.conversation.conversation import Conversation, note_dim
from edge_llava.cli.conversation.export import save_transcript
from edge_llava.cli.conversation.pasted_paths import find_images, find_paths
from edge_llava.cli.conversation.settings import NAMES, change_setting
from edge_llava.cli.display import note

if TYPE_CHECKING:
    from edge_llava.cli.conversation.completion import Choices


@dataclass(frozen=True)
class _Command:
    run: Callable[[Conversation, str], None]
    usage: str
    meaning: str


def run_command(conversation: Conversation, line: str) -> None:
    """Runs the command in a line.

    Raises:
        EdgeLlavaError: If it fails.
    """
    name, _, argument = line.partition(" ")
    command = _COMMANDS.get(name)
    if command is None:
        note(f"there is no command {name}; /help lists them")
        return
    command.run(conversation, argument.strip())


def is_command(line: str) -> bool:
    """Whether a line is meant as a command: it begins with a slash, and not with the path of a file."""
    name = line.split(maxsplit=1)[0]
    return name in _COMMANDS or (name.startswith("/") and "/" not in name[1:] and not find_images(line).paths)


def completions() -> dict[str, Choices | None]:
    """Every command, with what completes its argument."""
    from edge_llava.cli.conversation.completion import list_bundle_names, list_image_paths, list_paths

    arguments: dict[str, Choices] = {
        "/image": list_image_paths,
        "/save": list_paths,
        "/load": list_bundle_names,
        "/set": lambda start: [f"{name} " for name in NAMES],
    }
    return {name: arguments.get(name) for name in (*_COMMANDS, "/exit")}


def add_images(conversation: Conversation, paths: tuple[str, ...]) -> None:
    """Adds images to the next question.

    Raises:
        EdgeLlavaError: If one cannot be read; those before it are added.
    """
    for path in paths:
        check_image_name(path)
        conversation.add(path)
        note_dim(f"image: {path}")


def note_pending(conversation: Conversation) -> None:
    """Notes how many images wait for a question, and begins to encode them.

    Raises:
        EdgeLlavaError: As `Session.prepare`.
    """
    n = len(conversation.pending)
    note(f"{n} image{'s' * (n > 1)} will go with the next question")
    conversation.prepare()


def _add_image(conversation: Conversation, argument: str) -> None:
    if not argument:
        note("which image? /image PATH")
        return
    add_images(conversation, find_paths(argument))
    note_pending(conversation)


def _paste(conversation: Conversation, argument: str) -> None:
    from edge_llava.runtime.vision.image import Image

    found = paste_image()
    if isinstance(found, str):
        add_images(conversation, (found,))
    else:
        conversation.add_opened("clipboard", Image.open(found), None)
    note_pending(conversation)


def _take_screenshot(conversation: Conversation, argument: str) -> None:
    from edge_llava.runtime.vision.image import Image

    conversation.add_opened("screenshot", Image.open(grab_screen()), None)
    note_pending(conversation)


def _list_images(conversation: Conversation, argument: str) -> None:
    images, n_pending = conversation.images, len(conversation.pending)
    if not images:
        note("no image in this conversation; /image PATH adds one")
    for number, image in enumerate(images, 1):
        is_next = number > len(images) - n_pending
        note(f"{number}  {image.name}{' (goes with the next question)' if is_next else ''}")


def _retry(conversation: Conversation, argument: str) -> None:
    last = conversation.undo()
    if last is None:
        note("nothing was asked yet")
        return
    conversation.ask(argument or last.question)


def _undo(conversation: Conversation, argument: str) -> None:
    last = conversation.undo()
    note("nothing was asked yet" if last is None else f"taken back: {last.question}")


def _clear(conversation: Conversation, argument: str) -> None:
    conversation.clear(keep_images=argument != "all")
    n = len(conversation.pending)
    about = f" about the same {n} image{'s' * (n > 1)}; /clear all drops them" if n else "; add an image with /image"
    note(f"a new conversation{about}")
    conversation.prepare()


def _change_system(conversation: Conversation, argument: str) -> None:
    if not argument:
        own = conversation.model.manifest.language.template.system
        note(f"system text: {conversation.system or own or '(none)'}")
        note("/system TEXT changes it, /system default restores the bundle's own.")
        return
    conversation.change_system("" if argument == "default" else argument)
    note("the bundle's own system text is used" if argument == "default" else "the system text is changed")


def _copy(conversation: Conversation, argument: str) -> None:
    if not conversation.turns:
        note("nothing was answered yet")
        return
    note(copy_text(conversation.turns[-1].answer) or "this terminal has no clipboard, and no program for one was found")


def _load(conversation: Conversation, argument: str) -> None:
    if not argument:
        note("which bundle? /load NAME; `edge-llava models` lists them")
        return
    conversation.load(argument)
    note(f"{conversation.model.bundle.name} answers now, in a new conversation")
    if conversation.pending:
        note_pending(conversation)


def _set(conversation: Conversation, argument: str) -> None:
    if argument.startswith("system"):
        _change_system(conversation, argument.removeprefix("system").strip())
        return
    note(change_setting(conversation.session, argument))


def _save(conversation: Conversation, argument: str) -> None:
    save_transcript(conversation.transcript, argument)


def _help(conversation: Conversation, argument: str) -> None:
    rows = [(command.usage, command.meaning) for command in _COMMANDS.values()]
    rows += [
        ("PATH", "a dropped or pasted image file is added, also within a question"),
        ('"""', "begins and ends a question of several lines; so does pasting one"),
        ("Tab", "completes commands, paths and names of bundles"),
        ("Ctrl-C", "stops the answer"),
        ("/exit, Ctrl-D", "leave"),
    ]
    note("\n".join(f"{usage:<15}{meaning}" for usage, meaning in rows))


_COMMANDS = {
    "/image": _Command(_add_image, "/image PATH", "add an image to the next question"),
    "/paste": _Command(_paste, "/paste", "add the image in the clipboard"),
    "/screenshot": _Command(_take_screenshot, "/screenshot", "add the screen as an image"),
    "/images": _Command(_list_images, "/images", "list the images of the conversation"),
    "/retry": _Command(_retry, "/retry [TEXT]", "ask the last question again, or another one in its place"),
    "/undo": _Command(_undo, "/undo", "take back the last question and its answer"),
    "/clear": _Command(_clear, "/clear [all]", "start a new conversation about the same images, or without"),
    "/system": _Command(_change_system, "/system TEXT", "tell the model how to answer"),
    "/set": _Command(_set, "/set temp 0.7", "change a setting; /set lists them"),
    "/load": _Command(_load, "/load NAME", "let another bundle answer, about the same images"),
    "/copy": _Command(_copy, "/copy", "copy the last answer to the clipboard"),
    "/save": _Command(_save, "/save [FILE]", "write the conversation to a .md or .html file"),
    "/help": _Command(_help, "/help", "show this list"),
}
