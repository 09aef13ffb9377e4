"""Builds the embedded text base from a seed: read `build` from top to bottom.

In: command line (see --help). Out: a folder with model, tokenizer and a model card, written whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cme_world.corpus import corpus
from cme_world.words import plain
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from llava_teamlora.evaluation.benchmarks import BENCHMARKS, ELEVEN
from llava_teamlora.evaluation.cme.task import TextTask

from .card import DIGEST, model_card
from .model import Shape, build_model
from .pretrain import Course, pretrain
from .rows import make_rows
from .tokenizer import make_tokenizer

log = logging.getLogger("tiny_text")


@dataclass(frozen=True)
class Plan:
    """How much work: documents to take the words from, to learn and to measure; how they are learned."""

    word_documents: int = 20_000
    documents: int = 255_000
    held_out: int = 1000
    course: Course = field(default_factory=Course)


FAST = Plan(word_documents=300, documents=12, held_out=4, course=Course(rows=2, length=64, keep=2, tell=1))


def prompts() -> Iterator[str]:
    """What the eleven tasks say around their questions: its words are tokens too, though none is learned here."""
    for task in map(BENCHMARKS.get, ELEVEN):
        assert isinstance(task, TextTask)
        yield from (task.instruction, *task.paraphrases)
    yield "Question Choices Sentence Text Option A B C D E"


def build(out: Path, plan: Plan, shape: Shape, seed: int, dtype: torch.dtype) -> None:
    """Learns words, then the corpus; writes the folder `out` (which must not exist)."""
    started, course, state = time.monotonic(), plan.course, out.parent / f".{out.name}.state.pt"
    torch.manual_seed(seed)
    tokenizer = make_tokenizer([*map(plain, corpus(seed + 1, plan.word_documents)), *prompts()])
    model = build_model(shape, tokenizer)
    rows = make_rows(corpus(seed + 1, plan.documents), tokenizer, course.length)
    held_out = make_rows(corpus(seed + 2, plan.held_out), tokenizer, course.length)
    log.info(
        "%d tokens of vocabulary, %d of text, %.0f s", len(tokenizer), rows.ids.numel(), time.monotonic() - started
    )
    model.set_attn_implementation("float32_sdpa")
    context = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    loss = pretrain(model, rows, held_out, course, context, state)
    model.set_attn_implementation("sdpa")
    log.info("held-out loss %.3f", loss)
    card = model_card(model, plan, len(rows) * course.length, loss, seed, dtype)
    write(out, model, tokenizer, card)
    state.unlink(missing_ok=True)
    log.info("wrote %s, %d parameters, after %.0f s", out, model.num_parameters(), time.monotonic() - started)


def write(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, card: str) -> None:
    """Writes everything beside `out` first and renames at the end, so that `out` is never half a model."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        (folder / "README.md").write_text(card.replace(DIGEST, digest), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.rename(out)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; --help teaches."""
    parser = argparse.ArgumentParser(
        prog="scripts/build_tiny_text.sh",
        description="Builds the embedded text base, a tiny Llama that knows a small invented world, from its texts.",
        epilog="Example: scripts/build_tiny_text.sh --out outputs/tiny_text. If interrupted, the same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/tiny_text"), help="new folder to write; must not exist"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides texts and weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; they change the last digits")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="what matrices are multiplied in; float32 is faster where the CPU has no instructions for the other",
    )
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
    build(options.out, FAST if options.fast else Plan(), Shape(), options.seed, getattr(torch, options.dtype))


if __name__ == "__main__":
    main()
