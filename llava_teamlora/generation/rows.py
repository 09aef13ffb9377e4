"""What a batch's rows have in common, and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import Query


def shared_prefix(queries: Sequence[Query], prompts: list[list[int]]) -> tuple[int, list[int], list[int]]:
    """How many first ids all questions of any one picture have in common, and who computes them for whom.

    Returns:
        ``(P, leaders [G], follow [B])``: row ``b`` starts as row ``leaders[follow[b]]`` does. P is 0 where
        sharing would not save at least half the rows.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, query in enumerate(queries):
        groups.setdefault(tuple(map(id, query.images)), []).append(row)
    if 2 * len(groups) > len(queries):
        return 0, [], []
    lengths = []
    for rows in groups.values():
        low, high = min(prompts[row] for row in rows), max(prompts[row] for row in rows)
        # Each row keeps a token of its own, to get logits from.
        lengths.append(min(common_length(low, high), len(low) - 1))
    number = {key: i for i, key in enumerate(groups)}
    follow = [number[tuple(map(id, query.images))] for query in queries]
    return min(lengths), [rows[0] for rows in groups.values()], follow


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first ids two rows have in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def end_ids(model: Any, tokenizer: Any, template_end: int | None) -> frozenset[int]:
    """Tokens that end an answer: the template's, the tokenizer's, and those the model's generation settings name."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*several, tokenizer.eos_token_id, template_end) if token is not None)


def prompt_length(model: Any) -> int:
    """Virtual tokens of a prompt-tuned model; 0 for every other.

    Raises:
        UserError: a prompt method that needs more than tokens in front.
    """
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return 0
    if config.peft_type != "PROMPT_TUNING":
        raise UserError(f"{config.peft_type}: of the prompt methods only prompt tuning can answer here")
    return config.num_virtual_tokens
