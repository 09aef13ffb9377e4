"""Builds the embedded base from a seed: read `build` from top to bottom.

In: command line (see --help). Out: a folder with model, tokenizer, processor, replay.json and a model card,
written whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModel, LlamaTokenizer, LlavaForConditionalGeneration, LlavaProcessor

from .card import model_card
from .lm import RowMaker, train_lm
from .model import Shape, build_model, build_processor
from .scenes import make_scenes
from .text_tasks import replay_records
from .tokenizer import train_tokenizer
from .tower import patch_state, to_pixels, tower_config, train_tower

log = logging.getLogger("tiny_base")


@dataclass(frozen=True)
class Plan:
    """How much work: sentences for the tokenizer; pictures, optimiser steps and batch sizes of the stages; replay."""

    sentences: int = 20_000
    tower_scenes: int = 30_000
    tower_held_out: int = 500
    tower_steps: int = 2500
    tower_batch: int = 128
    tower_lr: float = 2e-3
    lm_scenes: int = 12_000
    lm_held_out: int = 300
    lm_steps: int = 1400
    lm_batch: int = 12
    questions: int = 10
    lm_lr: float = 2e-3
    replay: int = 800


FAST = Plan(
    sentences=1000,
    tower_scenes=64, tower_held_out=16, tower_steps=4, tower_batch=16,
    lm_scenes=64, lm_held_out=16, lm_steps=4, lm_batch=4, questions=4, replay=20,
)  # fmt: skip


@torch.no_grad()
def states_of(tower: CLIPVisionModel, pictures: np.ndarray) -> Tensor:
    """The frozen tower's states of all pictures, [N, P, width]; computed once for the whole second stage."""
    return torch.cat([patch_state(tower, to_pixels(pictures[i : i + 500])) for i in range(0, len(pictures), 500)])


def build_tower(plan: Plan, shape: Shape, seed: int) -> tuple[CLIPVisionModel, dict[str, float]]:
    """Stage 1: a trained tower and its held-out scores (0-1)."""
    torch.manual_seed(seed)
    scenes, pictures = make_scenes(plan.tower_scenes, seed + 1)
    held_scenes, held_pictures = make_scenes(plan.tower_held_out, seed + 2)
    tower = CLIPVisionModel(tower_config(shape.tower_layers, shape.tower_width, shape.patch))
    log.info("drew %d pictures for the tower", plan.tower_scenes)
    scores = train_tower(
        tower, pictures, scenes, (held_pictures, held_scenes),
        steps=plan.tower_steps, batch_size=plan.tower_batch, lr=plan.tower_lr,
    )  # fmt: skip
    return tower, {f"tower: {name} at a patch": score for name, score in scores.items()}


def build_llava(
    tower: CLIPVisionModel, tokenizer: LlamaTokenizer, plan: Plan, shape: Shape, seed: int
) -> tuple[LlavaForConditionalGeneration, dict[str, float]]:
    """Stage 2: a trained LLaVA around a trained tower, and its held-out scores by kind (0-1)."""
    torch.manual_seed(seed)
    model = build_model(shape, tokenizer)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    scenes, pictures = make_scenes(plan.lm_scenes, seed + 1)
    held_scenes, held_pictures = make_scenes(plan.lm_held_out, seed + 2)
    states, held_states = states_of(tower, pictures), states_of(tower, held_pictures)
    log.info("drew %d pictures for the language model; %d tokens", plan.lm_scenes, len(tokenizer))
    maker = RowMaker(tokenizer, model.config.image_token_index, shape.image_tokens)
    scores = train_lm(
        model, maker, scenes, states, (held_scenes, held_states),
        steps=plan.lm_steps, batch_size=plan.lm_batch, questions=plan.questions, lr=plan.lm_lr, seed=seed + 5,
    )  # fmt: skip
    return model.eval(), scores


def build(out: Path, plan: Plan, shape: Shape, seed: int) -> None:
    """Trains tower then language model, measures both, and writes the folder `out` (which must not exist)."""
    started = time.monotonic()
    tokenizer = train_tokenizer(1200, seed, plan.sentences)
    tower, tower_scores = build_tower(plan, shape, seed)
    log.info("tower done after %.0f s", time.monotonic() - started)
    model, scores = build_llava(tower, tokenizer, plan, shape, seed)
    scores = tower_scores | scores
    log.info("held-out: %s", " ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    write(out, model, build_processor(shape, tokenizer), scores, plan, seed)
    log.info("wrote %s, %d parameters, after %.0f s", out, model.num_parameters(), time.monotonic() - started)


def write(
    out: Path,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scores: dict[str, float],
    plan: Plan,
    seed: int,
) -> None:
    """Writes everything beside `out` first and renames at the end, so that `out` is never half a model."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        replay = replay_records(plan.replay, seed + 4)
        (folder / "replay.json").write_text(json.dumps(replay, indent=1) + "\n")
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        (folder / "README.md").write_text(model_card(model.num_parameters(), plan, scores, seed, digest))
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.rename(out)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; --help teaches."""
    parser = argparse.ArgumentParser(
        prog="scripts/build_tiny_base.sh",
        description="Builds the embedded base, a tiny LLaVA that knows plain shapes, from drawn pictures and text.",
        epilog="Example: scripts/build_tiny_base.sh --out outputs/tiny, then train --model_name_or_path outputs/tiny.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/tiny_base"), help="new folder to write; must not exist"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides pictures, texts and weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; they change the last digits")
    parser.add_argument("--fast", action="store_true", help="a few steps: runs everything, learns nothing")
    return parser.parse_args(arguments)


def main() -> None:
    """Entry point."""
    options = parse_arguments(sys.argv[1:])
    if options.out.exists():
        sys.exit(f"{options.out} exists already; move it away or give another --out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    build(options.out, FAST if options.fast else Plan(), Shape(), options.seed)


if __name__ == "__main__":
    main()
