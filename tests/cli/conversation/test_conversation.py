"""A conversation whose images have no file, lose it, or are changed; and one of which nothing is left."""

from __future__ import annotations

from PIL import Image, ImageGrab

from edge_llava.cli.conversation.commands import run_command


def test_an_image_of_the_clipboard_has_no_file(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(ImageGrab, "grab", lambda: Image.new("RGB", (8, 8)))
    for name in ("clipboard", "screenshot"):
        (tmp_path / name).write_text("a file of that name")
    run_command(conversation, "/paste")
    run_command(conversation, "/screenshot")
    assert [(image.name, image.file) for image in conversation.pending] == [("clipboard", None), ("screenshot", None)]
