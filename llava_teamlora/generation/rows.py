"""What a batch's rows have in common, and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import Query


def shared_prefix(
    queries: Sequence[Query], prompts: list[list[int]], image: int | None
) -> tuple[int, list[int], list[int]]:
    """How many first ids are computed once for several rows, and who computes them for whom.

    Either those that all questions of any one picture have in common, or those before any picture that all rows have
    in common, the system prompt: whichever saves more.

    Args:
        queries: of the rows.
        prompts: their ids.
        image: the id of a picture's place.

    Returns:
        ``(P, leaders [G], follow [B])``: row ``b`` starts as row ``leaders[follow[b]]`` does. P is 0 where
        sharing would not save a quarter of all ids.
    """
    by_picture = _sharing([tuple(map(id, query.images)) for query in queries], prompts)
    before = [prompt[: prompt.index(image)] if image in prompt else prompt for prompt in prompts]
    by_all = _sharing([()] * len(prompts), before)
    saved, shared, leaders, follow = max(by_picture, by_all, key=lambda found: found[0])
    return (shared, leaders, follow) if 4 * saved >= sum(map(len, prompts)) else (0, [], [])


def _sharing(keys: Sequence[tuple[int, ...]], prompts: list[list[int]]) -> tuple[int, int, list[int], list[int]]:
    """Ids saved when rows of one key share what they have in common, and then as :func:`shared_prefix`."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    lengths = []
    for rows in groups.values():
        low, high = min(prompts[row] for row in rows), max(prompts[row] for row in rows)
        # Each row keeps a token of its own, to get logits from.
        lengths.append(min(common_length(low, high), len(low) - 1))
    shared = max(0, min(lengths))
    number = {key: i for i, key in enumerate(groups)}
    return shared * (len(prompts) - len(groups)), shared, [r[0] for r in groups.values()], [number[key] for key in keys]


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
