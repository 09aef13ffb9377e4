"""The experts in a real browser: numbers on hover and tap, no script, nothing cut off, text that can be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import browsers
import numpy as np
import pytest
from test_experts import HOSTILE, TWO, Said

from llava_teamlora.serving.experts import MEAN, Matrices, Strip, experts_css, matrix_html, teaching

# The least contrast of text with what is painted under it, as WCAG 2 has it, and where it is.
CONTRAST = """selectors => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const luminance = color => {
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = element => {
    let under = element;
    while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') under = under.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(under).backgroundColor].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const found = [...document.querySelectorAll(selectors)].map(e => [contrast(e), e.outerHTML.slice(0, 60)]);
  return found.sort((a, b) => a[0] - b[0])[0];
}"""
TEXTS = ".ltx-matrix td:not(:empty), .ltx-matrix th, .ltx-t > b, .ltx-summary li, figcaption, .ltx-readout"


def drawn() -> Strip:
    made = Strip(TWO)
    made.push([Said(HOSTILE, np.full((4, 2), (0.2, 1.5)))])
    made.push([Said(f" t{i}", np.full((4, 2), i / 240)) for i in range(240)])
    return made


def page_of_everything(strip: Strip, dark: bool) -> str:
    matrices = Matrices(TWO, np.array([[[1.0, -1.0], [0.25, 0.6]]] * 4), widest=0.5)
    body = f"{strip.html(MEAN)}{matrix_html(matrices, MEAN)}{teaching()}"
    paper = "class=dark style='background: #101114'" if dark else "style='background: #fff'"
    head = "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    return f"{head}<style>{experts_css()}</style><body {paper}>{body}"


def test_a_dark_rule_has_one_selector() -> None:
    """Gradio moves ``.dark`` in front of its own page's selector for the first of several alone."""
    dark = [selector for selector in re.findall(r"([^{}]*)\{", experts_css()) if ".dark" in selector]
    assert dark and all("," not in selector for selector in dark)


@pytest.mark.browser
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
def test_in_a_browser(tmp_path: Path, dark: bool, width: int) -> None:
    file = tmp_path / "page.html"
    strip = drawn()
    file.write_text(page_of_everything(strip, dark), encoding="utf-8")
    after = "element => getComputedStyle(element, '::after').content"
    with browsers.chromium() as chromium:
        page: Any = chromium.new_page(viewport={"width": width, "height": 800})
        page.goto(file.as_uri())
        first, last = page.locator(".ltx-t").first, page.locator(".ltx-t").last
        assert first.evaluate(after) == "none"
        first.hover()
        assert "1: 0.200 · 2: 1.500" in first.evaluate(after)
        last.focus()  # as a tap does
        assert "t239  1: 0.996" in last.evaluate(after)
        assert page.evaluate("window.broken") is None and page.locator("script, img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.mouse.move(0, 0)
        for streaming in (True, False):  # the newest token is in sight while it comes, the first one afterwards
            html = strip.html(MEAN, newest=200 if streaming else None)
            page.locator(".ltx-strip").evaluate("(figure, html) => figure.outerHTML = html", html)
            window, seen = page.locator(".ltx-window").bounding_box(), page.locator(".ltx-t").last.bounding_box()
            assert (seen["y"] + seen["height"] <= window["y"] + window["height"] + 1) is streaming
        contrast, where = page.evaluate(CONTRAST, TEXTS)
        assert contrast >= 4.5, where
        tones = "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"
        assert len(set(page.locator(".ltx-legend i").evaluate_all(tones))) == 5
