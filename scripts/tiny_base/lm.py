"""Stage 2: the language model and the projector, on a frozen vision tower.

In: scenes, the tower's states of their pictures (computed once), text tasks. Out: a trained LLaVA. A training row is
either a conversation, or a pack: one picture and many questions that can't see each other, so that every answer has
to come from the picture and not from earlier answers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from llava_teamlora.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import TEMPLATES
from llava_teamlora.data.tokenize import Encoded, encode, expand_images

from .language import QA, ask, first_question
from .scenes import COLORS, SHAPES, Scene
from .text_tasks import ask_text
from .tower import PatchLabels, patch_labels, patch_of

log = logging.getLogger("tiny_base")
PAD_GROUP = -1  # padding; 0 = seen by all later tokens of the row; 1, 2, ... = a question that only sees itself and 0


@dataclass(frozen=True)
class Row:
    """One training row of T tokens: ids, labels, positions, groups (see PAD_GROUP); picture index or None."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    groups: list[int]
    picture: int | None


class RowMaker:
    """Turns questions into rows with the package's own template and tokenization."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token_id: int, image_tokens: int) -> None:
        self.tokenizer, self.image_token_id, self.image_tokens = tokenizer, image_token_id, image_tokens
        self._suffixes: dict[tuple[str, str, bool], Encoded] = {}
        self._prefixes = {True: self._prefix(True), False: self._prefix(False)}

    def _encode(self, made: Sequence[QA], seen: bool) -> Encoded:
        turns = [turn for qa in made for turn in (Turn("human", qa.question), Turn("gpt", qa.answer))]
        if seen:
            turns[0] = Turn("human", f"{IMAGE_TOKEN}\n{turns[0].text}")
        return expand_images(
            encode(TEMPLATES["v1"].segments(turns), self.tokenizer), self.image_token_id, self.image_tokens
        )

    def _prefix(self, seen: bool) -> list[int]:
        """The ids that all first turns share: system prompt, "USER:" and the picture."""
        one, two = (self._encode([QA("", text, "")], seen).input_ids for text in ("red", "Is it blue?"))
        shared = next(i for i, (x, y) in enumerate(zip(one, two, strict=False)) if x != y)
        return one[:shared]

    def conversation(self, made: Sequence[QA], picture: int | None) -> Row:
        """Turns that follow each other and see all that came before."""
        whole = self._encode(made, picture is not None)
        length = len(whole.input_ids)
        return Row(whole.input_ids, whole.labels, list(range(length)), [0] * length, picture)

    def pack(self, made: Sequence[QA], picture: int | None) -> Row:
        """Questions that each follow the same prefix, as if every one were the first turn."""
        seen = picture is not None
        prefix = self._prefixes[seen]
        row = Row([*prefix], [IGNORE_INDEX] * len(prefix), list(range(len(prefix))), [0] * len(prefix), picture)
        for group, qa in enumerate(made, start=1):
            key = (qa.question, qa.answer, seen)
            if key not in self._suffixes:
                whole = self._encode([qa], seen)
                self._suffixes[key] = Encoded(whole.input_ids[len(prefix) :], whole.labels[len(prefix) :])
            suffix = self._suffixes[key]
            row.ids.extend(suffix.input_ids)
            row.labels.extend(suffix.labels)
            row.positions.extend(range(len(prefix), len(prefix) + len(suffix.input_ids)))
            row.groups.extend([group] * len(suffix.input_ids))
        return row


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: ids, labels, positions, groups [B, T]; picture indices of the rows that have one."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    groups: Tensor
    pictures: Tensor

    @staticmethod
    def of(rows: Sequence[Row]) -> Batch:
        """Pads on the right."""

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return nn.utils.rnn.pad_sequence([torch.tensor(x) for x in lists], batch_first=True, padding_value=value)

        return Batch(
            padded([row.ids for row in rows], 0),
            padded([row.labels for row in rows], IGNORE_INDEX),
            padded([row.positions for row in rows], 0),
            padded([row.groups for row in rows], PAD_GROUP),
            torch.tensor([row.picture for row in rows if row.picture is not None], dtype=torch.long),
        )

    def mask(self) -> Tensor:
        """Who sees whom, [B, 1, T, T] bool: earlier tokens of the same group or of group 0."""
        query, key = self.groups[:, :, None], self.groups[:, None, :]
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool).tril()
        return (((key == 0) | (key == query)) & earlier)[:, None]


def answer_logits(model: LlavaForConditionalGeneration, batch: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [L, V] and labels [L] of the L trained tokens; states [N, P, width] of all pictures from the tower."""
    core = model.model
    embeds = core.language_model.embed_tokens(batch.ids)  # [B, T, D]
    features = core.multi_modal_projector(states[batch.pictures])
    where = (batch.ids == model.config.image_token_index)[..., None]
    embeds = embeds.masked_scatter(where, features.to(embeds.dtype))
    hidden = core.language_model(
        inputs_embeds=embeds, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    trained = batch.labels[:, 1:] != IGNORE_INDEX
    return model.lm_head(hidden[:, :-1][trained]), batch.labels[:, 1:][trained]


@torch.no_grad()
def start_projector(
    model: LlavaForConditionalGeneration, states: Tensor, named: PatchLabels, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Starts the projector so that a patch enters the language model sounding like its nearest figure's words.

    Hidden units 0-16 read one shape or colour each (ridge regression on the states) and speak that word's embedding;
    the others read the states' principal axes, whitened. The states' variances span orders of magnitude: from a plain
    random start the small axes, which tell colours apart, stay unheard.

    Args:
        model: changed in place; its tower is trained.
        states: [N, P, width] of N pictures.
        named: the labels of the same N pictures.
        tokenizer: knows the words.
    """
    projector = model.model.multi_modal_projector
    flat = states.flatten(0, 1).double()  # [N * P, width]
    mean = flat.mean(0)
    flat = flat - mean
    covariance = flat.T @ flat / len(flat)
    classes = [F.one_hot(named.shape.flatten(), len(SHAPES)), F.one_hot(named.color.flatten(), len(COLORS))]
    wanted = torch.cat(classes, 1).double()  # [N * P, 17]
    shares = wanted.mean(0)
    ridge = covariance + 1e-4 * covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=flat.dtype)
    readers = torch.linalg.solve(ridge, flat.T @ (wanted - shares) / len(flat)).T  # [17, width]
    variances, axes = torch.linalg.eigh(covariance)
    rest = projector.linear_1.out_features - len(readers)
    keep = variances.argsort(descending=True)[:rest]
    axes = (axes[:, keep] / (variances[keep] + 1e-3 * variances.mean()).sqrt()).T  # [rest, width]
    gain, threshold = 5.0, 0.4  # a class read at 1.0 gives gelu(3) = 3, one at 0.0 nearly nothing
    weight = torch.cat([gain * readers, 0.5 * axes])
    offset = torch.cat([gain * (shares - threshold), torch.zeros(len(axes))]) - weight @ mean
    projector.linear_1.weight[: len(weight)] = weight.float()
    projector.linear_1.bias[: len(weight)] = offset.float()
    words = tokenizer.convert_tokens_to_ids([f"▁{word}" for word in (*SHAPES, *COLORS)])
    embeddings = model.model.language_model.embed_tokens.weight[words]  # [17, D]
    projector.linear_2.weight *= 0.1
    projector.linear_2.weight[:, : len(readers)] = embeddings.T / 3
    projector.linear_2.bias.zero_()


def first_row(maker: RowMaker, scenes: list[Scene], questions: int, rng: np.random.Generator, negations: bool) -> Row:
    """A first lesson: a pack of the shortest questions about a picture of one figure."""
    while True:
        picture = int(rng.integers(len(scenes)))
        if len(scenes[picture].figures) == 1:
            return maker.pack([first_question(scenes[picture], rng, negations) for _ in range(questions)], picture)


def later_row(maker: RowMaker, scenes: list[Scene], questions: int, rng: np.random.Generator) -> Row:
    """Any task: a fifth of the rows is text only, the rest about pictures; more packs than conversations."""
    picture = None if rng.random() < 0.2 else int(rng.integers(len(scenes)))
    made = [ask_text(rng) if picture is None else ask(scenes[picture], rng) for _ in range(questions)]
    return maker.pack(made, picture) if rng.random() < 0.6 else maker.conversation(made, picture)


def lesson(
    maker: RowMaker, scenes: list[Scene], done: float, rows: int, questions: int, rng: np.random.Generator
) -> Batch:
    """The batch for a share `done` (0-1) of the training.

    Nine rows in ten are first lessons, with negations after a while; then they give way bit by bit. A sudden change
    would undo what they taught.
    """
    share = float(np.interp(done, (0.0, 0.25, 0.55, 1.0), (0.9, 0.9, 0.25, 0.05)))
    made = []
    for _ in range(rows):
        if rng.random() < share:
            made.append(first_row(maker, scenes, 2 * questions, rng, negations=done >= 0.12))
        else:
            made.append(later_row(maker, scenes, questions, rng))
    return Batch.of(made)


def parameter_groups(model: LlavaForConditionalGeneration, lr: float) -> list[dict[str, Any]]:
    """Words and projector learn at a fifth of the rate: faster, and their start is gone before it has served."""
    slow = ("embed_tokens", "multi_modal_projector")
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    return [
        {"params": [weight for name, weight in named if not any(part in name for part in slow)], "lr": lr},
        {"params": [weight for name, weight in named if any(part in name for part in slow)], "lr": lr / 5},
    ]


@torch.no_grad()
def lm_scores(
    model: LlavaForConditionalGeneration, maker: RowMaker, scenes: list[Scene], states: Tensor, seed: int
) -> dict[str, float]:
    """Share of held-out questions, a kind at a time, whose whole answer is the model's own greedy choice (0-1)."""
    rng = np.random.default_rng(seed)
    right: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(scenes), 32):
        pictures: list[int | None] = [*range(start, min(start + 32, len(scenes)))]
        pictures += [None] * 8
        asked = [[ask_text(rng) if i is None else ask(scenes[i], rng) for _ in range(10)] for i in pictures]
        batch = Batch.of([maker.pack(made, i) for made, i in zip(asked, pictures, strict=True)])
        logits, labels = answer_logits(model, batch, states)
        owners = (torch.arange(len(batch.ids))[:, None] * 100 + batch.groups)[:, 1:][
            batch.labels[:, 1:] != IGNORE_INDEX
        ]
        wrong = set(owners[logits.argmax(-1) != labels].tolist())
        for row, made in enumerate(asked):
            for group, qa in enumerate(made, start=1):
                right[qa.kind].append(float(row * 100 + group not in wrong))
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}


def train_lm(
    model: LlavaForConditionalGeneration,
    maker: RowMaker,
    scenes: list[Scene],
    states: Tensor,
    held_out: tuple[list[Scene], Tensor],
    *,
    steps: int,
    batch_size: int,
    questions: int,
    lr: float,
    seed: int,
) -> dict[str, float]:
    """Trains language model and projector in place; `questions` a row; returns the held-out scores by kind (0-1)."""
    named = patch_labels(scenes[:2000], patch_of(model.model.vision_tower))
    start_projector(model, states[:2000], named, maker.tokenizer)
    model.model.vision_tower.requires_grad_(False)
    groups = parameter_groups(model, lr)
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.05)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        batch = lesson(maker, scenes, step / steps, batch_size, questions, rng)
        logits, labels = answer_logits(model, batch, states)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 12) == 0 and step + 1 < steps:
            scores = lm_scores(model, maker, held_out[0][:64], held_out[1][:64], seed)
            told = " ".join(f"{kind} {score:.2f}" for kind, score in scores.items())
            log.info("lm %d/%d loss %.3f held-out %s", step + 1, steps, loss.item(), told)
    return lm_scores(model, maker, held_out[0], held_out[1], seed)
