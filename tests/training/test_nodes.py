"""Two nodes of one process each: with one folder, with a folder each, and when they do not agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from process_pair import Outcome, ProcessPair, succeeded
from run_folders import TWO, assert_near
from safetensors.torch import load_file

ALONE_THERE = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
ZERO2 = ("--deepspeed", str(Path(__file__).parents[2] / "scripts" / "zero2.json"))
EACH = ("--save_on_each_node", "True")


class Nodes:
    """A pair of processes, each the only one on its node; ``--output_dir run`` is relative to its own folder."""

    def __init__(self, pair: ProcessPair, argv: list[str], *folders: Path) -> None:
        self.pair = pair
        self.flags = [*argv, *TWO, "--output_dir", "run"]
        self.folders = folders
        for folder in folders:
            folder.mkdir(exist_ok=True)

    def train(self, *flags: str) -> list[Outcome]:
        nodes = {"environments": (ALONE_THERE, ALONE_THERE), "folders": self.folders}
        return self.pair.train(self.flags, *flags, plans=["impatient"], **nodes)


@pytest.fixture
def apart(pair: ProcessPair, argv: list[str], tmp_path: Path) -> Nodes:
    """Nodes that see nothing of each other."""
    return Nodes(pair, argv, tmp_path / "a", tmp_path / "b")


@pytest.fixture
def sharing(pair: ProcessPair, argv: list[str], tmp_path: Path) -> Nodes:
    """Nodes that see the same folder."""
    return Nodes(pair, argv, tmp_path / "a", tmp_path / "a")


def assert_refused(outcomes: list[Outcome], message: str) -> None:
    assert all(outcome.status == 1 and message in str(outcome.error) for outcome in outcomes), outcomes


def test_nodes_that_do_not_see_the_folder_are_told(apart: Nodes) -> None:
    """Half of every checkpoint would lie on another node, and the run could never be resumed."""
    assert_refused(apart.train(), "process 1 does not see the folder that process 0 writes to")
    assert not list(apart.folders[0].glob("run/.*"))


def test_nodes_that_share_a_folder_must_not_write_each(sharing: Nodes) -> None:
    assert_refused(sharing.train(*EACH), "is one folder on all nodes, and each would write the same files")


@pytest.mark.parametrize("zero", [(), pytest.param(ZERO2, marks=pytest.mark.deepspeed)], ids=["ddp", "zero2"])
def test_each_node_keeps_its_part(apart: Nodes, zero: tuple[str, ...], tmp_path: Path) -> None:
    """Every node's folder can be resumed from and answered with; without one of them nothing is begun."""
    if zero:
        pytest.importorskip("deepspeed")
    succeeded(apart.train(*EACH, *zero))
    first, second = (folder / "run" for folder in apart.folders)
    assert torch.equal(*(load_file(run / "adapter_model.safetensors")[_A] for run in (first, second)))
    assert (first / "checkpoint-4" / "rng_state_0.pth").is_file()
    assert (second / "checkpoint-4" / "rng_state_1.pth").is_file()

    shutil.copytree(first, tmp_path / "straight")
    for run in (first, second):
        shutil.rmtree(run / "checkpoint-6")
        (run / "run.yaml").unlink()
    shutil.move(second, tmp_path / "elsewhere")
    outcomes = apart.train(*EACH, *zero)
    assert_refused(outcomes, "process 0 goes on from checkpoint-4, but process 1 begins anew")
    shutil.move(tmp_path / "elsewhere", second)
    succeeded(apart.train(*EACH, *zero))
    assert_near(first, tmp_path / "straight")
    assert "this run is finished already" in apart.train(*EACH, *zero)[1].output


_A = "base_model.model.model.language_model.layers.0.mlp.up_proj.teamlora_A.weight"
