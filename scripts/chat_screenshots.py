"""Pictures of the chat page for the documentation, made by a headless chromium.

  python scripts/chat_screenshots.py runs/teamlora runs/lora --out docs

writes ``chat-desktop.png`` (an answer and its experts), ``chat-compare.png`` (two models side by side, dark) and
``chat-phone.png``. Needs the extras ``chat`` and ``dev``, and a chromium (``apt-get install chromium``, or CHROMIUM).
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import image_folder
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.family import load_family
from llava_teamlora.serving.page import PageSettings, open_page

DESKTOP, PHONE, DEPTH = (1280, 820), (390, 844), 1150  # pixels
QUESTIONS = ("what color is the shape?", "describe the picture")
MOST_BYTES = 150_000


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page, use it, and keep what is seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="RUN_FOLDER", help="two models, or a run folder, whose base is "
                        "then the second")  # fmt: skip
    parser.add_argument("--picture", type=Path, help="to ask about (default: one of easy-VQA's)")
    parser.add_argument("--questions", nargs="+", default=QUESTIONS)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: docs)")
    arguments = parser.parse_args(argv)
    picture = arguments.picture or image_folder("test") / "0.png"
    with Engine(load_family(arguments.models, device="cpu")) as engine:
        engine.warm_up()
        with closing(open_page(engine, PageSettings(port=0))) as page:
            take(page.url, picture, arguments.questions, arguments.out)


def take(url: str, picture: Path, questions: Sequence[str], out: Path) -> None:
    """Three conversations about a picture.

    Args:
        url: of the page.
        picture: its file.
        questions: asked one after the other.
        out: folder for the pictures of the page.

    Raises:
        UserError: there is no chromium.
    """
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise UserError("there is no chromium: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, size, dark, compare in (
            ("chat-desktop", DESKTOP, False, False),
            ("chat-compare", DESKTOP, True, True),
            ("chat-phone", PHONE, False, False),
        ):
            page = browser.new_page(color_scheme="dark" if dark else "light", locale="en-GB")
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.goto(url)
            page.wait_for_selector("#question textarea:enabled")
            talk(page, picture, questions, compare)
            keep(page, out / f"{name}.png")
            page.close()
        browser.close()


def talk(page: Any, picture: Path, questions: Sequence[str], compare: bool) -> None:
    """Ask, and wait for the answers."""
    if compare:
        page.locator("#compare input").check()
        page.locator("#column-right").wait_for()
    page.set_input_files("#question input[type=file]", picture)
    page.locator("#question .thumbnail-item").wait_for()
    for number, question in enumerate(questions):
        page.locator("#question textarea").fill(question)
        page.locator("#question textarea").press("Enter")
        page.locator("#chat-left [data-testid=bot]").nth(number).wait_for()
        page.locator("#question .submit-button").wait_for()
    page.wait_for_timeout(1500)  # until nothing moves any more


def keep(page: Any, path: Path) -> None:
    """The page from its top to as far as the experts at work.

    Raises:
        UserError: it is too large for a repository.
    """
    size = page.viewport_size
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": size["width"], "height": DEPTH})
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}; ask for less")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
