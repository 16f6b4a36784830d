from __future__ import annotations

import csv
import dataclasses
import os

import pytest

from edge_llava.captioning.caption import Caption
from edge_llava.captioning.caption_file import CaptionFile
from edge_llava.errors import EdgeLlavaError

COLUMNS = (
    "path,sha256,caption,finish_reason,n_tokens,seconds,duplicate_of,truncated,written_sha256,model,prompt,settings"
)
NASTY = 'Two "lines",\nand a comma;\r\nÄ 😀 \\n'


def caption(name, text="An image.", **more):
    return Caption(name, name[0] * 64, text, "stop", 3, 0.25, **more)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "captions.csv"


@pytest.fixture
def opened(out, provenance):
    """opened(overwrite=False, **changes of the provenance) -> CaptionFile."""

    def open_file(*, overwrite=False, **changes):
        return CaptionFile(out, dataclasses.replace(provenance, **changes), overwrite=overwrite)

    return open_file


def fill(opened, *captions):
    with opened() as file:
        for one in captions:
            file.append(one)


def rows(out):
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_other_programs_read_it(out, opened):
    fill(opened, caption("a.jpg", NASTY, truncated=True), caption("b.jpg").for_duplicate("c/copy.jpg"))
    first, second = rows(out)
    assert ",".join(first) == COLUMNS
    assert first == {
        "path": "a.jpg",
        "sha256": "a" * 64,
        "caption": NASTY,
        "finish_reason": "stop",
        "n_tokens": "3",
        "seconds": "0.25",
        "duplicate_of": "",
        "truncated": "true",
        "written_sha256": "",
        "model": "bundle",
        "prompt": "What?",
        "settings": "0123456789abcdef",
    }
    assert (second["path"], second["duplicate_of"], second["seconds"]) == ("c/copy.jpg", "b.jpg", "0.0")
    assert out.read_bytes().startswith(COLUMNS.encode() + b"\r\n")
    assert out.read_bytes().endswith(b"0123456789abcdef\r\n")


ANSWERS = ["=1+2", "'=1", "''-x", "'quoted'", "@SUM(A1)", "-", "+49", "\tx", "\r", "\uff1dA1", " =x", "", NASTY, "'"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_is_found_again_and_none_is_a_formula(out, opened, answer):
    image = dataclasses.replace(caption("a.jpg", answer), path=f"{answer}.jpg".replace("\r", ""))
    fill(opened, image)
    with opened() as file:
        assert file.find("a" * 64) == image
        assert file.names() == {image.path}
    (row,) = rows(out)
    assert row["caption"].removeprefix("'") == answer.removeprefix("'") or row["caption"] == f"'{answer}"
    assert not row["caption"].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert not row["path"].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))


@pytest.mark.parametrize("answer", [{"a": [1, None, "ü\n"]}, -5, 0, "=x", [], None, False])
def test_json_answers(out, opened, answer):
    with opened(kind="json") as file:
        file.append(caption("a.jpg", answer))
    with opened(kind="json") as file:
        assert file.find("a" * 64).answer == answer
    assert COLUMNS.replace("caption", "json") == ",".join(rows(out)[0])
    with pytest.raises(EdgeLlavaError, match="answers: JSON then, caption now"):
        opened(settings="f" * 16)
    with opened(settings="f" * 16, overwrite=True) as file:
        file.append(caption("a.jpg"))
    assert [row["caption"] for row in rows(out)] == ["An image."]


def test_half_a_row_is_dropped_wherever_it_was_cut(out, opened):
    fill(opened, caption("a.jpg", NASTY), caption("b.jpg", NASTY))
    whole = out.read_bytes()
    n_first = whole.index(b"b.jpg")
    for n in range(n_first + 1, len(whole) - 2):
        out.write_bytes(whole[:n])
        with opened() as file:
            assert file.names() == {"a.jpg"}, whole[:n]
            file.append(caption("b.jpg", NASTY))
        assert out.read_bytes() == whole


def test_half_of_the_header_is_dropped(out, opened):
    fill(opened, caption("a.jpg"))
    whole = out.read_bytes()
    for n in range(whole.index(b"\r\n") + 2):
        out.write_bytes(whole[:n])
        fill(opened, caption("a.jpg"))
        assert out.read_bytes() == whole


def test_a_header_of_other_answers_without_rows_is_replaced(out, opened):
    out.write_bytes(COLUMNS.replace("caption", "json").encode() + b"\r\n")
    with opened() as file:
        file.append(caption("a.jpg"))
        assert file.find("a" * 64) == caption("a.jpg")
    assert [row["caption"] for row in rows(out)] == ["An image."]


@pytest.mark.parametrize("end", [b"", b"\r"])
def test_a_row_that_only_lacks_its_end_is_kept(out, opened, end):
    fill(opened, caption("a.jpg"), caption("b.jpg"))
    out.write_bytes(out.read_bytes().removesuffix(b"\r\n") + end)
    fill(opened, caption("c.jpg"))
    assert [row["path"] for row in rows(out)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_file_that_a_spreadsheet_has_saved(out, opened):
    """With a byte-order mark, plain line ends and quotes around every cell."""
    fill(opened, caption("a.jpg"), caption("b.jpg"))
    first, *others = out.read_bytes().splitlines()
    quoted = [b'"' + line.replace(b",", b'","') + b'"' for line in others]
    out.write_bytes(b"\xef\xbb\xbf" + b"\n".join([first, *quoted]) + b"\n")
    with opened() as file:
        assert file.names() == {"a.jpg", "b.jpg"}
        assert file.find("b" * 64) == caption("b.jpg")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"path;caption\r\na.jpg;x\r\n", "line 1: it is not the header path,sha256,caption"),
        (b"some notes", "line 1: it is not the header"),
        (b'{"path": "a"}\n', "line 1: it is not the header"),
        (COLUMNS.encode() + b"\r\na.jpg,x\r\n", "line 2: it has 2 cells, not 12"),
        (COLUMNS.encode() + b'\r\na"b,"c\r\n', "line 2: it is not CSV"),
        (b"\xff\xd8\xff", "line 1"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(out, opened, content, says, overwrite):
    out.write_bytes(content + b"\r\n")
    with pytest.raises(EdgeLlavaError, match=rf"(?s)captions\.csv is not a caption file:.*{says}.*-o"):
        opened(overwrite=overwrite)
    assert out.read_bytes() == content + b"\r\n"


def test_a_quote_that_was_never_closed_costs_no_row(out, opened):
    """Everything behind it looks like half a row, which would be dropped."""
    fill(opened, *(caption(f"{letter}.jpg") for letter in "abcd"))
    content = out.read_bytes().replace(b"b.jpg", b'"b.jpg', 1)
    out.write_bytes(content)
    with pytest.raises(EdgeLlavaError, match="line 3: "):
        opened()
    assert out.read_bytes() == content


def test_undecodable_paths_survive(out, opened):
    name = os.fsdecode(b"caf\xe9.jpg")
    fill(opened, caption(name), caption("b.jpg", "half a pair: \ud83d").for_duplicate(name))
    out.read_text(encoding="utf-8")
    with opened() as file:
        assert file.names() == {name}
