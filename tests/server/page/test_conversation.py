"""Questions and answers on the page."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import edge_llava
from edge_llava.runtime.vision.image_encoder import ImageEncoder

pytestmark = pytest.mark.convert
N_TOKENS = 40
ESCAPE, CONTROL, SHIFT = "\ue00c", "\ue009", "\ue008"
WATCH = """
window.lengths = [];
new MutationObserver(() => window.lengths.push(document.querySelector(".answer").textContent.length))
  .observe(document.querySelector("#turns"), { subtree: true, childList: true, characterData: true });
"""

READ_LATER = """
const real = createImageBitmap;
const { promise, resolve } = Promise.withResolvers();
window.createImageBitmap = async (...given) => { await promise; return real(...given); };
window.readNow = () => { resolve(); return new Promise((done) => setTimeout(done, 100)); };
"""


@pytest.fixture(scope="module")
def process_url(serve_process: Callable[..., Any]) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    with serve_process("--port", "0") as (url, _):
        yield url


@pytest.fixture(scope="module")
def reference(seeded_f32: Path, image_file: Callable[..., bytes]) -> list[str]:
    """The library's greedy answers to two questions about an image."""
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_TOKENS)
    with edge_llava.load(seeded_f32) as model:
        session = model.session(options)
        first = "".join(token.text for token in session.ask("What is it?", image=image_file(seed=103)))
        return [first, "".join(token.text for token in session.ask("And what else?"))]


def test_a_dropped_image_is_asked_about(
    open_page: Callable[..., Any], process_url: str, image_file: Callable[..., bytes], reference: list[str]
) -> None:
    page = open_page(process_url)
    page.click("#settings")
    page.run("document.querySelector('[name=temperature]').value = 0")
    page.run("document.querySelector('[name=maxTokens]').value = ''")
    page.type("[name=maxTokens]", f"{N_TOKENS}\n")
    page.until("!document.querySelector('#settings-dialog').open")

    page.drop(("noise.png", "image/png", image_file(seed=103)))
    assert page.is_shown("#ideas")
    page.ask("What is it?")
    assert page.wait_for_answer() == reference[0]
    heard = page.get("[...document.querySelectorAll('#announcer p')].map((line) => line.textContent)")
    assert heard[0] == "Looking…"
    assert "".join(heard[1:-1]).strip() == reference[0].strip()
    assert page.text(".note") == heard[-1] == f"Cut off after {N_TOKENS} tokens, as the settings say."

    assert page.text(".figures summary").startswith(f"{N_TOKENS} tokens · ")
    assert "tokens/s · first after " in page.text(".figures summary")
    page.click(".figures summary")
    assert page.is_shown(".bar")
    assert page.get("[...document.querySelectorAll('.times dt')].map((term) => term.textContent)") == [
        "Sending", "Waiting", "Seeing", "Reading", "Writing",
    ]  # fmt: skip
    counts = (
        "Object.fromEntries([...document.querySelectorAll('.exchange:last-child .counts div')].map((row) => ["
        "row.firstChild.textContent, row.lastChild.textContent]))"
    )
    first = page.get(counts)
    assert (first["of images"], first["Answer"]) == ("64", str(N_TOKENS))
    assert first["Context used"] == f"{int(first['Prompt']) + N_TOKENS} of 1024"

    page.ask("And what else?")
    assert page.wait_for_answer() == reference[1]
    assert int(page.get(counts)["from cache"]) > 64  # the image was not computed again


def test_an_image_is_read_while_the_question_is_written(
    page: Any, server: Any, image_file: Callable[..., bytes]
) -> None:
    engine = server.app.answers.engine
    n_answers, n_encoded = engine.metrics.answers_total, engine.metrics.images_encoded_total
    page.drop(("noise.png", "image/png", image_file(seed=104)))
    server.wait_until(lambda: engine.metrics.images_encoded_total > n_encoded and not server.app.answers._prepared)
    assert engine.metrics.answers_total == n_answers
    page.ask("What is it?")
    page.wait_for_answer()
    page.click(".figures summary")
    cached = page.get("[...document.querySelectorAll('.counts div')].map((row) => row.textContent)")
    assert any(row.startswith("from cache") and int(row.removeprefix("from cache")) > 64 for row in cached)
    assert engine.metrics.images_encoded_total == n_encoded + 1


def test_an_image_that_is_removed_is_not_read_on(
    page: Any, server: Any, image_file: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, encode = threading.Event(), ImageEncoder.encode
    entered = threading.Event()

    def hold(self: Any, *arguments: Any, **options: Any) -> Any:
        entered.set()
        assert release.wait(30)
        return encode(self, *arguments, **options)

    monkeypatch.setattr(ImageEncoder, "encode", hold)
    page.drop(("noise.png", "image/png", image_file(seed=105)))
    assert entered.wait(30)
    assert len(server.app.answers._prepared) == 1
    page.click("#shown button[aria-label^=Remove]")
    server.wait_until(lambda: not server.app.answers._prepared)
    release.set()


def test_an_answer_is_stopped(open_page: Callable[..., Any], lengthy: Any) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=100_000)
    n_before = lengthy.engine.metrics.cancelled_total
    page.ask("Tell me everything.")
    page.run(WATCH)
    page.until("window.lengths.length > 5")
    assert page.is_shown("#stop")
    page.press(ESCAPE)
    answer = page.wait_for_answer()
    assert page.text(".note") == "Stopped."
    lengths = page.get("window.lengths")
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] > 0  # it was seen to grow
    assert " s · first after " in page.text(".figures summary")
    lengthy.wait_until(lambda: lengthy.engine.metrics.cancelled_total == n_before + 1)  # the engine stopped as well
    assert page.text(".answer") == answer


def test_what_was_not_answered_is_back_in_the_box(
    open_page: Callable[..., Any], lengthy: Any, occupy: Callable[[int], Any], image_file: Callable[..., bytes]
) -> None:
    page = open_page(lengthy.url)
    page.drop(("noise.png", "image/png", image_file(seed=104)))
    occupy(1)
    page.ask("What is it?")
    page.until("document.querySelector('.doing')")
    page.type("#question", "Later.")
    page.click("#stop")
    page.until("document.querySelector('#stop').hidden")
    assert page.get("document.querySelector('.exchange')") is None
    assert page.get("document.querySelector('#question').value") == "What is it?\nLater."
    assert page.get("document.querySelectorAll('#shown .thumbnail').length") == 1


def test_asked_again_a_question_has_one_answer(page: Any) -> None:
    page.keep(temperature=0, maxTokens=6)
    page.ask("Once?")
    first = page.wait_for_answer()
    page.click("[data-again]")
    assert page.wait_for_answer() == first
    page.ask("Twice?")
    page.wait_for_answer()
    questions = page.get("[...document.querySelectorAll('.question')].map((question) => question.textContent)")
    assert questions == ["Once?", "Twice?"]
    offered = "[...document.querySelectorAll('[data-again]')].map((button) => button.checkVisibility())"
    assert page.get(offered) == [False, True]


def test_instructions_reach_the_model(page: Any, server: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    with server.client() as client:
        answer = server.ask(client, messages=messages, temperature=0, max_tokens=8).json()
    page.keep(temperature=0, maxTokens=8, system="Be brief.")
    page.ask("Why?")
    assert page.wait_for_answer() == answer["choices"][0]["message"]["content"]


def test_lines_and_words_of_an_input_method(page: Any) -> None:
    page.type("#question", f"one{SHIFT}\n{SHIFT}two")
    page.run(
        "document.querySelector('#question').dispatchEvent(new KeyboardEvent('keydown',"
        " { key: 'Enter', isComposing: true, bubbles: true }))"
    )
    assert page.get("document.querySelector('#question').value") == "one\ntwo"
    assert page.get("document.querySelector('.exchange')") is None


def test_an_answer_is_copied(page: Any) -> None:
    page.keep(temperature=0, maxTokens=6)
    page.ask("What?")
    answer = page.wait_for_answer()
    page.click("[data-copy]")
    page.until("document.querySelector('[data-copy] span').textContent === 'Copied'")
    page.type("#question", f"{CONTROL}v")
    assert page.get("document.querySelector('#question').value") == answer


def test_new_chat_starts_over_and_stops(open_page: Callable[..., Any], lengthy: Any) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=100_000)
    n_before = lengthy.engine.metrics.cancelled_total
    page.ask("Tell me everything.")
    page.until("document.querySelector('.answer')?.textContent.length > 3")
    page.click("#new")
    lengthy.wait_until(lambda: lengthy.engine.metrics.cancelled_total == n_before + 1)
    assert page.get("document.querySelector('.exchange')") is None
    assert not page.is_shown("#fault")
    assert page.is_shown("#target")


def test_a_new_chat_drops_a_question_whose_image_is_still_read(page: Any, image_file: Callable[..., bytes]) -> None:
    page.keep(temperature=0, maxTokens=4)
    page.run(READ_LATER)
    assert page.hand_over("drop", ("noise.png", "image/png", image_file(seed=107)))
    page.ask("Where is it?")
    page.click("#new")
    assert page.get("document.querySelectorAll('#shown li').length") == 0
    page.run("await window.readNow()")
    page.ask("And now?")
    page.wait_for_answer()
    assert page.texts(".question") == ["And now?"]
    assert page.get("document.querySelectorAll('.exchange img, #shown li').length") == 0


def test_a_question_waits_for_all_images_in_its_own_conversation(page: Any, image_file: Callable[..., bytes]) -> None:
    page.keep(temperature=0, maxTokens=4)
    page.ask("First?")
    page.wait_for_answer()
    page.until("document.querySelector('#chats li')")
    page.click("#new")
    page.run(READ_LATER)
    assert page.hand_over("drop", ("noise.png", "image/png", image_file(seed=107)))
    page.ask("Where is it?")
    page.click("#chats li > button")
    page.until("document.querySelector('.question')")
    page.run("await window.readNow()")
    page.until("document.querySelectorAll('#shown .thumbnail').length === 1")
    assert page.texts(".question") == ["First?"]
    assert page.get("document.querySelector('#question').value") == "Where is it?"  # it can still be sent here
    page.press("\n")
    page.until("document.querySelectorAll('.question').length === 2")
    page.wait_for_answer()
    assert page.get("document.querySelectorAll('.exchange:last-child .images img').length") == 1


def test_an_answer_is_announced_by_sentences(page: Any) -> None:
    text = "It is 3.5 m wide. Really? Yes!\nThe end"
    announced = page.run(
        """
        const { Announcer } = await import("/page/announcer.js");
        const region = document.createElement("div");
        const announcer = new Announcer(region);
        announcer.say("Thinking…");
        for (const piece of given[0]) announcer.feed(piece);
        announcer.finish();
        announcer.finish();
        return [...region.children].map((line) => line.textContent);
        """,
        text,
    )
    assert announced == ["Thinking…", "It is 3.5 m wide. ", "Really? ", "Yes!\n", "The end"]


def test_an_answer_is_never_markup(page: Any) -> None:
    text = "<img src=x onerror=document.title='owned'>\n<b>two</b>"
    shown = page.run(
        """
        const { Exchange } = await import("/page/exchange.js");
        const exchange = new Exchange({ question: given[0], images: [] }, { onDrawn() {} });
        document.querySelector("#turns").append(exchange.element);
        exchange.write(given[0]);
        const { element } = exchange;
        return [element.querySelector(".answer").textContent, element.querySelector(".question").textContent,
          element.querySelectorAll("img, b").length];
        """,
        text,
    )
    assert shown == [text, text, 0]
    assert page.get("document.title") == "edge-llava"


def test_events_are_read_wherever_they_are_cut(page: Any) -> None:
    stream = (
        ': hello\n\ndata: {"a": "héé"}\r\n\r\nevent: x\r\ndata:one\r\ndata: two\n\nid: 7\n\ndata: ünd\r\rdata: lost'
    )
    cuts = page.run(
        """
        const { readEvents } = await import("/page/events.js");
        const bytes = new TextEncoder().encode(given[0]);
        const all = [];
        for (let first = 0; first <= bytes.length; first++) {
          for (const second of [first, first + 1, bytes.length]) {
            const parts = [bytes.slice(0, first), bytes.slice(first, second), bytes.slice(second)];
            const body = new ReadableStream({ start(control) {
              for (const part of parts) control.enqueue(part);
              control.close();
            } });
            const events = [];
            for await (const event of readEvents(body)) events.push(event);
            all.push(JSON.stringify(events));
          }
        }
        return [all.length, [...new Set(all)]];
        """,
        stream,
    )
    assert cuts == [3 * (len(stream.encode()) + 1), ['["{\\"a\\": \\"héé\\"}","one\\ntwo","ünd"]']]


def test_the_page_is_small_and_whole(
    open_page: Callable[..., Any], server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge_llava.server")
    page = open_page(server.url)
    files = {path.name: path for path in (Path(edge_llava.__file__).parent / "server" / "page" / "static").iterdir()}
    texts = [re.sub(r"/\*.*?\*/|(?m:^\s*//.*$)", "", path.read_text(), flags=re.DOTALL) for path in files.values()]
    assert sum(len(text.encode()) for text in texts) < 80_000  # comments are free
    page.click("#settings")
    page.check()
    loaded = {url.rsplit("/", 1)[1] for url in page.requests if "/page/" in url}
    assert loaded == files.keys() - {"index.html"}
    assert " GET / " in caplog.text
    assert "/page/" not in caplog.text  # a line for each would bury the others
    with httpx.Client() as client:
        policy = client.get(server.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
