"""The heat strip: what is drawn is what was computed, safely, at a cost that grows with the answer alone."""

from __future__ import annotations

import copy
import csv
import io
import json
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.generation.answering import Answering, Ask
from llava_teamlora.serving.experts import (
    MEAN,
    Experts,
    Matrices,
    Strip,
    matrix_html,
    read_experts,
    strip,
)
from llava_teamlora.serving.experts.strip import visible

LAYERS = tuple(f"model.layers.{i}.mlp.{part}_proj" for i in range(2) for part in ("gate", "up"))
TWO = Experts("teamlora", 2, LAYERS)
HOSTILE = '</b><script>window.broken = 1</script>"\'&<img src=x onerror="window.broken = 1">'


class Said(NamedTuple):
    text: str
    participation: Any


class Outline(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def columns(self) -> list[str]:
        return [attrs["aria-label"] or "" for tag, attrs in self.elements if attrs.get("role") == "img"]

    def cells(self) -> list[tuple[str | None, str | None]]:
        """Class and style of each expert's cell, the legend's five left out."""
        return [(attrs.get("class"), attrs.get("style")) for tag, attrs in self.elements if tag == "i"][:-5]


def outline(made: Strip, *args: Any, **kwargs: Any) -> Outline:
    return Outline(made.html(*args, **kwargs))


def one(*omega: float, text: str = "word") -> Strip:
    """One token, the same in one layer."""
    made = Strip(Experts("teamlora", len(omega), LAYERS[:1]))
    made.push([Said(text, [omega])])
    return made


@pytest.fixture(scope="module")
def teamlora(run_folders: dict[str, Path]) -> Loaded:
    return load_model(run_folders["teamlora"], device="cpu")


@pytest.fixture(scope="module")
def said(teamlora: Loaded) -> list[Said]:
    """An answer's tokens with their participations."""
    answering = Answering(Generator(teamlora))
    answering.add([Ask(Query.ask("what?", Image.new("RGB", (64, 64))), Decoding(max_new_tokens=5), watch=True)])
    tokens = []
    while answering:
        tokens += [Said(f" t{token.id}", token.participation) for token in answering.step()]
    return tokens


def test_the_experts_of_a_run(teamlora: Loaded) -> None:
    experts = read_experts(teamlora)
    assert (experts.method, experts.k, len(experts.layers)) == ("teamlora", 4, 12)
    assert experts.layers[:2] == tuple(f"model.language_model.layers.0.mlp.{part}_proj" for part in ("gate", "up"))
    assert experts.blocks == ("mean", "0", "1", "2", "3") and experts.parts == ("mean", "gate", "up", "down")
    assert experts.rows(MEAN) == list(range(12))
    assert (
        experts.rows("1/up") == [4] and experts.rows("1/mean") == [3, 4, 5] and experts.rows("mean/up") == [1, 4, 7, 10]
    )
    assert experts.choices()[0] == ("All layers (mean)", MEAN) and len(experts.choices()) == 20
    assert ("第 3 层，down", "3/down") in experts.choices("zh") and experts.why_none() == ""
    with pytest.raises(UserError, match="no layer of experts is '4/gate'"):
        experts.rows("4/gate")
    assert experts.or_mean("4/gate") == MEAN and experts.or_mean("3/gate") == "3/gate"


def test_why_there_is_nothing(tiny: str, run_folders: dict[str, Path]) -> None:
    for folder, word in ((tiny, "base model"), (run_folders["lora"], "method, lora, has no router")):
        experts = read_experts(load_model(folder, device="cpu"))
        assert experts.k == 0 and experts.choices() == [] and word in experts.why_none() and experts.why_none("zh")
        assert word in matrix_html(Matrices(experts), MEAN)
        with pytest.raises(ValueError):
            Strip(experts)
    assert "trained in full" in Experts("full").why_none()


def test_the_numbers_are_those_of_the_answer(teamlora: Loaded, said: list[Said]) -> None:
    experts = read_experts(teamlora)
    made = Strip(experts)
    made.push(said[:1])
    made.push(said[1:])
    for view in (MEAN, "2/mean", "mean/down", "3/up"):
        means = [token.participation.numpy()[experts.rows(view)].mean(0) for token in said]
        shown = [[float(n) for n in re.findall(r": (-?[\d.]+)", label)] for label in outline(made, view).columns()]
        np.testing.assert_allclose(shown, means, atol=2e-3)
        assert [label.split("  ")[0] for label in outline(made, view).columns()] == [
            token.text.strip() for token in said
        ]
        leads = np.argmax(means, 1)
        dotted = [i % 4 for i, (kind, _) in enumerate(outline(made, view).cells()) if kind and " r" in kind]
        assert dotted == leads.tolist()
    mean = np.mean([token.participation.numpy().mean(0) for token in said], 0)
    for i in range(4):
        share = np.mean([token.participation.numpy().mean(0).argmax() == i for token in said])
        assert f"<b>Expert {i + 1}</b> mean ω {mean[i]:.2f} · leads {share:.0%}" in made.html(MEAN)


def test_all_numbers_as_json_and_csv(teamlora: Loaded, said: list[Said]) -> None:
    made = Strip(read_experts(teamlora), gains=(1, 2, 1, 1))
    made.push(said)
    wanted = np.stack([token.participation.numpy() for token in said])
    found = json.loads(made.to_json("mine"))
    np.testing.assert_allclose(found["omega"], wanted, rtol=1e-3, atol=1e-4)
    assert (found["model"], found["gains"], found["experts"]) == ("mine", [1, 2, 1, 1], 4)
    assert found["tokens"] == [token.text for token in said] and found["layers"] == list(made.experts.layers)
    rows = list(csv.reader(io.StringIO(made.to_csv())))
    assert rows[0] == ["position", "token", "layer", "expert_1", "expert_2", "expert_3", "expert_4"]
    assert len(rows) == 1 + 12 * len(said) and rows[13][:3] == ["1", json.dumps(said[1].text), made.experts.layers[0]]
    values = np.array([[float(value) for value in row[3:]] for row in rows[1:]]).reshape(wanted.shape)
    np.testing.assert_allclose(values, wanted, rtol=1e-3, atol=1e-4)
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert copied.html(MEAN) == made.html(MEAN)


def test_no_table_reads_a_token_as_a_formula_and_json_has_no_nan() -> None:
    made = one(0.5, 0.5, text='=HYPERLINK("x")\n')
    made.push([Said("", None)])
    rows = list(csv.reader(io.StringIO(made.to_csv())))
    assert [row[1][0] for row in rows[1:]] == ['"', '"'] and json.loads(rows[1][1]) == '=HYPERLINK("x")\n'
    assert rows[2][3:] == ["", ""]
    assert json.loads(made.to_json(), parse_constant=pytest.fail)["omega"][1] == [[None, None]]


def test_a_tokens_text_is_only_text() -> None:
    page = outline(one(0.5, 0.5, text=HOSTILE), MEAN)
    assert {tag for tag, _ in page.elements} <= set("figure div span i b ul li figcaption details summary".split())
    assert not {name for _, attrs in page.elements for name in attrs if name.startswith("on")}
    assert page.columns()[0].startswith("</b><script>window.brok…  1: 0.500")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "·"),
        ("\ufffd", "·"),
        (" red", "red"),
        ("  ", "␣"),
        ("\n", "↵"),
        ("\u202egnp", "U+202Egnp"),
        ("\x00", "U+0000"),
        ("图", "图"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("omega", "kind", "tone"),
    [
        (0.25, "h", 0),  # the even share of four
        (0.5, "h", 50),
        (1.0, "h", 100),
        (3.0, "h", 100),
        (0.125, "l", 50),
        (0.0625, "l", 100),
        (0.0, "l", 100),
        (-0.3, "l m", 100),
    ],
)
def test_the_scale_is_one_of_ratios_to_the_even_share(omega: float, kind: str, tone: int) -> None:
    assert outline(one(omega, 9, 9, 9), MEAN).cells()[0] == (kind, f"--v:{tone}")


def test_experts_off_and_tokens_unwatched_have_no_colour() -> None:
    made = Strip(TWO, gains=(0, 2))
    made.push([Said("a", np.full((4, 2), (0.0, 1.0))), Said("b", None)])
    assert outline(made, MEAN).cells() == [("x", None), ("h r", "--v:100"), ("x", None), ("x", None)]
    assert "mean ω 1.00 · leads 100%" in made.html(MEAN)  # of what was watched
    unwatched = Strip(TWO)
    unwatched.push([Said("a", None)])
    assert "mean ω" not in unwatched.html(MEAN) and "No token yet" in Strip(TWO).html(MEAN)


def test_nobody_leads_where_nobody_adds_and_broken_numbers_are_drawn() -> None:
    made = Strip(TWO, gains=(0, 0))
    made.push([Said("a", np.zeros((4, 2)))])
    assert made.html(MEAN).count("leads 0%") == 2 and not [
        kind for kind, _ in outline(made, MEAN).cells() if kind != "x"
    ]
    broken = Strip(TWO)
    broken.push([Said("a", np.full((4, 2), value)) for value in (np.inf, np.nan, 1e9)])
    assert outline(broken, MEAN).cells() == [("x", None)] * 6
    assert json.loads(broken.to_json(), parse_constant=pytest.fail)["omega"] == [[[None, None]] * 4] * 3


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(4, 2\)"):
        Strip(TWO).push([Said("a", np.zeros((3, 2)))])
    with pytest.raises(ValueError):
        Strip(TWO, gains=(1, 1, 1))
    with pytest.raises(UserError, match="language 'xx' is not one of en, zh"):
        Strip(TWO).html(MEAN, "xx")


def test_a_long_answer_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    column = strip._column
    monkeypatch.setattr(strip, "_column", lambda text, *rest: [drawn.append(text), column(text, *rest)][1])
    made, sizes, omega = Strip(TWO), [], np.full((4, 2), 0.5)
    for i in range(300):
        made.push([Said(f"{i:03}", omega)])
        sizes.append(len(made.html(MEAN, newest=20)))
    assert drawn == [f"{i:03}" for i in range(300)]
    assert max(sizes[30:]) - min(sizes[30:]) < 10  # the count of those before, no more
    page = outline(made, MEAN, newest=20)
    assert "280 tokens before these" in page.texts and [c[:3] for c in page.columns()] == [
        f"{i}" for i in range(280, 300)
    ]
    assert len(outline(made, MEAN).columns()) == 300 and len(drawn) == 300
    made.html("0/gate")
    assert len(drawn) == 600  # another view, drawn anew
    assert made.omega.dtype == np.float16 and made.omega.shape == (300, 4, 2) and made._omega.nbytes == 512 * 4 * 2 * 2
