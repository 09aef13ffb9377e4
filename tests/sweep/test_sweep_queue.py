"""A sweep's cells are done: side by side, apart from one another, and no cell twice."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from sweep_world import World

FIXTURES = str(Path(__file__).parents[2] / "eval" / "fixtures")


def spans(world: World) -> dict[str, tuple[float, float, str]]:
    """Start, end and device of each cell's training."""
    starts = {row["cell"]: row for row in world.journal("train")}
    ends = {row["cell"]: row["time"] for row in world.journal("trained")}
    return {name: (row["time"], ends[name], row["CUDA_VISIBLE_DEVICES"]) for name, row in starts.items()}


def overlap(a: tuple[float, float, str], b: tuple[float, float, str]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def test_each_free_gpu_takes_the_next_cell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GPUS", "2")
    # One long cell on one GPU, four short ones one after another on the other.
    world.write(cells=[{"label": "long", "after": 4}, *({"label": f"s{i}", "r": i} for i in range(4))])
    assert world.sweep("--gpus", "3,5") == 0
    found = spans(world)
    assert {name: device for name, (_, _, device) in found.items()} == {
        "long": "3", "s0": "5", "s1": "5", "s2": "5", "s3": "5",
    }  # fmt: skip
    assert all(overlap(found["long"], found[f"s{i}"]) for i in range(4))
    pairs = itertools.combinations(found.values(), 2)
    assert not any(overlap(a, b) for a, b in pairs if a[2] == b[2]), "two cells on one GPU at once"


def test_bigger_cells_get_several_gpus(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_teamlora.errors import UserError
    from llava_teamlora.sweep.jobs import Stage, launched
    from llava_teamlora.sweep.places import Devices, make_places

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = make_places(Devices(), 5, 2)  # the fifth stays idle
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places] == ["0,1", "2,3"]
    words = launched(Stage("training", ("train", "--r", "8")), places[0].processes)
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert words[-3:] == ["train", "--r", "8"]
    with pytest.raises(UserError, match="gpus_per_cell: 2, but there is 1 here"):
        make_places(Devices(), 1, 2)
    with pytest.raises(UserError, match="gpus_per_cell: 2, but there is no GPU"):
        make_places(Devices(), 0, 2)
    with pytest.raises(UserError, match="only 1 of them can be used"):
        make_places(Devices(("0", "1")), 1, 1)


def test_jobs_share_the_cores(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(base={"steps": 6}, grid={"r": [2, 4]})
    assert world.sweep("--jobs", "2") == 0
    found = spans(world)
    assert overlap(found["r=2"], found["r=4"])
    cores = len(os.sched_getaffinity(0))
    assert {row["OMP_NUM_THREADS"] for row in world.journal("train")} == {str(max(1, cores // 2))}
    assert {device for _, _, device in found.values()} == {""}, "no GPU is shown to a cell on the CPU"
    said = capsys.readouterr().out
    assert "r=2: training" in said and "[2 of 2]" in said


def test_a_failure_stops_no_other_and_is_tried_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(cells=[{"label": "bad", "fail": 3}, {"label": "good"}, {"label": "empty", "silent": 1}])
    assert world.sweep() == 1
    assert world.statuses() == {"bad": "failed", "good": "done", "empty": "failed"}
    bad = world.record()["bad"]
    assert bad["exit_status"] == 3 and bad["reason"][-1] == "error: the loss is nan; lower --learning_rate"
    assert world.record()["empty"]["reason"][-1] == "training ended with status 0 and left nothing that could be found"
    said = capsys.readouterr().out
    assert "failed: bad (exit status 3" in said and "the loss is nan" in said
    (world.out / "mended").touch()
    assert world.sweep("--only", "bad") == 0
    assert "tried again, after a failure: bad" in capsys.readouterr().out
    assert world.statuses()["bad"] == "done"
    assert [row["cell"] for row in world.journal("train")].count("good") == 1, "a finished cell is not done again"


def test_evaluation_follows_and_more_benchmarks_need_no_training(world: World) -> None:
    evaluate = {"benchmarks": ["pope"], "data_root": FIXTURES, "untuned": True}
    world.write(cells=[{"label": "one", "score": 0.5}], evaluate=evaluate)
    assert world.sweep() == 0
    assert world.record()["one"]["scores"] == {"pope": 50.0} and world.record()["untuned"]["scores"] == {"pope": 25.0}
    world.write(cells=[{"label": "one", "score": 0.5}], evaluate={**evaluate, "benchmarks": ["pope", "mme"]})
    assert world.sweep() == 0
    assert world.record()["one"]["scores"] == {"pope": 50.0, "mme": 1000.0}  # 0.5 of 2000
    assert len(world.journal("train")) == 1
    asked = [(row["cell"], row["names"], row["version"]) for row in world.journal("evaluate")]
    # The untuned base is told its template, a run knows its own.
    assert asked == [
        ("untuned", ["pope"], "v1"), ("one", ["pope"], None), ("untuned", ["mme"], "v1"), ("one", ["mme"], None),
    ]  # fmt: skip
    rows = json.loads((world.out / "results.json").read_text())["groups"]
    assert [(row["label"], row["means"]["average"]["mean"]) for row in rows] == [("untuned base", 25.0), ("one", 50.0)]


def test_changed_cells_are_refused_and_new_ones_join(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(cells=[{"label": "one", "r": 4}])
    assert world.sweep() == 0
    world.write(cells=[{"label": "one", "r": 8}])
    assert world.sweep() == 1
    assert "the cell one was begun otherwise (r '4' -> '8')" in capsys.readouterr().err
    world.write(cells=[{"label": "one", "r": 4}, {"label": "two", "r": 8}])
    assert world.sweep() == 0
    assert [row["cell"] for row in world.journal("train")] == ["one", "two"]


def test_evaluation_may_change_while_training_stays(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cells, evaluate = [{"label": "one", "r": 4}], {"benchmarks": ["pope"], "data_root": FIXTURES}
    world.write(cells=cells)
    assert world.sweep() == 0
    world.write(cells=cells, evaluate=evaluate)  # what was trained only is evaluated now
    assert world.sweep() == 0
    world.write(cells=cells, evaluate={**evaluate, "limit": 2})
    assert world.sweep() == 1
    said = capsys.readouterr().err
    evaluation = world.out / "one" / "evaluation"
    assert "(evaluate limit None -> 2)" in said and f"or remove {evaluation} to evaluate it anew" in said
    shutil.rmtree(evaluation)
    assert world.sweep() == 0
    assert len(world.journal("evaluate")) == 2 and len(world.journal("train")) == 1
    world.write(cells=cells)
    assert world.sweep() == 0, "nothing is asked, so nothing is compared"


def test_a_cell_that_cannot_be_started_stops_no_other(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(cells=[{"label": "bad"}, {"label": "worse", "r": 1}, {"label": "good", "r": 2}])
    (world.out / "worse" / "log.txt").mkdir(parents=True)
    (world.out / "bad").touch()
    assert world.sweep() == 1
    assert world.statuses() == {"bad": "failed", "worse": "failed", "good": "done"}
    assert "bad/cell.json: cannot be written" in world.record()["bad"]["reason"][0]
    assert "worse/log.txt: cannot be written" in world.record()["worse"]["reason"][0]
    assert "failed: bad (could not be started)" in capsys.readouterr().out


def test_missing_files_of_a_benchmark_stop_before_training(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(grid={"r": [1, 2]}, evaluate={"benchmarks": "pope", "data_root": str(world.out)})
    assert world.sweep() == 1
    said = capsys.readouterr().err
    assert "files of the benchmarks are missing, so nothing is trained" in said and "llava_pope_test.jsonl" in said
    assert not world.journal()


def test_missing_data_stop_before_training(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(cells=[{"label": "a", "data_path": "nowhere.json"}, {"label": "b"}])
    assert world.sweep() == 1
    assert "nowhere.json: no such file (--data_path), of a" in capsys.readouterr().err
    assert not world.journal()


def test_only_what_is_named_is_done(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(cells=[{"label": "Team LoRA", "r": 8}, {"label": "LoRA", "r": 32}], grid={"seed": [0, 1]})
    assert world.sweep("--only", "Team*seed=1") == 0
    assert [row["cell"] for row in world.journal("train")] == ["Team-LoRA,seed=1"]
    assert world.sweep("--only", "Taem*") == 1
    assert "--only Taem*: matches no cell" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(grid={"r": [1, 2]}, prepare=["touch somewhere"])
    assert world.sweep("--dry_run") == 0
    said = capsys.readouterr().out
    assert "prepare (would be run): touch somewhere" in said
    assert f"r=2: training: llava-teamlora train --r 2 --output_dir {world.out}/r=2" in said
    assert not world.out.exists()


def test_preparations_are_made_once(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, log = tmp_path / "made", tmp_path / "log"
    program = f"open({str(log)!r}, 'a').write('x'); open({str(made)!r}, 'w')"
    prepare = [{"run": f'python -c "{program}"', "creates": str(made)}]
    world.write(grid={"r": [1]}, prepare=prepare)
    assert world.sweep() == 0 and log.read_text() == "x"
    world.write(grid={"r": [1, 2]}, prepare=prepare)
    assert world.sweep() == 0 and log.read_text() == "x"
    made.unlink()  # gone: made again as soon as there is something to do
    assert world.sweep() == 0 and log.read_text() == "x"
    world.write(grid={"r": [1, 3]}, prepare=prepare)
    assert world.sweep() == 0 and log.read_text() == "xx"
    world.write(grid={"r": [4]}, prepare=["python -c 'import sys; sys.exit(\"no such thing\")'"])
    assert world.sweep() == 1
    said = capsys.readouterr().err
    assert "ended with status 1" in said and "no such thing" in said
    assert "r=4" not in [row["cell"] for row in world.journal("train")]
