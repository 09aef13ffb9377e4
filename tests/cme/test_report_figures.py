"""Figure 3 of made-up runs: which lines there are, with which points, and that they can be drawn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scored_runs import FLAT, make_run, trained_on

from llava_teamlora.cli import main
from llava_teamlora.cme.plots import AXES, draw_figures, lines_over
from llava_teamlora.cme.rows import Entry, make_entries
from llava_teamlora.cme.runs import load_runs
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.tables import half_width

EXPERTS, SCALE = AXES


def entries(folder: Path) -> tuple[Entry, ...]:
    return make_entries(load_runs([str(folder)]).runs)


def run(folder: Path, share: float, experts: int, rank: int = 8, seed: int = 0, **arguments: Any) -> Path:
    adapter = {"r": rank, "num_experts": experts, "train_interaction": True}
    return make_run(folder, dict.fromkeys(ELEVEN, share), adapter=adapter, seed=seed, **arguments)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """Two ranks x 1, 2, 4 experts, of the first rank two seeds; and what belongs to no line."""
    for experts, share in ((4, 0.5), (1, 0.3), (2, 0.4)):
        for seed in (0, 1):
            run(tmp_path / f"r8-k{experts}-{seed}", share + 0.02 * seed, experts, seed=seed)
        run(tmp_path / f"r16-k{experts}", share + 0.1, experts, rank=16)
    run(tmp_path / "alone", 0.9, 2, rank=3)
    make_run(tmp_path / "lora", method="lora")
    make_run(tmp_path / "partial", {"nq": 0.5}, adapter={"r": 8, "num_experts": 8, "train_interaction": True})
    return tmp_path


def test_lines_over_experts(swept: Path) -> None:
    """Seeds 0.30, 0.32: mean 31, s = sqrt(2), stderr 1, t(1) = 12.706. One seed: 1.96 * sqrt(11) / 11 = 0.591."""
    lines = lines_over(EXPERTS, entries(swept))
    shown = {name: [(place, cell.value) for place, cell in points] for name, points in lines.items()}
    assert {name: [p for p, _ in points] for name, points in shown.items()} == {
        "TeamLoRA, r 8": [1, 2, 4],
        "TeamLoRA, r 16": [1, 2, 4],
    }
    assert [value for _, value in shown["TeamLoRA, r 8"]] == pytest.approx([31, 41, 51])
    assert [value for _, value in shown["TeamLoRA, r 16"]] == pytest.approx([40, 50, 60])
    assert half_width(lines["TeamLoRA, r 8"][0][1]) == pytest.approx(12.706, abs=1e-3)
    assert half_width(lines["TeamLoRA, r 16"][0][1]) == pytest.approx(0.591, abs=1e-3)


def mix(folder: Path, scale: int, cap: int = 100) -> Path:
    """A mix and its manifest, as cme build writes them; its files are touched between two builds."""
    file = folder / f"mix-{scale}-{cap}.jsonl"
    file.write_text(f"{scale} {cap}\n")
    made_from = {"scale": scale, "caps": {"nq": cap}, "files": {"nq.jsonl": [1, 300, 1000 + scale]}}
    manifest = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "made_from": made_from}
    file.with_suffix(".manifest.json").write_text(json.dumps(manifest))
    return file


def test_lines_over_the_scale_of_the_data(tmp_path: Path) -> None:
    for scale in (100, 10, 50):
        data = mix(tmp_path, scale)
        trained_on(
            run(tmp_path / "runs" / str(scale), 0.5, 4, data_path=str(data)),
            hashlib.sha256(data.read_bytes()).hexdigest(),
        )
    assert [place for place, _ in lines_over(SCALE, entries(tmp_path / "runs"))["TeamLoRA"]] == [10, 50, 100]
    # A mix that is not the one that was trained on any more says nothing.
    trained_on(tmp_path / "runs" / "50", "8" * 64)
    assert [place for place, _ in lines_over(SCALE, entries(tmp_path / "runs"))["TeamLoRA"]] == [10, 100]


def test_a_tenth_of_another_mix_is_on_another_line(tmp_path: Path) -> None:
    for cap in (100, 7):
        for scale in (100, 10):
            data = mix(tmp_path, scale, cap)
            digest = hashlib.sha256(data.read_bytes()).hexdigest()
            trained_on(run(tmp_path / "runs" / f"{cap}-{scale}", 0.5, 4, data_path=str(data)), digest)
    lines = lines_over(SCALE, entries(tmp_path / "runs"))
    assert [[place for place, _ in points] for points in lines.values()] == [[10, 100], [10, 100]]
    assert all(name.startswith("TeamLoRA, mix ") and len(name) < 25 for name in lines)


def test_figures_are_files_and_the_same_again(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, left_out = draw_figures(entries(swept), swept / "a")
    assert [path.name for path in files] == ["figure3a_experts.png", "figure3a_experts.svg"]
    assert left_out == [
        "no figure 3b: no two rows with an average of all eleven tasks differ in the training data, % of the mix alone"
    ]
    with Image.open(files[0]) as picture:
        assert picture.width > 900
    drawn = files[1].read_text()
    assert "TeamLoRA, r 16" in drawn and "number of experts k" in drawn and "r 3" not in drawn
    draw_figures(entries(swept), swept / "b")
    assert files[1].read_bytes() == (swept / "b" / files[1].name).read_bytes()
    assert main(["cme", "report", str(swept), "--out", str(swept / "c"), "--plots"]) == 0
    assert "figure3a_experts.svg" in capsys.readouterr().out


def test_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", FLAT)
    assert draw_figures(entries(tmp_path), tmp_path)[0] == []
    assert main(["cme", "report", str(run), "--out", str(tmp_path / "out"), "--plots"]) == 1
    assert "--plots: no figure 3a: no two rows" in capsys.readouterr().err
