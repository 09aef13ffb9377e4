"""The chat page in a browser, served by this process, as the tests drive and watch it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import outbound

from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.family import load_family
from llava_teamlora.serving.page import PageSettings, open_page
from llava_teamlora.serving.tickets import Request, Ticket

PATIENCE_MS = 20_000


class Recorder(Engine):
    """An engine that remembers what it was asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.requests: list[Request] = []

    def submit_all(self, requests: Sequence[Request]) -> list[Ticket]:
        tickets = super().submit_all(requests)
        self.requests += requests
        return tickets


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        url: its address.
        engine: that answers; pages may come and go, the models stay.
        calls: what the process asked of other machines.
    """

    url: str
    engine: Recorder
    calls: list[str]

    def answer(self, request: Request) -> str:
        """What the engine says to that, asked by itself."""
        return self.engine.submit(request).result().text


@contextmanager
def serve(paths: Sequence[Path], **settings: Any) -> Iterator[Served]:
    """Serve run folders on a free port; at the end nothing has asked for another machine."""
    with outbound.watched() as calls:
        family = load_family([str(path) for path in paths], device="cpu")
        with Recorder(family) as engine:
            opened = open_page(engine, PageSettings(port=0, **settings))
            try:
                yield Served(opened.url.rstrip("/"), engine, calls)
            finally:
                opened.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what Gradio leaves open is not to be found in somebody else's test
    assert calls == []


@dataclass
class Chat:
    """One page in a browser. Every call waits for what it needs.

    Attributes:
        page: playwright's.
        asked: addresses that the page asked for.
        said: on the browser's console.
    """

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note everything the page asks for and says."""
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"pageerror: {error}"))

    def attach(self, *files: Path | dict[str, Any]) -> None:
        """Choose picture files for the next question."""
        self.page.set_input_files("#question input[type=file]", list(files))

    def ask(self, question: str, *files: Path | dict[str, Any]) -> None:
        """Send a question, about pictures if there are any, with the Enter key."""
        box = self.page.locator("#question textarea")
        if files:
            self.attach(*files)
            self.page.locator("#question .thumbnail-item").nth(len(files) - 1).wait_for()
        self.page.locator("#question .submit-button").wait_for()  # back in place once the last answer has ended
        box.fill(question)
        box.press("Enter")

    def bubbles(self, who: str, side: str = "left") -> Any:
        """What ``user`` or ``bot`` has said on one side."""
        return self.page.locator(f"#chat-{side} [data-testid={who}]")

    def slide(self, name: str, value: float) -> None:
        """Set a slider by its number."""
        number = self.page.locator(f"#{name} input[type=number]")
        number.fill(str(value))
        number.press("Tab")

    @property
    def sideways(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def unharmed(chat: Chat, url: str) -> None:
    """Nothing was asked of another machine, nothing failed, and no text became a script."""
    assert chat.page.evaluate("window.broken === undefined")
    assert chat.asked
    assert [address for address in chat.asked if not address.startswith((url, "data:", "blob:"))] == []
    assert [line for line in chat.said if line.startswith(("error", "pageerror"))] == []


def says(locator: Any, text: str) -> None:
    """Wait until an element says that, spaces apart."""
    from playwright.sync_api import expect

    expect(locator).to_have_text(text)


def gone(locator: Any) -> None:
    """Wait until there is none."""
    from playwright.sync_api import expect

    expect(locator).to_have_count(0)


def wait_until(chat: Chat, is_so: Callable[[], bool]) -> None:
    """Wait for something that is to happen in this process."""
    for _ in range(PATIENCE_MS // 20):
        if is_so():
            return
        chat.page.wait_for_timeout(20)
    raise AssertionError("it did not happen")


def open_part(chat: Chat, label: str) -> None:
    """Unfold a part of the page."""
    chat.page.get_by_role("button", name=label).click()
