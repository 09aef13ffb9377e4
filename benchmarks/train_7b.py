"""Some real steps of ``scripts/finetune_teamlora.sh`` on a 7B of random weights: tokens a second, peak memory, loss.

    python benchmarks/train_7b.py --work /scratch/7b            # one GPU; makes the base there first (14 GiB)
    GPUS=8 python benchmarks/train_7b.py --work /scratch/7b     # variables and further flags go to the script

Needs a CUDA device: on a CPU it refuses (``--size tiny`` runs anywhere, to test the path). Out: a JSON file with what
was measured beside what was estimated (docs/memory.md). Every sample is as long as ``--model_max_length`` allows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from random_llava import ROOT, SIZES, write_base
from rich.console import Console

from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

RESULTS = ROOT / "benchmarks" / "results"
_WORDS = "is the small red circle left of the big blue square or not"


def main(argv: list[str] | None = None) -> int:
    """The command line; exit status 1 when it is refused or the training fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="7b")
    parser.add_argument("--work", type=Path, required=True, help="folder for base, data and run")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of each sample, picture included")
    parser.add_argument("--batch", type=int, default=16, help="samples a process and step")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/train_SIZE.json)")
    arguments, further = parser.parse_known_args(argv)
    try:
        result = measure(arguments, further)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out = arguments.out or RESULTS / f"train_{arguments.size}.json"
    write_atomically(out, json.dumps(result, indent=2) + "\n")
    Console().print_json(json.dumps(result))
    return 0


def measure(arguments: argparse.Namespace, further: list[str]) -> dict[str, Any]:
    """Train, and gather what was measured.

    Args:
        arguments: see :func:`main`.
        further: flags for ``llava-teamlora train``.

    Raises:
        UserError: no CUDA device for a 7B, or the training failed.
    """
    if arguments.size == "7b" and not torch.cuda.is_available():
        raise UserError("a 7B is trained on a GPU, and torch sees none here; --size tiny runs on a CPU")
    work: Path = arguments.work.resolve()
    base = work / f"base-{arguments.size}"
    if not (base / "clip" / "model.safetensors.index.json").is_file():  # written last
        write_base(base, arguments.size)
    processes = int(os.environ.get("GPUS") or max(torch.cuda.device_count(), 1))
    data = write_data(work / "data", arguments.steps * arguments.batch * processes, arguments.tokens)
    run = work / "run"
    variables = {
        "MODEL": str(base / "llm"), "VISION_TOWER": str(base / "clip"), "PROJECTOR": "none", "DATA": str(data),
        "IMAGES": str(data.parent), "OUT": str(run), "BATCH": str(arguments.batch), "ACCUM": "1", "ZERO": "0",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    flags = ["--max_steps", str(arguments.steps), "--model_max_length", str(arguments.tokens), "--report_to", "none"]
    command = ["bash", str(ROOT / "scripts" / "finetune_teamlora.sh"), *flags, "--overwrite_output_dir", "True"]
    # What the caller's environment says wins, as in the script itself.
    done = subprocess.run([*command, *further], env={**variables, **os.environ})
    if done.returncode:
        raise UserError(f"the training ended with status {done.returncode}; its own message stands above")
    return {"size": arguments.size, "processes": processes, **gather(run)}


def write_data(folder: Path, samples: int, tokens: int) -> Path:
    """One picture, and records that are all about it and at least that many tokens long (a word is at least one).

    Returns:
        Path of the LLaVA JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 480), (200, 40, 40)).save(folder / "picture.jpg")
    words = _WORDS.split()
    answer = " ".join(words[index % len(words)] for index in range(tokens))
    turns = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": answer}]
    rows = [{"id": str(number), "image": "picture.jpg", "conversations": turns} for number in range(samples)]
    path = folder / f"data-{samples}-{tokens}.json"
    path.write_text(json.dumps(rows))
    return path


def gather(run: Path) -> dict[str, Any]:
    """What the run folder says it took, and what it was estimated to take."""
    from llava_teamlora.doctor.run_check import check_run
    from llava_teamlora.training.flags.command_line import parse_arguments

    card = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    _, estimate = check_run(parse_arguments(["--config", str(run / "run.yaml")]))
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "versions": card["versions"],
        "results": card["results"],
        "losses": [entry["loss"] for entry in state["log_history"] if "loss" in entry],
        "estimate": estimate.to_dict(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
