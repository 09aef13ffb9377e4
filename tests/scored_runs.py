"""Finished run folders with scores of CME's tasks, made without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.models.spec import BaseSpec
from llava_teamlora.run_card import RunCard, write_run_card

FLAT: dict[str, float] = dict.fromkeys(ELEVEN, 0.5)
"""Half of everything: an average of 50."""
BASE = "1" * 64
ARGUMENTS = {"r": None, "learning_rate": 0.003, "num_train_epochs": 1.0, "seed": 0, "per_device_train_batch_size": 16}


def make_run(
    folder: Path,
    shares: Mapping[str, float] = FLAT,
    method: str = "teamlora",
    adapter: Mapping[str, Any] | None = None,
    *,
    base: str = "tiny_text",
    parameters: int = 100,
    seconds: float = 90.0,
    **arguments: Any,
) -> Path:
    """A run folder. ``shares`` are scores of 0 to 1, each with a standard error of 0.01."""
    if adapter is None:
        routed = {"num_experts": 4, "train_interaction": method == "teamlora"}
        adapter = {"r": 8, **(routed if method in ("teamlora", "moelora", "hydralora") else {})}
    card = RunCard(
        method=method,
        base=BaseSpec(f"playground/{base}"),
        base_fingerprint=BASE if base == "tiny_text" else "2" * 64,
        version="cme",
        image_aspect_ratio="pad",
        arguments={**ARGUMENTS, "method": method, "output_dir": str(folder), **arguments},
        identity={"data_sha256": "3" * 64, "processes": 1},
        results={"trainable_parameters": parameters, "base_parameters": 10_000, "train_seconds": seconds}
        | {"peak_mem_mib": 700},
    )
    folder.mkdir(parents=True)
    write_run_card(folder, card)
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    make_scores(folder / "evaluation", shares, {"kind": "run", "method": method, "model": str(folder)})
    return folder


def trained_on(folder: Path, digest: str) -> None:
    """Say that a run was trained on other data."""
    from llava_teamlora.run_card import read_run_card

    card = read_run_card(folder)
    write_run_card(folder, replace(card, identity={**card.identity, "data_sha256": digest}))


def make_untuned(folder: Path, shares: Mapping[str, float] = FLAT, base: str = "tiny_text") -> Path:
    """Scores of an untuned base."""
    named = {"model": f"playground/{base}", "base": {"model": f"playground/{base}"}}
    fingerprint = BASE if base == "tiny_text" else "2" * 64
    make_scores(folder, shares, {"kind": "base", "method": None, "base_fingerprint": fingerprint, **named})
    return folder


def make_scores(folder: Path, shares: Mapping[str, float], model: Mapping[str, Any]) -> None:
    """One ``scores.json`` a task; always giving the commonest answer scores 0.25."""
    for name, share in shares.items():
        write_scores(folder, name, share, model)


def write_scores(folder: Path, task: str, share: float, model: Mapping[str, Any], **changes: Any) -> None:
    """One of them."""
    total = {"value": share, "stderr": 0.01, "n": 100, "maximum": 100.0}
    content = {
        "benchmark": task,
        "name": task,
        "version": 1,
        "metric": "ROUGE-L F1" if task == "tldr" else "accuracy",
        "total": total,
        "groups": {},
        "extra": {},
        "baselines": {
            "majority": {"how": "always 'yes'", "total": {**total, "value": 0.25}, "groups": {}, "extra": {}}
        },
        "data_sha256": task.ljust(64, "0"),
        "manifest": {"model": dict(model), "cost": {"peak_mem_mib": 800}},
        **changes,
    }
    (folder / task).mkdir(parents=True, exist_ok=True)
    (folder / task / "scores.json").write_text(json.dumps(content))
