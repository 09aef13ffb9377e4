"""Pretraining: documents -> rows of tokens -> a Llama that predicts the next token of each.

Every row is seen once. A run that was interrupted goes on from its last state, to the same weights.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from .rows import Rows

log = logging.getLogger("tiny_text")


@dataclass(frozen=True)
class Course:
    """How the rows are learned.

    Attributes:
        rows: in a step.
        length: tokens in a row.
        rest: what a token counts that is of no answer. Most cannot be foretold (who will be named next), and their
            noise would drown the few that can. Only one row in four has them predicted at all, which saves a fifth of
            the time.
        lr: highest rate, of all weights but the matrices between embeddings and head.
        matrix_lr: highest rate of these, which Muon steps by.
        warmup: share of the steps in which the rates rise; then they fall, along a cosine, to a hundredth.
        keep: steps between two states that an interrupted run can go on from.
        tell: steps between two lines of the log.
    """

    rows: int = 16
    length: int = 192
    rest: float = 0.05
    lr: float = 1e-3
    matrix_lr: float = 1.2e-2
    decay: float = 0.02
    warmup: float = 0.01
    keep: int = 200
    tell: int = 50


def row_loss(
    model: LlamaForCausalLM, rows: Rows, rest: float, context: AbstractContextManager[object]
) -> tuple[Tensor, Tensor]:
    """Mean loss of the answers' tokens and, counting `rest`, of all others in every fourth row; nats.

    Every document sees itself alone, as a question does that is asked later. What a row begins with is the end of one
    that the row before it began, and answers nothing.

    Args:
        model: computes in that context.
        rows: [B, T + 1].
        rest: 0-1.
        context: autocast, or none.

    Returns:
        The loss, and those of the answers' tokens [A].
    """
    ids = rows.ids.long()
    bos = model.config.bos_token_id
    document = (ids == bos).cumsum(1)[:, :-1]  # [B, T]
    answers = rows.answers[:, 1:] & (document > 0)
    predicted = answers | (torch.arange(len(ids)) % 4 == 0)[:, None]
    seen = (document[:, None, :, None] == document[:, None, None, :]).tril()  # [B, 1, T, T]
    with context:
        hidden = model.model(input_ids=ids[:, :-1], attention_mask=seen, use_cache=False).last_hidden_state  # [B, T, D]
        logits = model.lm_head(hidden[predicted])  # [P, V]
    losses = F.cross_entropy(logits.float(), ids[:, 1:][predicted], reduction="none")  # [P]
    answers = answers[predicted]
    weights = torch.where(answers, 1.0, rest)
    return (losses * weights).sum() / weights.sum(), losses.detach()[answers]


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: Rows, context: AbstractContextManager[object]) -> float:
    """Mean loss of the answers' tokens, nats, over rows that may be many."""
    parts = (rows.take(start, start + 32) for start in range(0, len(rows), 32))
    return torch.cat([row_loss(model, part, 1.0, context)[1] for part in parts]).mean().item()


class Optimizers:
    """Muon for the layers' matrices, AdamW for embeddings and norms, and the rates of both.

    Muon makes a step equally large in all directions of a matrix: such a base learns as much of half the rows.
    """

    def __init__(self, model: LlamaForCausalLM, course: Course, steps: int) -> None:
        layers = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
        inside = {id(weight) for weight in layers}
        others = [weight for weight in model.parameters() if id(weight) not in inside]
        self.all = (
            torch.optim.Muon(layers, lr=course.matrix_lr, weight_decay=course.decay, adjust_lr_fn="original"),
            torch.optim.AdamW(others, lr=course.lr, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.weights, self.course, self.steps = [*layers, *others], course, steps

    def step(self, number: int) -> None:
        """One step, at the rate of its number (from 0)."""
        course = self.course
        rising = (number + 1) / max(1, course.warmup * self.steps)
        falling = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * number / self.steps))
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer, peak in zip(self.all, (course.matrix_lr, course.lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, rising) * falling
            optimizer.step()
            optimizer.zero_grad()


class State:
    """Where an interrupted run left off: weights and optimisers after some steps, in one file."""

    def __init__(self, path: Path, *what: object) -> None:
        """`what`: everything that decides a step, weights before the first one included; another is refused."""
        self.path, self.key = path, hashlib.sha256(repr(what).encode()).hexdigest()

    def load(self, model: LlamaForCausalLM, optimizers: Optimizers) -> int:
        """Puts the last state into both, if there is one; returns the steps done."""
        if not self.path.exists():
            return 0
        kept = torch.load(self.path)
        if kept["key"] != self.key:
            raise SystemExit(f"{self.path} is of a run with other texts, sizes or rates; remove it to begin anew")
        model.load_state_dict(kept["model"])
        for optimizer, state in zip(optimizers.all, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        log.info("going on after step %d", kept["step"])
        return kept["step"]

    def save(self, model: LlamaForCausalLM, optimizers: Optimizers, step: int) -> None:
        """Writes the state whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        states = [optimizer.state_dict() for optimizer in optimizers.all]
        torch.save({"key": self.key, "model": model.state_dict(), "optimizers": states, "step": step}, fresh)
        os.replace(fresh, self.path)


def pretrain(
    model: LlamaForCausalLM,
    rows: Rows,
    held_out: Rows,
    course: Course,
    context: AbstractContextManager[object],
    state: Path,
) -> float:
    """Trains in place on the rows in their order; returns the loss of the answers held out, nats a token."""
    steps = len(rows) // course.rows
    optimizers = Optimizers(model, course, steps)
    start = [(name, weight.sum().item()) for name, weight in model.named_parameters()]
    kept = State(state, course, rows.digest(), start)
    started, done = time.monotonic(), kept.load(model, optimizers)
    losses: list[float] = []
    for step in range(done, steps):
        batch = rows.take(step * course.rows, (step + 1) * course.rows)
        loss, of_answers = row_loss(model, batch, course.rest, context)
        loss.backward()
        optimizers.step(step)
        losses.append(of_answers.mean().item())
        if (step + 1) % course.tell == 0:
            each = (time.monotonic() - started) / (step + 1 - done)
            log.info("step %d/%d answers' loss %.3f, %.2f s a step", step + 1, steps, np.mean(losses), each)
            losses.clear()
        if (step + 1) % course.keep == 0:
            kept.save(model, optimizers, step + 1)
            log.info("held-out answers' loss %.3f", held_out_loss(model, held_out, context))
    return held_out_loss(model, held_out, context)
