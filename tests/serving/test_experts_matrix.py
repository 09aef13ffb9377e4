"""The interaction matrix as it is drawn, the experts' gains, and what is said about both."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_experts import TWO

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.constants import ROUTING_FILE
from llava_teamlora.models.build import BaseSpec
from llava_teamlora.serving.experts import (
    MEAN,
    Matrices,
    even_gains,
    gains_summary,
    matrix_html,
    only_expert,
    read_experts,
    read_matrices,
    teaching,
    used_gains,
    words,
)


@pytest.fixture(scope="module")
def teamlora(run_folders: dict[str, Path]) -> Loaded:
    return load_model(run_folders["teamlora"], device="cpu")


def table(html: str) -> np.ndarray:
    return np.array([float(n.replace("−", "-")) for n in re.findall(r">(−?\d+\.\d\d)</td>", html)])


def test_the_interaction_matrix(teamlora: Loaded, run_folders: dict[str, Path]) -> None:
    matrices = read_matrices(teamlora, run_folders["teamlora"])
    layers = [dict(teamlora.model.get_base_model().named_modules())[name] for name in matrices.experts.layers]
    known = np.stack([layer.linear("interaction", "default").weight.numpy() for layer in layers])
    np.testing.assert_allclose(table(matrix_html(matrices, "1/up")), known[4].ravel(), atol=5.1e-3)
    np.testing.assert_allclose(table(matrix_html(matrices, MEAN, "zh")), known.mean(0).ravel(), atol=5.1e-3)
    assert "<caption>Interaction matrix M: Layer 1, up</caption>" in matrix_html(matrices, "1/up")
    start = np.where(np.eye(4), 1, 0.125)
    away = np.linalg.norm(known[4] - start) / np.linalg.norm(start)
    assert f"relative: {away:.3f}; a matrix that was never trained lies about 0.122 away" in matrix_html(
        matrices, "1/up"
    )


def test_negative_entries_and_a_known_start() -> None:
    matrices = Matrices(TWO, np.array([[[1.0, -0.5], [0.25, 1.0]]] * 4), widest=0.0)
    html = matrix_html(matrices, "0/gate")
    assert "<td class=l style=--v:50>−0.50</td>" in html and "<td class=h style=--v:25>0.25</td>" in html
    assert f"‖M − M₀‖ / ‖M₀‖: {np.sqrt((0.25 + 0.0625) / 2):.3f}." in html
    known = Matrices(TWO, matrices.values, widest=0.5, drifts=(0.1, 0.2, 0.3, 0.4))
    assert "/ ‖M₀‖: 0.100." in matrix_html(known, "0/gate") and "/ ‖M₀‖: 0.250." in matrix_html(known, MEAN)


def test_the_distance_that_training_wrote_down(teamlora: Loaded, tmp_path: Path) -> None:
    def line(layer: str, step: int, drift: float) -> str:
        state = {"drift": drift, "condition": 1.5}
        row = {"format": 1, "step": step, "steps": 1, "layer": layer, "adapter": "default", "k": 4, "groups": {}}
        return json.dumps({**row, "interaction": state}) + "\n"

    layers = read_experts(teamlora).layers
    rows = [line(layer, step, step / 10 + i / 100) for step in (1, 2) for i, layer in enumerate(layers)]
    (tmp_path / ROUTING_FILE).write_text("".join(rows))
    assert read_matrices(teamlora, tmp_path).drifts == tuple(2 / 10 + i / 100 for i in range(12))
    (tmp_path / ROUTING_FILE).write_text("".join(rows[:5]))
    assert read_matrices(teamlora, tmp_path).drifts is None  # not of every layer: nothing is said by halves


def test_methods_without_a_matrix(tiny: str, run_maker: Any, tmp_path: Path) -> None:
    loaded = load_model(run_maker(BaseSpec(tiny), "moelora", tmp_path / "run"), device="cpu")
    matrices = read_matrices(loaded)
    assert matrices.experts.k and matrices.values is None
    assert "moelora has no learned interaction matrix" in matrix_html(matrices, MEAN)


def test_gains() -> None:
    assert used_gains(None) is None and used_gains(even_gains(3)) is None
    assert used_gains([0, 1, 2]) == (0.0, 1.0, 2.0) and only_expert(3, 1) == (0.0, 1.0, 0.0)
    assert gains_summary((0, 1, 1.5)) == "expert 1 off, expert 3 × 1.5"
    assert gains_summary((0, 0)).startswith("All experts off") and gains_summary((1, 1)).startswith("All experts as")
    assert gains_summary((0, 1, 1.5), "zh") == "专家 1 关闭，专家 3 × 1.5"


def test_each_sentence_in_both_languages() -> None:
    for english, chinese in words._WORDS.values():
        gaps = [sorted(name for _, name, _, _ in string.Formatter().parse(text) if name) for text in (english, chinese)]
        assert gaps[0] == gaps[1] and english and chinese
    for language in ("en", "zh"):
        assert all(sign in teaching(language) for sign in "φωM")
