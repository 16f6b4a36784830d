"""What the page reports when the server cannot answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.server.http.limits import Limits
from edge_llava.server.options import ServerOptions

pytestmark = pytest.mark.convert
KEY = "a-key-of-the-tests"
DRAFT = "document.querySelector('#question').value"


def test_the_key_is_asked_for_and_stays_in_the_tab(open_page: Callable[..., Any], run_server: Any) -> None:
    server = run_server(ServerOptions(api_key=KEY))
    page = open_page(server.url, allowed=r"v1/models .*401")
    page.until("document.querySelector('#key-dialog').open")
    assert not page.is_shown("[data-wrong]")
    page.press("not-the-key\n")
    page.until("document.querySelector('#key-dialog').open && !document.querySelector('[data-wrong]').hidden")
    page.press(f" {KEY} \n")
    page.until("!document.querySelector('#model').hidden")
    assert page.text("#model-name") == server.app.models.name
    page.ask("What?")
    assert page.wait_for_answer()
    assert KEY in page.get("JSON.stringify(sessionStorage)")
    assert KEY not in page.get("JSON.stringify(localStorage) + document.cookie + location.href")
    page.reload()
    page.until("!document.querySelector('#model').hidden")  # not asked for again
    page.open()
    page.until("document.querySelector('#key-dialog').open")  # another tab does not know it


def test_a_link_may_hold_the_key(open_page: Callable[..., Any], run_server: Any) -> None:
    page = open_page(run_server(ServerOptions(api_key=KEY)).url, fragment=f"#key={KEY}")
    page.until("!document.querySelector('#model').hidden")
    assert KEY not in page.get("location.href")


def test_a_busy_server_says_when(open_page: Callable[..., Any], lengthy: Any, occupy: Callable[[int], Any]) -> None:
    page = open_page(lengthy.url, allowed=r"chat/completions .*429")
    page.keep(maxTokens=4)
    release = occupy(2)
    page.ask("What?")
    fault = page.wait_for_fault()
    release()
    assert re.fullmatch(r"The server is busy\. Send it again in \d+ s\.", fault)
    assert page.get(DRAFT) == "What?"
    page.click("#send")
    assert page.wait_for_answer()
    assert not page.is_shown("#fault")


def test_the_time_to_wait_is_announced_twice(page: Any) -> None:
    shown = page.run(
        """
        const { FaultBanner } = await import("/page/fault_banner.js");
        const element = document.querySelector("#fault");
        const shown = [];
        new MutationObserver(() => shown.push(element.querySelector("p").textContent))
          .observe(element, { subtree: true, childList: true });
        new FaultBanner(element).show("Busy.", 0.25);
        await new Promise((resolve) => setTimeout(resolve, 500));
        return shown;
        """
    )
    assert shown == ["Busy. Send it again in 0.25 s.", "Busy. Send it again now."]


def test_too_much_is_refused(open_page: Callable[..., Any], run_server: Any, image_file: Callable[..., bytes]) -> None:
    server = run_server(ServerOptions(limits=Limits(body_bytes=20_000)))
    page = open_page(server.url, allowed=r"v1/(chat/completions|prepare) ")
    page.drop(("noise.png", "image/png", image_file(seed=101, size=(300, 300))))
    page.ask("What?")
    assert "remove" in page.wait_for_fault()
    assert page.get(DRAFT) == "What?"
    assert page.is_shown("#shown .thumbnail")


def test_a_full_context_is_explained(page: Any) -> None:
    page.allowed = r"chat/completions .*400"
    page.run("document.querySelector('#question').value = 'word '.repeat(2000)")
    page.ask("?")
    fault = page.wait_for_fault()
    assert fault == "The conversation no longer fits into the context. Begin a new chat."


def test_a_server_that_is_gone_and_comes_back(open_page: Callable[..., Any], serve_process: Any) -> None:
    with serve_process("--port", "0", "-c", "8192") as (url, process):
        page = open_page(url, allowed=r"ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|Failed to load resource")
        page.keep(temperature=0, maxTokens=100_000)
        page.ask("Tell me everything.")
        page.until("document.querySelector('.answer')?.textContent.length > 3")
        process.kill()
        process.wait()
    assert page.wait_for_answer()
    assert page.text(".note") == "The connection broke before the answer was complete."
    page.ask("Are you there?")
    assert page.wait_for_fault() == "The server does not answer. Is “edge-llava serve” still running?"
    assert page.get(DRAFT) == "Are you there?"
    assert "is-gone" in page.get("document.querySelector(given[0]).getAttribute(given[1])", "#model", "class")
    with serve_process("--port", url.rpartition(":")[2]):
        page.until("document.querySelector('#fault').hidden")  # it noticed by itself
        assert "is-gone" not in page.get("document.querySelector(given[0]).getAttribute(given[1])", "#model", "class")
        page.keep(temperature=0, maxTokens=4)
        page.ask("Are you there?")
        assert page.wait_for_answer()
