"""All forms of base64 decode to the same bytes, and text that is not base64 is refused, in linear time."""

from __future__ import annotations

import base64
import contextlib
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_llava.server.images.image_data import ImageDataError, decode_image_data, find_scheme

FILE = bytes(range(256)) * 3 + b"\xfb\xff\xbf?"  # + and / among its digits, and padding at its end
PLAIN = base64.b64encode(FILE).decode()
URL_SAFE = base64.urlsafe_b64encode(FILE).decode()
LINES = "\n".join(textwrap.wrap(PLAIN, 76))
assert "+" in PLAIN
assert "/" in PLAIN
assert PLAIN.endswith("=")

CONTENTS: dict[str, str] = {
    "plain": PLAIN,
    "a space before": f" {PLAIN}",
    "a newline at the end": f"{PLAIN}\n",
    "lines of 76": LINES,
    "lines of 76 with CRLF": LINES.replace("\n", "\r\n") + "\r\n",
    "lines of 64 with tabs": "\n\t".join(textwrap.wrap(PLAIN, 64)),
    "no padding": PLAIN.rstrip("="),
    "too much padding": f"{PLAIN}==",
    "base64url": URL_SAFE,
    "base64url without padding": URL_SAFE.rstrip("="),
    "percent-encoded": quote(PLAIN, safe=""),
    "percent-encoded in lower case": quote(PLAIN, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "percent-encoded lines": quote(LINES.replace("\n", "\r\n"), safe=""),
}
HEADS = (
    "", "data:image/png;base64,", "data:;base64,", "data:application/octet-stream;base64,", "data:base64,", "data:,",
    "DATA:IMAGE/PNG;BASE64,", "data:image/jpg;charset=utf-8;base64,", 'data:image/png;name="a,b.png";base64,',
    "data:image/png;name=a.png;base64,", " data: image/png ; base64 ,", "data:image/svg+xml;base64,", "data:image/png,",
    "data:text/html;base64,", "\ndata:image/png;base64,",
)  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("content", CONTENTS)
def test_every_form_gives_the_same_bytes(head: str, content: str) -> None:
    assert decode_image_data(head + CONTENTS[content], len(FILE)) == FILE


@settings(deadline=None)
@given(st.binary(min_size=1), st.randoms())
def test_any_bytes_in_any_mixture_of_forms(data: bytes, random: object) -> None:
    text = base64.b64encode(data).decode().rstrip("=")
    mixed = "".join(
        random.choice((" ", "\r\n", "")) + random.choice((digit, digit.replace("+", "-").replace("/", "_")))  # type: ignore[attr-defined]
        for digit in text
    )
    assert decode_image_data(f"data:;base64,{mixed}", len(data)) == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data:image/png;base64,", "empty"),
        ("", "empty"),
        (" \n", "empty"),
        ("data:image/png;base64,====", "empty"),
        ("data:image/png;base64", "must have a comma"),
        ("data:" + "x" * 2000 + ",AAAA", "must have a comma"),
        ("data:image/png;base64,A", "not valid base64"),
        ("data:image/png;base64,AAAAA", "not valid base64"),
        ("data:image/png;base64,AA=AA", "not valid base64"),
        ("data:image/png;base64,AA*A", "not valid base64"),
        ("data:image/png;base64,AAé=", "not valid base64"),
        ("data:image/png;base64,AA%2", "not valid base64"),
        ("data:image/png,%89PNG", "not valid base64"),
        ("C/x.png", "not valid base64"),
        ("[object Object]", "not valid base64"),
    ],
)
def test_what_is_not_base64(text: str, says: str) -> None:
    with pytest.raises(ImageDataError, match=says):
        decode_image_data(text, 1000)


@pytest.mark.parametrize("form", [CONTENTS["plain"], CONTENTS["lines of 76 with CRLF"], CONTENTS["percent-encoded"]])
def test_bytes_are_counted_before_they_are_decoded(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode_image_data(form, len(FILE)) == FILE
    with pytest.raises(ImageDataError, match=f"at most {len(FILE) - 1} bytes"):
        decode_image_data(form, len(FILE) - 1)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("data:x", "data"), (" DATA :x", "data"), ("https://a/b", "https"), ("file:///etc/passwd", "file"),
        ("C:\\x.png", "c"), ("gopher://x", "gopher"), ("javascript:x", "javascript"), (PLAIN, ""), ("/etc/passwd", ""),
        ("x" * 40 + ":", ""), ("//host/x.png", ""),
    ],
)  # fmt: skip
def test_schemes(text: str, scheme: str) -> None:
    assert find_scheme(text) == scheme


HOSTILE: dict[str, Callable[[int], str]] = {
    "white space": lambda n: " " * n,
    "digits": lambda n: "A" * n,
    "padding": lambda n: "=" * n,
    "percent signs": lambda n: "%" * n,
    "encoded digits": lambda n: "%2b" * (n // 3),
    "parameters": lambda n: "data:" + "; " * (n // 2),
    "colons": lambda n: " :" * (n // 2),
    "heads": lambda n: "data:;base64," * (n // 13),
}


@pytest.mark.parametrize("kind", ["plain", "lines of 76 with CRLF", "base64url without padding", "percent-encoded"])
def test_decoding_takes_two_copies_of_the_text_at_most(kind: str) -> None:
    data = b"\xfb\xff\xbf?" * 500_000
    plain = base64.b64encode(data).decode()
    text = {
        "plain": plain,
        "lines of 76 with CRLF": "\r\n".join(plain[start : start + 76] for start in range(0, len(plain), 76)),
        "base64url without padding": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "percent-encoded": quote(plain, safe=""),
    }[kind]
    text = f"data:image/png;base64,{text}"
    tracemalloc.start()
    try:
        assert decode_image_data(text, len(data)) == data
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.01 * len(text) + 10_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_take_linear_time(kind: str) -> None:
    """16 times the text takes about 16 times as long; a quadratic step would take 256 times."""

    def measure(n: int) -> float:
        text, least = HOSTILE[kind](n), float("inf")
        for _ in range(3):
            started = time.thread_time()
            with contextlib.suppress(ImageDataError):
                decode_image_data(text, n)
            least = min(least, time.thread_time() - started)
        return least

    assert measure(4_000_000) < 60 * measure(250_000) + 0.05
