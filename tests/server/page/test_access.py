"""The page is accessible: keyboard, screen reader, narrow screens, light and dark."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.convert
TAB, ESCAPE = "\ue004", "\ue00c"
CONTROLS = ("button", "textbox", "slider", "spinbutton", "link", "DisclosureTriangle", "dialog")
# the colours of every visible text and its background, and their contrast (WCAG 2.1, 1.4.3)
CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] > 200) return colour;
  }
};
const poor = [];
let count = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest(".sr, .skip, :disabled")) continue;
  const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
  const contrast = (a + 0.05) / (b + 0.05);
  count += 1;
  if (contrast < 4.5) poor.push([walker.currentNode.data, contrast]);
}
return [count, poor];
"""


def names(page: Any) -> list[tuple[str, str]]:
    """(role, name) of the elements that Chromium exposes to assistive technology."""
    page.browser.devtools("Accessibility.enable")
    nodes = page.browser.devtools("Accessibility.getFullAXTree")["nodes"]
    page.browser.devtools("Accessibility.disable")
    return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]


@pytest.fixture
def talked(page: Any, image_file: Callable[..., bytes]) -> Any:
    """The page after a question about an image, with another image in the draft."""
    page.keep(temperature=0, maxTokens=12)
    page.drop(("noise.png", "image/png", image_file(seed=101)))
    page.ask("What?")
    page.wait_for_answer()
    page.click(".figures summary")
    page.drop(("noise.png", "image/png", image_file(seed=102)))
    return page


def test_everything_has_a_name(talked: Any) -> None:
    found = names(talked)
    assert [name for name in found if name[0] in CONTROLS and not name[1].strip()] == []
    assert {role for role, _ in found} >= {"banner", "main", "form", "log", "heading", "textbox", "article"}
    assert ("heading", "What?") in found
    assert ("textbox", "Question") in found
    assert ("button", "View noise.png") in found
    for opener, dialog in (("#settings", "Settings"), (".exchange .thumbnail", "Image")):
        talked.click(opener)
        assert ("dialog", dialog) in names(talked)
        assert [name for name in names(talked) if name[0] in CONTROLS and not name[1].strip()] == []
        talked.press(ESCAPE)
    assert talked.get("document.documentElement.lang") == "en"
    ids = talked.get("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))


def test_the_keyboard_reaches_everything_in_order(talked: Any) -> None:
    focused = (
        "const at = document.activeElement; const outline = getComputedStyle(at);"
        "return [at.ariaLabel || at.textContent.trim(), outline.outlineStyle !== 'none' || at.matches('#question')]"
    )
    talked.browser.emulate(height=1600)  # all of it is in view
    talked.run("document.body.tabIndex = -1; document.body.focus()")
    order = []
    for _ in range(18):
        talked.press(TAB)
        label, is_seen = talked.run(focused)
        assert is_seen, label
        order.append(label)
    assert order[:4] == ["Skip to the question", "New chat", "Settings", "Dark"]
    assert order[4].startswith("What?")
    assert order[5:7] == ["Actions for What?", "Delete everything"]
    assert order[7:11] == ["View noise.png", "Copy", "Ask again", "Another image"]
    assert order[11].startswith("12 tokens")
    assert order[12:] == ["View noise.png", "Remove noise.png", "Question", "Add images", "Take a photo", "Send"]


def test_the_focus_begins_and_stays_in_the_question(page: Any) -> None:
    is_there = "document.activeElement.id === 'question'"
    assert page.get(is_there)
    page.keep(maxTokens=4)
    page.type("#question", "What?")
    page.click("#send")
    page.wait_for_answer()
    assert page.get(is_there)


def test_words_stand_out(talked: Any) -> None:
    for scheme in ("light", "dark"):
        talked.browser.emulate(scheme=scheme)
        talked.until("document.documentElement.dataset.theme === given[0]", scheme)
        talked.until("document.getAnimations().every((each) => !(each instanceof CSSTransition))")
        count, poor = talked.run(CONTRASTS)
        assert count > 20
        assert poor == []


def test_dark_and_light(page: Any) -> None:
    def is_dark() -> bool:
        background = page.get("getComputedStyle(document.documentElement).backgroundColor")
        red = int(background.removeprefix("rgb(").split(",")[0])
        assert red < 64 or red > 192
        return red < 64

    page.run("localStorage.clear()")
    assert not is_dark()
    page.browser.emulate(scheme="dark")
    page.until("document.documentElement.dataset.theme === 'dark'")
    assert is_dark()
    assert page.get("document.querySelector(given[0]).getAttribute(given[1])", "#theme", "aria-pressed") == "true"
    page.click("#theme")
    assert not is_dark()
    page.reload()
    assert not is_dark()  # as it was chosen
    page.click("#theme")
    assert is_dark()
    assert json.loads(page.get("JSON.stringify(localStorage)")) == {}  # the device's again
    page.browser.emulate(scheme="light")
    page.until("document.documentElement.dataset.theme === 'light'")


def test_nothing_is_wider_than_the_screen(talked: Any) -> None:
    measure = (
        "Math.max(document.documentElement.scrollWidth, ...[...document.querySelectorAll("
        "'header, main, form, .card, .exchange, #chats, dialog[open], dialog[open] form')].map((e) => e.scrollWidth))"
    )
    for width in (320, 390, 1200):
        talked.browser.emulate(width=width, height=640)
        assert talked.get(measure) <= width
        talked.run("scrollTo(0, 0)")
        for opener in ("#settings", ".exchange .thumbnail", *["#show-chats"] * (width < 1120)):
            talked.click(opener)
            assert talked.get(measure) <= width
            talked.press(ESCAPE)
    talked.browser.emulate(width=320, height=640)
    talked.click("#new")
    assert talked.get(measure) <= 320


def test_the_end_stays_in_view_unless_one_reads_above(open_page: Callable[..., Any], lengthy: Any) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=100_000)
    page.browser.emulate(width=390, height=500)
    page.ask("Tell me everything.")
    page.until("document.documentElement.scrollHeight > innerHeight + 300")
    assert page.get("document.documentElement.scrollHeight - innerHeight - scrollY") < 96
    page.run("scrollTo(0, 0)")
    page.until("!document.querySelector('#latest').hidden")
    page.click("#latest")
    page.until("document.documentElement.scrollHeight - innerHeight - scrollY < 96")
    page.press(ESCAPE)
