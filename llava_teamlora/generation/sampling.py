"""Logits -> next tokens."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from llava_teamlora.generation.query import Decoding


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


class Chooser:
    """Logits -> next tokens, greedily or by one reproducible draw a row."""

    def __init__(self, decoding: Decoding, prompts: list[list[int]]) -> None:
        self.decoding = decoding
        self.sources: list[torch.Generator] = []
        if decoding.temperature > 0:
            # On the CPU and from the prompt: the same draws on any device and in any batch. Both go through the
            # checksum because torch's CPU source takes only 32 bits of a seed.
            seeds = [zlib.crc32(f"{decoding.seed} {prompt}".encode()) for prompt in prompts]
            self.sources = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> list[int]:
        """Tokens ``[B]`` for logits ``[B, V]``."""
        if not self.sources:
            return logits.argmax(-1).tolist()
        draws = torch.cat([torch.rand(1, generator=self.sources[row]) for row in rows])
        return sample(logits, draws.to(logits.device), self.decoding.temperature, self.decoding.top_p).tolist()


def sample(logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Nucleus sampling by inverting the cumulative distribution.

    Args:
        logits: ``[B, V]``.
        draws: uniform in [0, 1), ``[B]``.
        temperature: above 0.
        top_p: in (0, 1]; the likeliest token is always kept.

    Returns:
        Token ids ``[B]``.
    """
    probabilities, order = torch.softmax(logits.float() / temperature, dim=-1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities  # [B, V], probability of all likelier tokens
    kept = torch.where(before < top_p, probabilities, 0.0)
    cumulative = kept.cumsum(-1)
    reached = cumulative > draws[:, None] * cumulative[:, -1:]
    return order.gather(1, reached.int().argmax(-1, keepdim=True))[:, 0]
