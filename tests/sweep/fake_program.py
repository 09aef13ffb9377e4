"""Stands in for ``llava-teamlora`` (and for its parser of flags): runs that take a moment and do what a test asks.

``train`` counts steps into a checkpoint, goes on from it, and leaves run.yaml; ``evaluate run`` leaves scores. Both
note start and end in ``journal.jsonl`` beside the cells. Flags of train: --steps, --step_s, --after (a number of other
cells, whose end it waits for), --fail (exit status; until a file ``mended`` lies beside the cells), --stubborn (hears
no SIGINT), --score (what evaluation will find), --silent (ends well and leaves nothing).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

RUN_CARD = """\
llava_teamlora_run: 1
method: lora
base: {model: base}
base_fingerprint: '0'
version: v1
image_aspect_ratio: pad
arguments: {data_path: DATA, score: SCORE}
identity: {data_sha256: SHA}
results: {trainable_parameters: 1000, train_seconds: 2.5, peak_mem_mib: 64}
"""


def note(out: Path, event: str, **more: object) -> None:
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    row = {"event": event, "cell": out.name, "time": time.monotonic(), "pid": os.getpid(), **more}
    row |= {name: os.environ.get(name) for name in names}
    with (out.parent / "journal.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def train(flags: dict[str, str]) -> int:
    out = Path(flags["output_dir"])
    checkpoint = out / "checkpoint.txt"
    done = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    note(out, "train", begins_at=done)
    interrupted = []
    if flags.get("stubborn"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(1))
    total = int(flags.get("steps", "1"))
    for step in range(done + 1, total + 1):
        time.sleep(float(flags.get("step_s", "0.05")))
        print(f"{{'loss': '{1 / step:.4g}'}}")
        print(f" {step}/{total} [00:00<00:00]", end="\r", flush=True)
        checkpoint.write_text(str(step))
        if interrupted:
            note(out, "saved", at=step)
            return 130
    while (out.parent / "journal.jsonl").read_text().count('"trained"') < int(flags.get("after", "0")):
        time.sleep(0.05)
    if "fail" in flags and not (out.parent / "mended").exists():
        print("error: the loss is nan; lower --learning_rate", file=sys.stderr)
        return int(flags["fail"])
    if not flags.get("silent"):
        card = RUN_CARD.replace("SCORE", flags.get("score", "0.5")).replace("DATA", flags.get("data_path", "a.json"))
        (out / "run.yaml").write_text(card.replace("SHA", flags.get("sha", "same")))
    note(out, "trained")
    return 0


def evaluate(names: list[str], flags: dict[str, str]) -> int:
    folder = Path(flags["out"])
    evaluation = folder if len(names) > 1 else folder.parent
    note(evaluation.parent, "evaluate", names=names, version=flags.get("version"))
    card = Path(flags["model"]) / "run.yaml"
    score = float(card.read_text().split("score: ")[1].split("}")[0]) if card.is_file() else 0.25
    for name in names:
        cell = {"value": score, "stderr": None, "n": 4, "maximum": 2000.0 if name == "mme" else 100.0}
        content = {"name": name, "version": 1, "metric": "accuracy", "total": cell, "groups": {}, "extra": {}}
        (evaluation / name).mkdir(parents=True, exist_ok=True)
        (evaluation / name / "scores.json").write_text(json.dumps({**content, "baselines": {}, "data_sha256": "d"}))
    return 0


def check() -> int:
    """In the place of sweep/flag_check.py: every flag is understood."""
    asked = json.load(sys.stdin)
    cells = []
    for argv in asked["cells"]:
        said = parse(argv)
        kept = {name: value for name, value in said.items() if name != "output_dir"}
        cells.append({"arguments": {"model_name_or_path": "base", "version": "v1", **said}, "kept": kept})
    print(json.dumps({"gpus": int(os.environ.get("FAKE_GPUS", "0")), "cells": cells, "notes": []}))
    return 0


def parse(words: list[str]) -> dict[str, str]:
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        raise SystemExit(check())
    if sys.argv[1] == "train":
        raise SystemExit(train(parse(sys.argv[2:])))
    count = next(i for i, word in enumerate(sys.argv[3:]) if word.startswith("--"))
    raise SystemExit(evaluate(sys.argv[3 : 3 + count], parse(sys.argv[3 + count :])))
