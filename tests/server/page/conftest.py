"""The page in headless Chromium, used as a person would: keys, clicks, dropped files."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions

PATIENCE_S = 30.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's word for a reference
HAND_OVER = """
const data = new DataTransfer();
for (const [name, kind, text] of given[1]) {
  data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type: kind }));
}
const options = { bubbles: true, cancelable: true };
const event = given[0] === "paste"
  ? new ClipboardEvent("paste", { ...options, clipboardData: data })
  : new DragEvent(given[0], { ...options, dataTransfer: data });
document.activeElement.dispatchEvent(event);
return event.defaultPrevented;
"""


class Browser:
    """Chromium, controlled by WebDriver.

    Source: W3C WebDriver, and chromedriver's additions to it.
    """

    def __init__(self, client: httpx.Client, browser: str) -> None:
        """
        Args:
            client: A client of chromedriver.
            browser: The path of the program.
        """
        # as root, it refuses to start with its sandbox
        flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [*FLAGS]
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": browser, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._client, self._at = client, "/session"
        session = self.send("", capabilities={"alwaysMatch": capabilities})
        self._at = f"/session/{session['sessionId']}"

    def send(self, command: str, method: str = "POST", **body: Any) -> Any:
        """Runs a command."""
        content = json.dumps(body).encode() if method == "POST" else None
        response = self._client.request(method, f"{self._at}{command}", content=content)
        value = response.json()["value"]
        assert response.is_success, value["message"]
        return value

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Runs a command of Chromium's own protocol."""
        return self.send("/goog/cdp/execute", cmd=command, params=parameters)

    def open_tab(self) -> None:
        """Opens a tab and closes the one before."""
        new = self.send("/window/new", type="tab")["handle"]
        self.send("/window", method="DELETE")
        self.send("/window", handle=new)
        self.emulate()

    def emulate(self, width: int = 1200, height: int = 800, scheme: str = "light") -> None:
        """Emulates the window of a device."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def log(self, kind: str) -> list[dict[str, Any]]:
        """The entries of a log since the last call."""
        return list(self.send("/se/log", type=kind))


@dataclass
class Page:
    """The page, open at a server.

    Attributes:
        browser: The browser in which it is open.
        url: The server's URL.
        allowed: A pattern of messages that the console may show; none if it is "".
        requests: Addresses that were requested, as far as `check` has read them.
    """

    browser: Browser
    url: str
    allowed: str = ""
    requests: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> None:
        """Opens the page in a desktop window and a new tab of a browser that keeps nothing of it."""
        self.browser.open_tab()
        self.browser.devtools("Storage.clearDataForOrigin", origin=self.url, storageTypes="all")
        self.browser.send("/url", url=f"{self.url}/{fragment}")

    def reload(self) -> None:
        """Reloads it in its tab."""
        self.browser.send("/refresh")

    def keep(self, **settings: Any) -> None:
        """Stores settings in the browser, and reloads the page."""
        self.run("localStorage.setItem('edge-llava.settings', given[0])", json.dumps(settings))
        self.reload()

    def run(self, script: str, *given: Any) -> Any:
        """Runs a script, which may `await`.

        Returns:
            What the script returns.
        """
        lines = f"const given = arguments; return (async () => {{ {script} }})()"
        return self.browser.send("/execute/sync", script=lines, args=given)

    def get(self, expression: str, *given: Any) -> Any:
        """The value of an expression."""
        return self.run(f"return {expression}", *given)

    def until(self, expression: str, *given: Any) -> Any:
        """Waits until an expression holds.

        Returns:
            Its value.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.get(expression, *given)):
            assert time.monotonic() < deadline, f"{expression}; the page shows {self.get('document.body.innerText')!r}"
            time.sleep(0.02)
        return value

    def texts(self, selector: str) -> list[str]:
        """The texts of all matching elements, as they are in the document."""
        return list(self.get("[...document.querySelectorAll(given[0])].map((each) => each.textContent)", selector))

    def text(self, selector: str) -> str:
        """The text of the first matching element."""
        return self.texts(selector)[0]

    def is_shown(self, selector: str) -> bool:
        """Whether the first matching element is visible; there must be one."""
        return bool(
            self.get("document.querySelector(given[0]).checkVisibility({ visibilityProperty: true })", selector)
        )

    def click(self, selector: str) -> None:
        """Scrolls to an element and clicks it; the header must not cover it."""
        self.run("document.querySelector(given[0]).scrollIntoView({ block: 'center', behavior: 'instant' })", selector)
        self.browser.send(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Types into an element; "\\n" is Enter."""
        self.browser.send(f"/element/{self._find(selector)}/value", text=text)

    def press(self, keys: str) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.browser.send("/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def hand_over(self, how: str, *files: tuple[str, str, bytes]) -> bool:
        """Drops or pastes files: (name, type, bytes).

        Returns:
            Whether the page took them.
        """
        coded = [(name, kind, base64.b64encode(data).decode()) for name, kind, data in files]
        return bool(self.run(HAND_OVER, how, coded))

    def drop(self, *files: tuple[str, str, bytes]) -> None:
        """Drops images and waits until they are shown."""
        n_before = self.get("document.querySelectorAll('#shown .thumbnail').length")
        assert self.hand_over("drop", *files)
        self.until("document.querySelectorAll('#shown .thumbnail').length === given[0]", n_before + len(files))

    def ask(self, question: str) -> None:
        """Writes a question and sends it with Enter."""
        self.type("#question", f"{question}\n")

    def wait_for_answer(self) -> str:
        """Waits until no answer is being written.

        Returns:
            The last one.
        """
        self.until("document.querySelector('#stop').hidden && document.querySelector('.exchange') !== null")
        return self.text(".exchange:last-child .answer")

    def wait_for_fault(self) -> str:
        """Waits until the page reports a fault, and returns its text."""
        self.until("!document.querySelector('#fault').hidden")
        return self.text("#fault p")

    def check(self) -> None:
        """Checks that the console has no errors, and that nothing was requested from another machine."""
        log = [entry["message"] for entry in self.browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert [line for line in log if not self.allowed or not re.search(self.allowed, line)] == []
        for entry in self.browser.log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        assert [url for url in self.requests if not re.match(r"http://127\.0\.0\.1:\d+/|data:image/", url)] == []

    def _find(self, selector: str) -> str:
        return str(self.browser.send("/element", using="css selector", value=selector)[ELEMENT])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver: Debian's packages are chromium and chromium-driver")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            browser = Browser(client, program)
            yield browser
            browser.send("", method="DELETE")
        process.terminate()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """open_page(url, allowed="", fragment="") -> Page in a new tab; what it did is checked at the end."""
    pages = []

    def open_(url: str, allowed: str = "", fragment: str = "") -> Page:
        pages.append(Page(browser, url, allowed))
        pages[-1].open(fragment)
        return pages[-1]

    yield open_
    for page in pages:
        page.check()


@pytest.fixture
def page(open_page: Callable[..., Page], server: Any) -> Page:
    """The page of a server with the default options."""
    return open_page(server.url)


@pytest.fixture(scope="session")
def lengthy(run_server: Callable[..., Any], seeded_f32: Path) -> Iterator[Any]:
    """A server whose answers are long enough to be stopped; it computes one at a time, and one may wait."""
    options = EngineOptions(decoder=DecoderOptions(n_threads=1, n_ctx=8192), n_vision_threads=1)
    with LlavaModel(Bundle.open(seeded_f32), dataclasses.replace(options, parallel=1, n_queued=1)) as engine:
        yield run_server(engine=engine)


@pytest.fixture
def occupy(lengthy: Any) -> Iterator[Callable[[int], Callable[[], None]]]:
    """occupy(n) keeps `lengthy` busy with n answers until what it returns is called."""
    answers = []

    def release() -> None:
        for answer in answers:
            answer.cancel()
        assert all(answer.wait(PATIENCE_S) for answer in answers)

    def begin(n: int) -> Callable[[], None]:
        options = SamplingOptions(max_new_tokens=100_000)
        for number in range(n):
            answers.append(lengthy.engine.submit([Message("user", f"{number}?")], options, lambda token: None))
        return release

    yield begin
    release()


@contextmanager
def serve(bundle: Path, home: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "edge_llava.cli", "serve", "-m", str(bundle), "-t", "1", *options]
    environment = os.environ | {"EDGE_LLAVA_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"page: (http://\S+:\d+)/", line):
                    yield found[1], process
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            process.kill()


@pytest.fixture(scope="session")
def serve_process(seeded_f32: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """with serve_process(*options) as (url, process): `edge-llava serve` of the seeded bundle, killed at the end."""

    def start(*options: str) -> Any:
        return serve(seeded_f32, tmp_path_factory.mktemp("home"), *options)

    return start
