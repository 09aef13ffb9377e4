"""Logits -> next tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch

from llava_teamlora.generation.query import Decoding

_COLDEST = 1e-6  # logits divided by less may be above all numbers; this takes the likeliest token already


class Forbidden:
    """Takes away, in place, the tokens that no answer may hold: an image's place, and ids without any text.

    Args:
        tokenizer: ids above all of its own only fill up the model's vocabulary; nothing trains them.
        image_token_id: of the picture's place; None where there is none.
    """

    def __init__(self, tokenizer: Any, image_token_id: int | None) -> None:
        # Not len(tokenizer): a vocabulary with holes has ids above its size.
        self.above = max(tokenizer.get_vocab().values()) + 1
        self.image_token_id = image_token_id

    def __call__(self, ids: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
        """Logits (or log-probabilities) ``[B, V]``, changed; called as transformers calls a logits processor."""
        logits[:, self.above :] = -torch.inf
        if self.image_token_id is not None and self.image_token_id < logits.shape[-1]:
            logits[:, self.image_token_id] = -torch.inf
        return logits


def source(decoding: Decoding, prompt: list[int]) -> torch.Generator | None:
    """Where a row's draws come from; None for greedy decoding.

    It is on the CPU and made from the prompt: the same draws on any device and in any batch.
    """
    if decoding.temperature == 0:
        return None
    # Both go through the checksum because torch's CPU source takes only 32 bits of a seed.
    return torch.Generator().manual_seed(zlib.crc32(f"{decoding.seed} {prompt}".encode()))


def choose(logits: torch.Tensor, decodings: Sequence[Decoding], sources: Sequence[torch.Generator | None]) -> list[int]:
    """The next token of each row, greedily or by one reproducible draw from its source.

    Args:
        logits: ``[B, V]``.
        decodings: of each row.
        sources: of each row, as :func:`source` makes them.

    Returns:
        Token ids ``[B]``.
    """
    tokens = logits.argmax(-1)
    drawn = [(row, each) for row, each in enumerate(sources) if each is not None]
    if drawn:
        rows = [row for row, _ in drawn]
        draws = torch.cat([torch.rand(1, generator=each) for _, each in drawn]).to(logits.device)
        heat, nucleus = (
            torch.tensor([[getattr(decodings[row], name)] for row in rows], device=logits.device)
            for name in ("temperature", "top_p")
        )
        tokens[rows] = sample(logits[rows], draws, heat.clamp(min=_COLDEST), nucleus)
    return tokens.tolist()


def sample(
    logits: torch.Tensor, draws: torch.Tensor, temperature: float | torch.Tensor, top_p: float | torch.Tensor
) -> torch.Tensor:
    """Nucleus sampling by inverting the cumulative distribution.

    Args:
        logits: ``[B, V]``.
        draws: uniform in [0, 1), ``[B]``.
        temperature: above 0; of all rows, or ``[B, 1]``.
        top_p: in (0, 1], likewise; the likeliest token is always kept.

    Returns:
        Token ids ``[B]``.
    """
    probabilities, order = torch.softmax(logits.float() / temperature, dim=-1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities  # [B, V], probability of all likelier tokens
    kept = torch.where(before < top_p, probabilities, 0.0)
    cumulative = kept.cumsum(-1)
    reached = cumulative > draws[:, None] * cumulative[:, -1:]
    return order.gather(1, reached.int().argmax(-1, keepdim=True))[:, 0]
