"""What a GRID.yaml stands for, and what is refused in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_teamlora.errors import UserError
from llava_teamlora.sweep import flags
from llava_teamlora.sweep.evaluation import read_evaluation
from llava_teamlora.sweep.flags import check_flags, words
from llava_teamlora.sweep.grid import Grid, read_grid
from llava_teamlora.sweep.jobs import make_jobs
from llava_teamlora.sweep.places import devices
from llava_teamlora.sweep.reports import check_reports


def grid(tmp_path: Path, text: str | None = None, **content: Any) -> Grid:
    path = tmp_path / "grid.yaml"
    path.write_text(text or yaml.safe_dump({"out": str(tmp_path / "out"), **content}), encoding="utf-8")
    return read_grid(path)


def test_cells_are_the_product_of_rows_and_axes(tmp_path: Path) -> None:
    made = grid(
        tmp_path,
        base={"config": "a.yaml", "r": 8, "packing": True},
        cells=[{"label": "LoRA (r = 32)", "method": "lora", "r": None}, {"label": "TeamLoRA", "method": "teamlora"}],
        grid={"scale": {10: {"data_path": "x/10.jsonl"}, 100: {"data_path": "x/100.jsonl"}}, "seed": [0, 1]},
    )
    assert [cell.name for cell in made.cells] == [
        f"{label},scale={scale},seed={seed}"
        for label in ("LoRA-r-=-32", "TeamLoRA")
        for scale in (10, 100)
        for seed in (0, 1)
    ]
    first, last = made.cells[0], made.cells[-1]
    # null takes the base's r away.
    assert first.flags == {"config": "a.yaml", "packing": True, "method": "lora", "data_path": "x/10.jsonl", "seed": 0}
    assert last.axes == {"label": "TeamLoRA", "scale": 100, "seed": 1}
    # Cells that differ in their seed alone are one row.
    assert (first.label, last.label) == ("LoRA (r = 32), scale=10", "TeamLoRA, scale=100")
    assert words({"r": 8, "packing": True, "config": "a.yaml"}) == [
        "--config",
        "a.yaml",
        "--r",
        "8",
        "--packing",
        "True",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'"),
        ({"out": None}, "out is not given"),
        ({"grid": {"r": 8}}, "grid, r: expected a list"),
        ({"grid": {"r": []}}, "grid, r: is empty"),
        ({"grid": {"r": [8, 8]}}, "grid, r: a value stands there twice"),
        ({"grid": {"r": [1, True]}}, "grid, r: a value stands there twice"),  # equal, so that a mapping keeps one
        ({"cells": [{"r": 8}]}, "cells, index 0: has no label"),
        ({"cells": [{"label": "a"}, {"label": "a"}]}, "a cell before it is labelled 'a' too"),
        ({"cells": [{"label": "a b", "r": 1}, {"label": "a/b", "r": 2}]}, "two cells would have the folder a-b"),
        ({"cells": [{"label": "a", "r": 1}, {"label": "b", "r": 1}]}, "the cells a and b have the same flags"),
        ({"cells": [{"label": "a", "r": 1}], "grid": {"r": [2]}}, "r is said by cells and by grid, r"),
        ({"base": {"output_dir": "x"}}, "output_dir is not for a grid; every cell has a folder of its own"),
        ({"base": {"r": [8, 16]}}, "base, r: expected one value, found a list; axes stand in grid"),
        ({"grid": {"data_path": ["/" + "long/" * 40, "b"]}}, "give the axis' values names, as data:"),
        ({"prepare": "make"}, "prepare: expected a list of commands"),
        ({"prepare": [{"creats": "x"}]}, "unknown key 'creats'; did you mean 'creates'"),
        ({"prepare": [{"run": "make", "each": "scale"}]}, "each: 'scale' is no axis of grid"),
        ({"prepare": [{"run": "make", "each": "r"}], "grid": {"r": [1]}}, "{r} does not stand in the command"),
        ({"gpus_per_cell": 0}, "gpus_per_cell: 0 is not"),
        ({"evaluate": {"untuned": "x"}}, "untuned: 'x' is not true or false"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        grid(tmp_path, **content)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the key 'r' stands there twice"):
        grid(tmp_path, "out: x\nbase:\n  r: 8\n  r: 16\n")


def test_what_is_merged_in_may_be_said_anew(tmp_path: Path) -> None:
    cells = grid(tmp_path, "out: x\ncells:\n  - &a {label: A, r: 4}\n  - {<<: *a, label: B, alpha: 8}\n").cells
    assert [(cell.label, cell.flags) for cell in cells] == [("A", {"r": 4}), ("B", {"r": 4, "alpha": 8})]


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broken YAML: .*unhashable key"):
        grid(tmp_path, "out: x\nbase: {r: {{R}}}\n")


def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "out: ${OUT:-runs/x}\nbase: {model_name_or_path: '${MODEL}', data_path: '${DATA}/a.json'}\n"
    monkeypatch.delenv("OUT", raising=False)
    monkeypatch.delenv("MODEL", raising=False)
    monkeypatch.delenv("DATA", raising=False)
    with pytest.raises(UserError, match=r"needs the environment's MODEL, DATA, not set; MODEL=… llava-teamlora sweep"):
        grid(tmp_path, text)
    monkeypatch.setenv("MODEL", "m")
    monkeypatch.setenv("DATA", "d")
    made = grid(tmp_path, text)
    assert made.out == Path("runs/x") and made.cells[0].flags == {"model_name_or_path": "m", "data_path": "d/a.json"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"limit": 4}, "benchmarks is not given"),
        ({"benchmarks": ["poep"]}, "'poep' is not a benchmark"),
        ({"benchmarks": ["all"]}, "all is whatever is there"),
        ({"benchmarks": "pope", "limti": 4}, "unknown key 'limti'; did you mean 'limit'"),
        ({"benchmarks": "pope", "limit": "x"}, "argument --limit: invalid int value: 'x'"),
        ({"benchmarks": "pope", "model": "x"}, "unknown key 'model'"),
    ],
)
def test_evaluations_are_checked_by_their_own_parser(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_evaluation(said, "g.yaml, evaluate")
    assert "g.yaml, evaluate" in str(caught.value) and message in str(caught.value)


def test_an_evaluation_as_words() -> None:
    found = read_evaluation({"benchmarks": "cme", "limit": 3, "batch_size": 8}, "g")
    assert len(found.benchmarks) == 11
    out = Path("o")
    assert found.words("m", out, ["nq"], "cme") == [
        "evaluate", "run", "nq", "--model", "m", "--out", "o/nq", "--version", "cme", "--limit", "3", "--batch_size",
        "8",
    ]  # fmt: skip
    assert found.words("m", out, ["nq", "arc"])[:7] == ["evaluate", "run", "nq", "arc", "--model", "m", "--out"]
    assert found.words("m", out, ["nq", "arc"])[7] == "o"


def test_reports_are_checked(tmp_path: Path) -> None:
    made = grid(tmp_path, report={"cme": 7})
    with pytest.raises(UserError, match="report, cme: 7 is not one of 2, 3, 4, 5, figures, all"):
        check_reports(made, None)
    made = grid(tmp_path, report={"cme": 2})
    with pytest.raises(UserError, match="needs all eleven tasks; evaluate tldr, imdb"):
        check_reports(made, read_evaluation({"benchmarks": ["pope"]}, "g"))


def test_devices() -> None:
    for gpus, jobs, message in (
        ("0", 2, "give one of them"),
        (None, 0, "must be at least 1"),
        ("0,,1", None, "each once"),
    ):
        with pytest.raises(UserError, match=message):
            devices(gpus, jobs)
    assert devices("1, 0", None).environment == {"CUDA_VISIBLE_DEVICES": "1,0"}


def test_the_trainers_own_parser_reads_all_cells(tmp_path: Path, tiny: str) -> None:
    base = {"model_name_or_path": tiny, "data_path": "a.json", "use_cpu": True, "bf16": False}
    made = grid(
        tmp_path,
        base=base,
        cells=[
            {"label": "typo", "num_epxerts": 4},
            {"label": "none", "method": "lora", "num_experts": 4},
            {"label": "packs", "method": "prompt_tuning", "packing": True},
            {"label": "good", "r": 8},
        ],
    )
    with pytest.raises(UserError) as caught:
        check_flags(made, {})
    said = str(caught.value)
    assert "the trainer refuses the flags of 3 of 4 cells" in said
    assert "typo: llava-teamlora train: unknown flag --num_epxerts; did you mean '--num_experts'?" in said
    assert "none: method 'lora' has no option num_experts" in said
    assert "packs: --packing: prompt_tuning puts its virtual tokens in front" in said


def test_the_same_run_in_other_words_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = grid(tmp_path, cells=[{"label": "a", "learning_rate": "2e-4"}, {"label": "b", "packing": False}])
    found = {"arguments": {}, "kept": {"learning_rate": 2e-4, "packing": False}}  # with the defaults, both are this
    monkeypatch.setattr(flags, "_asked", lambda *_: {"gpus": 0, "cells": [found, found], "notes": []})
    with pytest.raises(UserError, match="the cells a and b are the same run, defaults included"):
        check_flags(made, {})


def test_watching_over_a_sweep_imports_nothing_heavy() -> None:
    code = "import sys, llava_teamlora.cli as c, llava_teamlora.sweep.run; c._parser(); "
    code += "print([name for name in ('torch', 'transformers', 'peft', 'matplotlib') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_untuned_bases_are_jobs_of_their_own(tmp_path: Path) -> None:
    from llava_teamlora.sweep.flags import Checked

    made = grid(tmp_path, grid={"model_name_or_path": ["x/a", "x/b"]}, evaluate={"benchmarks": "pope", "untuned": True})
    said = {cell.name: {**cell.flags, "version": "v1"} for cell in made.cells}
    jobs = make_jobs(made, Checked(0, said, said, ()))
    assert [(job.name, job.model) for job in jobs[:2]] == [("untuned-a-v1", "x/a"), ("untuned-b-v1", "x/b")]
    assert [job.name for job in jobs[2:]] == ["model_name_or_path=x-a", "model_name_or_path=x-b"]
