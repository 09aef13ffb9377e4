"""However a sweep ends, the next one goes on from there: Ctrl-C, kill -9, two at once."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from sweep_world import World


def test_ctrl_c_lets_the_cells_save(world: World) -> None:
    world.write(base={"steps": 40}, grid={"r": [1, 2, 3]})
    process = world.start("--jobs", "2")
    world.wait_for("train", 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Interrupted; 3 cells are left" in said
    assert len(world.journal("saved")) == 2 and len(world.journal("train")) == 2, "no third cell was begun"
    assert world.statuses() == {"r=1": "interrupted", "r=2": "interrupted", "r=3": "waiting"}
    saved = {row["cell"]: row["at"] for row in world.journal("saved")}
    again = world.start("--jobs", "3")
    said, _ = again.communicate(timeout=30)
    assert again.returncode == 0, said
    begun = {row["cell"]: row["begins_at"] for row in world.journal("train")}
    assert begun == {**saved, "r=3": 0} and min(saved.values()) > 0


def test_a_second_ctrl_c_kills(world: World) -> None:
    world.write(base={"steps": 400, "stubborn": 1}, grid={"r": [1]})
    process = world.start()
    (started,) = world.wait_for("train")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert process.poll() is None, "it waits for the child, which takes no notice"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 130, said
    with pytest.raises(ProcessLookupError):
        os.kill(started["pid"], 0)


def test_killed_sweeps_leave_no_children_and_go_on(world: World) -> None:
    world.write(base={"steps": 30}, grid={"r": [1, 2]})
    process = world.start()
    world.wait_for("train")
    time.sleep(0.5)
    process.kill()
    process.communicate()
    (saved,) = world.wait_for("saved")  # the child was sent SIGINT
    assert saved["at"] > 0
    assert json.loads((world.out / "sweep.json").read_text())["cells"][0]["status"] == "training"
    again = world.start("--jobs", "2")
    said, _ = again.communicate(timeout=30)
    assert again.returncode == 0, said
    assert world.statuses() == {"r=1": "done", "r=2": "done"}
    begun = sorted((row["cell"], row["begins_at"]) for row in world.journal("train"))
    assert begun == [("r=1", 0), ("r=1", saved["at"]), ("r=2", 0)], "the interrupted cell goes on from its checkpoint"


def test_two_sweeps_in_one_folder_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(base={"steps": 400}, grid={"r": [1]})
    process = world.start()
    world.wait_for("train")
    assert world.sweep() == 1
    assert f"another sweep is at work there (process {process.pid})" in capsys.readouterr().err
    assert len(world.journal("train")) == 1


def test_an_orphan_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A child that hears no SIGINT outlives its killed sweep, and holds the lock."""
    world.write(base={"steps": 30, "stubborn": 1}, grid={"r": [1]})
    process = world.start()
    world.wait_for("train")
    process.kill()
    process.communicate()
    monkeypatch.setattr("llava_teamlora.sweep.children.ORPHANS_END_S", 0.1)
    assert world.sweep() == 1
    assert "a sweep was killed there" in capsys.readouterr().err
    monkeypatch.setattr("llava_teamlora.sweep.children.ORPHANS_END_S", 20.0)
    assert world.sweep() == 0
    assert [row["begins_at"] for row in world.journal("train")] == [0], (
        "the orphan finished the cell; nothing was done twice"
    )
