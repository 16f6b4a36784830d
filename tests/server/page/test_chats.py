"""Conversations that the browser keeps."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.convert
ESCAPE = "\ue00c"
TITLES = "[...document.querySelectorAll('#chats li b')].map((title) => title.textContent)"
QUESTIONS = "[...document.querySelectorAll('.question')].map((question) => question.textContent)"
ASKS_FIRST = """
const event = new Event("beforeunload", { cancelable: true });
dispatchEvent(event);
return event.defaultPrevented;
"""
LEAVES = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
STORED = """
const { got, useDatabase } = await import("/page/database.js");
const records = await useDatabase("readonly", (store) => got(store.getAll()));
return records.map(({ turns }) => turns.map(({ question, answer, note }) => [question, answer, note]));
"""
FILL_UP = """
const real = IDBObjectStore.prototype.put;
window.isFull = true;
IDBObjectStore.prototype.put = function (...given) {
  if (window.isFull) throw new DOMException("", "QuotaExceededError");
  return real.apply(this, given);
};
"""
FULL = "The browser's storage is full: this conversation is not kept."
CLEAR = """
const { useDatabase } = await import("/page/database.js");
await useDatabase("readwrite", (store) => store.clear());
"""
SETTLED = "await new Promise((done) => setTimeout(done, 100));" + STORED
N_TOKENS = 6
PATIENCE_S = 30.0


@pytest.fixture
def kept(page: Any) -> Any:
    """The page with short, greedy answers."""
    page.keep(temperature=0, maxTokens=N_TOKENS)
    return page


def ask(page: Any, question: str) -> str:
    """Asks in the conversation on the page, and waits until it is kept."""
    n_before = len(page.texts(".exchange"))
    page.ask(question)
    page.until("document.querySelectorAll('.exchange').length === given[0]", n_before + 1)
    answer = str(page.wait_for_answer())
    page.until("document.querySelector('#chats li:first-child [aria-current=true]')")
    return answer


def check_stored(page: Any, *conversations: list[str]) -> None:
    """Waits until the browser keeps conversations of exactly these questions."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := sorted([question for question, *_ in turns] for turns in page.run(STORED))) != [*conversations]:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def revisit(page: Any) -> None:
    """Opens the page in another tab of the same browser."""
    page.browser.open_tab()
    page.browser.send("/url", url=page.url)


def open_chat(page: Any, title: str) -> None:
    page.until(f"{TITLES}.includes(given[0])", title)
    index = page.get(TITLES).index(title) + 1
    page.click(f"#chats li:nth-child({index}) > button")
    page.until("document.querySelector(given[0])?.ariaCurrent === 'true'", f"#chats li:nth-child({index}) > button")


def act(page: Any, index: int, label: str) -> None:
    """Chooses an action of a conversation in the list, counted from 1."""
    page.click(f"#chats li:nth-child({index}) summary")
    labels = page.texts(f"#chats li:nth-child({index}) details button")
    page.click(f"#chats li:nth-child({index}) details button:nth-of-type({labels.index(label) + 1})")


def agree(page: Any) -> None:
    page.until("document.querySelector('#question-dialog').open")
    page.click("#question-dialog .solid")
    page.until("!document.querySelector('#question-dialog').open")


def test_a_conversation_goes_on_after_a_reload_and_in_a_new_tab(
    kept: Any, server: Any, image_file: Callable[..., bytes], data_uri: Callable[..., str], ask_user: Any
) -> None:
    kept.drop(("noise.png", "image/png", image_file(seed=120)))
    first = ask(kept, "What is it?")
    figures = kept.text(".figures summary")
    kept.type("#question", "A draft")
    kept.reload()
    kept.until("document.querySelector('.exchange')")
    assert (kept.text(".answer"), kept.text(".figures summary")) == (first, figures)
    assert kept.text(".note") == f"Cut off after {N_TOKENS} tokens, as the settings say."
    assert kept.get("document.querySelector('.exchange img').src") == data_uri(seed=120)  # byte for byte

    revisit(kept)
    kept.until("document.querySelector('#chats li')")
    assert kept.is_shown("#target")  # a new tab begins a new conversation
    open_chat(kept, "What is it?")
    second = ask(kept, "And else?")
    question = ask_user("What is it?", data_uri(seed=120))
    question["content"].reverse()  # images come first, as the page sends them
    messages = [question, {"role": "assistant", "content": first}, {"role": "user", "content": "And else?"}]
    with server.client() as client:
        same = server.ask(client, messages=messages, temperature=0, max_tokens=N_TOKENS).json()
    assert second == same["choices"][0]["message"]["content"]


def test_conversations_are_listed_renamed_and_deleted(kept: Any, image_file: Callable[..., bytes]) -> None:
    assert not kept.is_shown("#chats")
    kept.drop(("noise.png", "image/png", image_file(seed=121)))
    ask(kept, "First?")
    kept.click("#new")
    assert kept.get(QUESTIONS) == []
    ask(kept, "Second?")
    assert kept.get(TITLES) == ["Second?", "First?"]
    icons = kept.get("[...document.querySelectorAll('#chats li img')].map((image) => image.src)")
    assert icons[0].endswith("page/icon.svg")
    assert icons[1].startswith("data:image/jpeg;base64,")
    open_chat(kept, "First?")
    assert kept.get(QUESTIONS) == ["First?"]
    ask(kept, "More?")
    assert kept.get(TITLES) == ["First?", "Second?"]  # the latest is first

    act(kept, 2, "Rename")
    kept.until("document.querySelector('#question-dialog').open")
    kept.press("Renamed\n")
    kept.until(f"{TITLES}[1] === 'Renamed'")
    assert kept.get("document.activeElement.ariaLabel") == "Actions for Renamed"
    open_chat(kept, "Renamed")
    ask(kept, "Still?")
    assert kept.get(TITLES) == ["Renamed", "First?"]  # an answer does not undo it

    act(kept, 1, "Delete")
    kept.until("document.querySelector('#question-dialog').open")
    kept.press(ESCAPE)
    assert kept.get(QUESTIONS) == ["Second?", "Still?"]
    act(kept, 1, "Delete")
    agree(kept)
    kept.until(f"{TITLES}.length === 1")
    assert kept.get(QUESTIONS) == []
    assert kept.get("document.activeElement.id") == "question"
    kept.reload()
    kept.until(f"{TITLES}.length === 1")
    assert kept.get(TITLES) == ["First?"]


def test_a_phone_shows_the_list_on_demand(kept: Any) -> None:
    kept.browser.emulate(width=360, height=740)
    assert not kept.is_shown("#show-chats")  # there is nothing to show
    ask(kept, "First?")
    kept.click("#new")
    assert not kept.is_shown("#chats")
    kept.click("#show-chats")
    assert kept.is_shown("#chats")
    open_chat(kept, "First?")
    kept.until("!document.querySelector('#chats').checkVisibility()")
    assert kept.get(QUESTIONS) == ["First?"]
    kept.click("#show-chats")
    kept.press(ESCAPE)
    assert not kept.is_shown("#chats")


def test_one_button_deletes_everything(kept: Any) -> None:
    for question in ("First?", "Second?"):
        kept.click("#new")
        ask(kept, question)
    kept.click("[data-remove-all]")
    assert "(2)" in kept.text("#question-title")
    kept.click("#question-dialog [data-close]")
    check_stored(kept, ["First?"], ["Second?"])
    kept.click("[data-remove-all]")
    agree(kept)
    kept.until("!document.body.classList.contains('has-chats')")
    check_stored(kept)
    assert kept.get(QUESTIONS) == []
    assert kept.is_shown("#target")


@pytest.mark.parametrize("is_told", [False, True])
def test_everything_includes_a_conversation_that_is_first_answered(
    open_page: Callable[..., Any], lengthy: Any, is_told: bool
) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=N_TOKENS)
    ask(page, "First?")
    page.keep(temperature=0, maxTokens=100_000)
    page.until("document.querySelector('.exchange')")
    page.click("#new")
    n_before = lengthy.engine.metrics.cancelled_total
    page.ask("Tell me everything.")
    page.until("document.querySelector('.answer')?.textContent.length > 3")
    if is_told:  # another tab did it
        page.run(CLEAR)
        page.run("new BroadcastChannel('edge-llava.chats').postMessage({ id: null, isDeleted: true })")
    else:
        page.click("[data-remove-all]")
        agree(page)
    page.until(f"{QUESTIONS}.length === 0 && {TITLES}.length === 0")
    lengthy.wait_until(lambda: lengthy.engine.metrics.cancelled_total == n_before + 1)
    assert page.run(SETTLED) == []
    assert not page.is_shown("#fault")


def test_what_was_deleted_elsewhere_is_not_restored(kept: Any) -> None:
    ask(kept, "First?")
    kept.run(CLEAR)  # by a tab that this one did not hear of
    ask(kept, "Second?")
    assert kept.wait_for_fault().startswith("This conversation is no longer stored: it was deleted elsewhere.")
    ask(kept, "Third?")
    assert not kept.is_shown("#fault")  # it was told once
    assert kept.run(SETTLED) == []
    assert kept.run(ASKS_FIRST)
    kept.click("#new")
    ask(kept, "Another?")
    check_stored(kept, ["Another?"])


def test_a_failed_deletion_is_reported_each_time(kept: Any) -> None:
    ask(kept, "First?")
    kept.run(
        "IDBObjectStore.prototype.delete = IDBObjectStore.prototype.clear ="
        " () => { throw new DOMException('', 'UnknownError'); }"
    )
    for way in ("Delete", "everything"):
        if way == "Delete":
            act(kept, 1, way)
        else:
            kept.click("[data-remove-all]")
        agree(kept)
        assert kept.wait_for_fault().startswith("The browser could not delete")
        kept.click("#fault button")
        assert kept.get(TITLES) == ["First?"]


def test_nothing_is_stored_without_consent(page: Any, image_file: Callable[..., bytes]) -> None:
    page.keep(temperature=0, maxTokens=N_TOKENS, keeps=False)
    assert not page.run(ASKS_FIRST)
    page.drop(("noise.png", "image/png", image_file(seed=122)))
    ask(page, "A secret?")
    page.click("#new")
    ask(page, "Another secret?")
    assert page.run(STORED) == []
    assert "secret" not in page.get("JSON.stringify({ ...localStorage, ...sessionStorage })")
    open_chat(page, "A secret?")  # while the tab is open
    act(page, 2, "Rename")
    page.until("document.querySelector('#question-dialog').open")
    page.press("Renamed\n")
    page.until(f"{TITLES}[1] === 'Renamed'")
    ask(page, "More?")
    assert page.get(TITLES) == ["Renamed", "Another secret?"]
    assert page.run(ASKS_FIRST)
    page.reload()
    page.until("document.querySelector('#model-name').textContent")
    assert (page.get(TITLES), page.get(QUESTIONS)) == ([], [])


def test_keeping_is_switched_off_and_on(kept: Any) -> None:
    for question in ("First?", "Second?"):
        kept.click("#new")
        ask(kept, question)
    assert not kept.run(ASKS_FIRST)
    kept.click("#settings")
    kept.click("[name=keeps]")
    kept.click("#settings-dialog .solid")
    kept.until("document.querySelector('#question-dialog').open")
    kept.press(ESCAPE)
    check_stored(kept, ["First?"], ["Second?"])

    kept.click("#settings")
    kept.click("[name=keeps]")
    kept.click("#settings-dialog .solid")
    agree(kept)
    kept.until(f"{TITLES}.length === 1")
    check_stored(kept)
    assert (kept.get(TITLES), kept.get(QUESTIONS)) == (["Second?"], ["Second?"])  # the one on the page stays
    assert kept.run(ASKS_FIRST)

    kept.click("#settings")
    kept.click("[name=keeps]")
    kept.click("#settings-dialog .solid")
    ask(kept, "Third?")
    check_stored(kept, ["Second?", "Third?"])
    kept.until(LEAVES)


def test_a_browser_that_stores_nothing(open_page: Callable[..., Any], server: Any) -> None:
    page = open_page(server.url)
    blocked = "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('', 'SecurityError'); } })"
    page.browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=blocked)
    page.keep(temperature=0, maxTokens=N_TOKENS)
    page.until("!document.querySelector('#promise .kept').checkVisibility()")
    assert page.is_shown("#promise .unkept")
    ask(page, "First?")
    assert page.wait_for_fault() == ("The browser does not let this page store anything: conversations are not kept.")
    page.click("#fault button")
    page.click("#new")
    ask(page, "Second?")
    assert not page.is_shown("#fault")  # it was told once
    open_chat(page, "First?")
    assert page.get(QUESTIONS) == ["First?"]
    assert page.run(ASKS_FIRST)
    act(page, 2, "Delete")
    agree(page)
    page.until(f"{TITLES}.length === 1")
    assert not page.is_shown("#fault")  # it was in this tab only


def test_a_full_storage_is_reported(open_page: Callable[..., Any], run_server: Callable[..., Any]) -> None:
    page = open_page(run_server().url)  # a new origin: the browser remembers for a while how much room one has
    page.browser.devtools("Storage.overrideQuotaForOrigin", origin=page.url, quotaSize=1000)
    page.keep(temperature=0, maxTokens=N_TOKENS)
    ask(page, "First?")
    assert page.wait_for_fault().startswith("The browser's storage is full: this conversation is not kept.")
    assert page.run(ASKS_FIRST)
    assert page.run(STORED) == []
    page.browser.devtools("Storage.overrideQuotaForOrigin", origin=page.url)
    ask(page, "Second?")  # there is room again
    page.until(LEAVES)
    check_stored(page, ["First?", "Second?"])


def test_room_that_a_deletion_makes_is_used_at_once(kept: Any) -> None:
    ask(kept, "First?")
    kept.run(FILL_UP)
    kept.click("#new")
    ask(kept, "Second?")
    assert kept.wait_for_fault().startswith(FULL)
    assert not kept.is_shown("#chats .kept")
    kept.click("#fault button")
    ask(kept, "Third?")
    assert not kept.is_shown("#fault")  # it was told once
    kept.run("window.isFull = false")
    act(kept, 2, "Delete")
    agree(kept)
    check_stored(kept, ["Second?", "Third?"])
    kept.until(LEAVES)
    kept.until("document.querySelector('#chats .kept').checkVisibility()")
    kept.run("window.isFull = true")
    ask(kept, "Fourth?")
    assert kept.wait_for_fault().startswith(FULL)  # it is full again


def test_a_title_outlasts_a_full_storage(kept: Any) -> None:
    ask(kept, "First?")
    act(kept, 1, "Rename")
    kept.until("document.querySelector('#question-dialog').open")
    kept.press("One\n")
    kept.until(f"{TITLES}[0] === 'One'")
    kept.run(FILL_UP)
    ask(kept, "Second?")
    assert kept.get(TITLES) == ["One"]
    act(kept, 1, "Rename")
    kept.until("document.querySelector('#question-dialog').open")
    kept.press("Two\n")
    kept.until(f"{TITLES}[0] === 'Two'")
    kept.run("window.isFull = false")
    ask(kept, "Third?")
    check_stored(kept, ["First?", "Second?", "Third?"])
    kept.reload()
    kept.until(f"{TITLES}.length === 1")
    assert kept.get(TITLES) == ["Two"]


def test_two_tabs_lose_nothing(kept: Any) -> None:
    ask(kept, "First?")
    (one,) = kept.browser.send("/window/handles", method="GET")
    two = kept.browser.send("/window/new", type="tab")["handle"]
    kept.browser.send("/window", handle=two)
    kept.browser.emulate()
    kept.browser.send("/url", url=kept.url)
    open_chat(kept, "First?")
    ask(kept, "In the second tab?")
    kept.browser.send("/window", handle=one)
    ask(kept, "In the first tab?")
    kept.until(f"{TITLES}.length === 2")
    check_stored(kept, ["First?", "In the first tab?"], ["First?", "In the second tab?"])
    kept.browser.send("/window", handle=two)
    kept.until(f"{TITLES}.length === 2")  # it was told
    kept.browser.send("/window", handle=one)
    kept.click("[data-remove-all]")
    agree(kept)
    check_stored(kept)
    kept.browser.send("/window", method="DELETE")
    kept.browser.send("/window", handle=two)
    kept.until(f"{TITLES}.length === 0 && {QUESTIONS}.length === 0")
    check_stored(kept)  # it did not put its own back


def test_what_is_left_while_it_is_answered_is_kept(open_page: Callable[..., Any], lengthy: Any) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=100_000)
    n_before = lengthy.engine.metrics.cancelled_total
    page.ask("Tell me everything.")
    page.until("document.querySelector('.answer')?.textContent.length > 3")
    assert page.run(ASKS_FIRST)
    page.click("#new")
    lengthy.wait_until(lambda: lengthy.engine.metrics.cancelled_total == n_before + 1)
    open_chat(page, "Tell me everything.")
    assert len(page.text(".answer")) > 3
    assert page.text(".note") == "Interrupted."
    assert not page.run(ASKS_FIRST)
    page.ask("Go on.")
    page.until("document.querySelector('.exchange:last-child .answer').textContent.length > 3")
    page.click("#chats li > button")  # the conversation that is shown already
    page.until("document.querySelector('.exchange:last-child .answer').textContent.length > 30")
    assert page.is_shown("#stop")
    page.press(ESCAPE)
    page.wait_for_answer()


def test_a_hidden_page_keeps_a_question_until_it_is_answered_or_refused(
    open_page: Callable[..., Any], lengthy: Any, occupy: Callable[[int], Any]
) -> None:
    page = open_page(lengthy.url)
    occupy(1)
    page.ask("Tell me everything.")
    page.until("document.querySelector('.doing')")
    page.run(
        "Object.defineProperty(document, 'hidden', { value: true });"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )
    page.until(f"{TITLES}.length === 1")
    assert page.run(STORED) == [[["Tell me everything.", "", "Interrupted."]]]
    page.press(ESCAPE)
    page.until(f"{TITLES}.length === 0")
    check_stored(page)
    assert page.get("document.querySelector('#question').value") == "Tell me everything."


def test_conversations_are_saved_as_files(
    kept: Any, server: Any, image_file: Callable[..., bytes], tmp_path: Any
) -> None:
    kept.browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    question = "<b>Is it</b> a cat?"
    kept.drop(("noise.png", "image/png", image_file(seed=124)))
    answer = ask(kept, question)
    saved = {
        label: tmp_path / f"b-Is-it-b-a-cat.{suffix}"
        for label, suffix in (("Save as HTML", "html"), ("Save as Markdown", "md"))
    }
    for label, path in saved.items():
        act(kept, 1, label)
        server.wait_until(path.exists)
    url = f"data:image/png;base64,{base64.b64encode(image_file(seed=124)).decode()}"
    html, text = (path.read_text(encoding="utf-8") for path in saved.values())
    note = f"*Cut off after {N_TOKENS} tokens, as the settings say.*"
    assert text == (
        f"# {question}\n\n![noise.png][image-1]\n\n**User:** {question}\n\n**Assistant:** {answer}\n\n{note}\n\n"
        f"[image-1]: {url}\n"
    )
    shown = kept.run(
        """
        const page = new DOMParser().parseFromString(given[0].replace(/<style>.*<\\/style>/s, ""), "text/html");
        const texts = (selector) => [...page.querySelectorAll(selector)].map((each) => each.textContent);
        return [texts("h1, h2, p"), page.querySelector("img").src, page.querySelectorAll("b, script, link").length,
          page.querySelector("head [http-equiv]").content.slice(0, 18), page.title];
        """,
        html,
    )
    assert shown == [[question, question, answer], url, 0, "default-src 'none'", question]


def test_a_question_is_asked_about_another_image(
    kept: Any, server: Any, image_file: Callable[..., bytes], data_uri: Callable[..., str], tmp_path: Any
) -> None:
    kept.drop(("noise.png", "image/png", image_file(seed=125)))
    ask(kept, "Is it a cat?")
    ask(kept, "Is it large?")
    other = tmp_path / "other.png"
    other.write_bytes(image_file(seed=126))
    kept.click("[data-other]")
    kept.type("#other", str(other))
    kept.until(f"{TITLES}.length === 2")
    assert kept.get(QUESTIONS) == ["Is it a cat?"]
    answer = kept.wait_for_answer()
    image = {"type": "image_url", "image_url": {"url": data_uri(seed=126)}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "Is it a cat?"}]}]
    with server.client() as client:
        same = server.ask(client, messages=messages, temperature=0, max_tokens=N_TOKENS).json()
    assert answer == same["choices"][0]["message"]["content"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    kept.click("[data-other]")
    kept.type("#other", str(broken))
    assert kept.wait_for_fault() == "“broken.png” is not an image that this browser can read."
    assert kept.get(QUESTIONS) == ["Is it a cat?"]


def test_another_image_is_asked_what_was_chosen_and_ends_no_answer(
    open_page: Callable[..., Any], lengthy: Any, image_file: Callable[..., bytes], tmp_path: Any
) -> None:
    page = open_page(lengthy.url)
    page.keep(temperature=0, maxTokens=N_TOKENS)
    for question in ("Is it a cat?", "Is it large?"):
        ask(page, question)
    page.run(
        "const real = createImageBitmap; const { promise, resolve } = Promise.withResolvers();"
        "window.createImageBitmap = async (...given) => { await promise; return real(...given); };"
        "window.readNow = resolve"
    )
    other = tmp_path / "other.png"
    other.write_bytes(image_file(seed=128))
    page.click(".exchange:first-child [data-other]")
    page.type("#other", str(other))
    page.click(".exchange:last-child [data-other]")  # no image is chosen for this one
    page.run("window.readNow()")
    page.until(f"{QUESTIONS}.length === 1")
    page.wait_for_answer()
    assert page.get(QUESTIONS) == ["Is it a cat?"]

    page.keep(temperature=0, maxTokens=100_000)
    page.until("document.querySelector('.exchange')")
    page.click(".exchange [data-other]")
    page.ask("Tell me everything.")
    page.until("document.querySelector('.exchange:last-child .answer').textContent.length > 3")
    assert not page.is_shown("[data-other]")
    page.type("#other", str(other))  # the dialog was open already
    assert page.wait_for_fault().startswith("The other image was not asked about")
    assert page.get(QUESTIONS) == ["Is it a cat?", "Tell me everything."]
    assert page.is_shown("#stop")
    page.press(ESCAPE)
    page.wait_for_answer()
    assert page.is_shown("[data-other]")


def test_settings_stay_in_the_browser_and_reach_the_server(kept: Any) -> None:
    kept.click("#settings")
    kept.run("document.querySelector('[name=topP]').value = 0.4")
    kept.type("[name=system]", "Be brief.")
    kept.click("#settings-dialog .solid")
    revisit(kept)
    kept.run(
        "const real = fetch; window.bodies = [];"
        "window.fetch = (path, options) => { bodies.push(options?.body); return real(path, options); }"
    )
    ask(kept, "What?")
    (body,) = [body for body in kept.get("bodies.map((body) => JSON.parse(body ?? null))") if body]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0, 0.4, N_TOKENS)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
