"""A headless chromium for the tests that drive a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever a page asks for stays on this machine
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, without which a page cannot be tried: then the test is skipped, but in CI it fails."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("playwright is not installed: pip install 'llava-teamlora[dev]'")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        give_up("there is no chromium: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()
