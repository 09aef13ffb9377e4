"""One cell of the quality benchmark: one method, one learning rate, one seed, trained and scored.

In: a :class:`Cell` and the :class:`Settings`. Out: a folder with the run and ``result.json``, written last and at once;
or ``error.txt``. A worker process does one cell after another (imports cost as much as a quarter of a cell); every cell
loads the base anew and seeds everything anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quality_tasks import Amounts, Split, write_seed

from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
UNTUNED = "untuned"


@dataclass(frozen=True)
class Settings:
    """What is the same for all cells of a benchmark.

    Attributes:
        amounts: of data a seed.
        steps: optimiser steps.
        batch: conversations a step.
        projector_lr: learning rate of the projector, which trains beside every adapter (method ``projector``, which
            has nothing else, uses the cell's own).
        match_params: whose number of parameters the methods with a rank are given.
        lowest: index of the smallest learning rate of the grid, see :func:`rate`.
        highest: of the greatest.
        extensions: by how many further rates a method's grid grows, one by one, while its best is at an edge.
        selection_seeds: seeds that choose learning rates, on validation.
    """

    amounts: Amounts = field(default_factory=lambda: Amounts(pictures=96, conversations=96, turns=4, held_out=200))
    steps: int = 64
    batch: int = 16
    projector_lr: float = 1e-3
    match_params: str = "teamlora:r=8,num_experts=4"
    lowest: int = -14
    highest: int = -6
    extensions: int = 2
    selection_seeds: tuple[int, ...] = (1000, 1001)

    def grid(self) -> tuple[int, ...]:
        """Indices of the learning rates that every method tries first: 1, 3, 10, 30, …"""
        return tuple(range(self.lowest, self.highest + 1, 2))


def rate(index: int) -> float:
    """The learning rates 1, 1.8, 3, 5.6, 10, … by index: 0 is 1, -1 is 0.56, -14 is 3e-4."""
    return float(f"{(1, 1.8, 3, 5.6)[index % 4]}e{index // 4}")


@dataclass(frozen=True, order=True)
class Cell:
    """One training. ``index`` is the learning rate's (see :func:`rate`); None for the untuned base."""

    method: str
    split: Split
    seed: int
    index: int | None

    def folder(self, out: Path) -> Path:
        """Where it lies."""
        shown = "" if self.index is None else f"-lr{rate(self.index):g}"
        return out / "cells" / self.method / f"{self.split}{shown}-seed{self.seed}"

    def result(self, out: Path) -> dict[str, Any] | None:
        """What came out; None as long as there is nothing."""
        path = self.folder(out) / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def failed(self, out: Path) -> bool:
        """Whether it ended in an error."""
        return (self.folder(out) / "error.txt").is_file() and self.result(out) is None


def data_folder(out: Path, seed: int) -> Path:
    """A seed's files."""
    return out / "data" / f"seed{seed}"


def read_settings(out: Path) -> Settings:
    """The settings of a benchmark's folder.

    Raises:
        UserError: there are none.
    """
    path = out / "settings.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; --out is the folder of a benchmark that was run")
    said = json.loads(path.read_text(encoding="utf-8"))
    amounts = Amounts(**said.pop("amounts"))
    return Settings(amounts=amounts, **{**said, "selection_seeds": tuple(said["selection_seeds"])})


def keep_settings(out: Path, settings: Settings) -> None:
    """Write the settings, or see that they are those of the cells already there.

    Raises:
        UserError: they are others.
    """
    path = out / "settings.json"
    if path.is_file() and read_settings(out) != settings:
        raise UserError(f"{path}: this folder's cells have other settings; give the same ones, or another --out")
    write_atomically(path, json.dumps(asdict(settings), indent=1) + "\n")


def flags(cell: Cell, settings: Settings, data: Path, run: Path) -> list[str]:
    """The cell's ``llava-teamlora train`` command line."""
    from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root
    from llava_teamlora.tuners import METHODS

    assert cell.index is not None
    lr = rate(cell.index)
    said: dict[str, Any] = {
        "model_name_or_path": ROOT / "playground" / "tiny",
        "data_path": data / "train.json",
        "image_folder": default_root(),
        "output_dir": run,
        "method": cell.method,
        "learning_rate": lr,
        "mm_projector_lr": lr if cell.method == "projector" else settings.projector_lr,
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch,
        "group_by_modality_length": True,
        "model_max_length": 1024,
        "warmup_steps": 0.05,
        "seed": cell.seed,
        "logging_steps": max(1, settings.steps // 4),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if "r" in METHODS[cell.method].options:
        said["match_params"] = settings.match_params
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


def answered(folder: Path, path: Path, batch: int = 64) -> dict[str, list[bool]]:
    """Which questions of a held-out file a model answers exactly, by task.

    Its greedy answer is the target if and only if, given the target, every answer token and the end token is the
    likeliest where it stands: one pass a question in place of one a token.

    Args:
        folder: run folder or base.
        path: LLaVA JSON of single questions, ids ``task#number``.
        batch: questions a pass.
    """
    import torch

    from llava_teamlora.checkpoint import load_model
    from llava_teamlora.constants import IGNORE_INDEX
    from llava_teamlora.data.collator import Collator
    from llava_teamlora.data.dataset import ConversationDataset
    from llava_teamlora.data.records import load_records
    from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root
    from llava_teamlora.generation.generator import Generator

    loaded = load_model(folder, device="cpu")
    generator = Generator(loaded)  # knows the tokens that no answer may hold
    records = load_records(path)
    dataset = ConversationDataset(records, loaded.template, loaded.tokenizer, 1024, loaded.vision, default_root())
    collate = Collator(generator.fill)
    right = [False] * len(records)
    order = sorted(range(len(records)), key=lambda i: (not records[i].images, records[i].words))
    start = 0
    with torch.inference_mode():
        while start < len(order):
            some = [
                i for i in order[start : start + batch] if bool(records[i].images) == bool(records[order[start]].images)
            ]
            start += len(some)
            inputs = collate([dataset[i] for i in some])
            labels = inputs.pop("labels")  # [B, T]
            # Virtual tokens of a tuned prompt stand in front.
            logits = loaded.model(**inputs).logits[:, -labels.shape[1] :]  # [B, T, V]
            likeliest = generator.forbid(None, logits.flatten(0, 1)).argmax(-1).view_as(labels)
            hit = (likeliest[:, :-1] == labels[:, 1:]) | (labels[:, 1:] == IGNORE_INDEX)
            for i, every in zip(some, hit.all(1).tolist(), strict=True):
                right[i] = every
    by_task: dict[str, list[bool]] = defaultdict(list)
    for record, hit in zip(records, right, strict=True):
        by_task[record.id.partition("#")[0]].append(hit)
    return dict(by_task)


def run_cell(out: Path, cell: Cell, settings: Settings) -> None:
    """Train and score one cell in a folder of its own; what an interrupted attempt left is removed.

    Raises:
        UserError: training refused, or its loss was not finite.
    """
    from llava_teamlora.run_card import library_versions, read_run_card
    from llava_teamlora.training.run import train

    started = time.monotonic()
    folder, data = cell.folder(out), data_folder(out, cell.seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_seed(data, cell.split, settings.amounts, cell.seed)
    model, results = ROOT / "playground" / "tiny", {}
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        if cell.method != UNTUNED:
            model = folder / "run"
            if train(flags(cell, settings, data, model)):
                raise UserError(f"{model}: training was interrupted")
            results = read_run_card(model).results
        right = answered(model, data / f"{cell.split}.json")
    scores = {task: round(100 * sum(hits) / len(hits), 3) for task, hits in right.items()}
    content = {
        **asdict(cell),
        "lr": None if cell.index is None else rate(cell.index),
        "scores": scores,
        "mean": round(sum(scores.values()) / len(scores), 3),
        "trainable_parameters": results.get("trainable_parameters", 0),
        "train_seconds": results.get("train_seconds"),
        "train_loss": results.get("train_loss"),
        "cell_seconds": round(time.monotonic() - started, 1),
        "commit": library_versions().get("commit"),
    }
    write_atomically(folder / "result.json", json.dumps(content) + "\n")


def record_failure(out: Path, cell: Cell, reason: str) -> None:
    """Keep why a cell has no result."""
    write_atomically(cell.folder(out) / "error.txt", reason.strip() + "\n")


def work(out: Path) -> int:
    """A worker: one cell a line from stdin as JSON, ``ok`` or ``failed`` to stdout when it is done."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    settings = read_settings(out)
    for line in sys.stdin:
        cell = Cell(**json.loads(line))
        try:
            run_cell(out, cell, settings)
            print("ok", flush=True)
        except Exception:  # whatever it was, it is on record and the next cell's turn
            record_failure(out, cell, traceback.format_exc())
            print("failed", flush=True)
    return 0
