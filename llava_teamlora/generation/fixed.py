"""Steps of one shape: a cache of fixed size, so that a step can be compiled once, on CUDA into a graph.

In: the state after the prompts, as the reader makes it. Out: a state that goes on from there. Rows that are done stay
in the batch, fed with padding, and their logits are dropped; what is answered is what the growing cache gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from llava_teamlora.errors import UserError
from llava_teamlora.generation.reader import State

if TYPE_CHECKING:
    from transformers import StaticCache

_ROUND = 64  # lengths of caches are multiples of it: few different ones, so few graphs


@dataclass(frozen=True)
class Steps:
    """How the tokens after an answer's first are computed.

    Attributes:
        static_cache: in a cache of fixed size.
        compile: by a compiled step, on CUDA a graph; takes a static cache along.
        backend: torch.compile's.
    """

    static_cache: bool = False
    compile: bool = False
    backend: str = "inductor"

    @property
    def fixed(self) -> bool:
        """Whether the shapes of a step are fixed."""
        return self.static_cache or self.compile


@dataclass
class FixedState(State):
    """A state whose shapes stay: ``mask`` ``[B, L]`` is of the whole cache, ``places`` tell the rows of the living."""

    places: torch.Tensor
    length: int  # in the cache

    def keep(self, alive: list[int]) -> None:
        """See :class:`State`."""
        index = torch.tensor(alive, device=self.mask.device)
        self.rows = [self.rows[i] for i in alive]
        self.places, self.logits = self.places[index], self.logits[index]


class FixedSteps:
    """Makes fixed states of one model and advances them; the cache is used again, for its place in memory must stay.

    Args:
        base: the model below any adapter.
        steps: how.
        positions: how many the model has.
        fill: the token that rows which are done are fed.

    Raises:
        UserError: a model that transformers cannot compile, or cannot run in a static cache.
    """

    def __init__(self, base: Any, steps: Steps, positions: int, fill: int) -> None:
        self.base, self.positions, self.fill = base, positions, fill
        self.held: tuple[StaticCache | None, int, int] = (None, 0, 0)
        self.current: FixedState | None = None
        self.step: Callable[..., torch.Tensor] = self._step
        flag = "--compile" if steps.compile else "--static_cache"
        if not getattr(base, "_can_compile_fullgraph", False) or not _is_plain(base.config):
            raise UserError(f"{flag}: a {type(base).__name__} has no cache of fixed size in transformers; drop {flag}")
        if steps.compile:
            mode = "reduce-overhead" if steps.backend == "inductor" and base.device.type == "cuda" else None
            self.step = torch.compile(self._step, fullgraph=True, dynamic=False, backend=steps.backend, mode=mode)

    def start(self, state: State, more: int) -> FixedState:
        """Go on from the prompts' state, which ends here.

        Args:
            state: with a growing cache.
            more: how many tokens will follow at most.
        """
        rows, length = state.mask.shape
        cache, batch, room = self._cache(rows, length + more)
        places = torch.arange(batch, device=state.mask.device)
        full = places.clamp(max=rows - 1)  # places without a row are filled with the last one's
        layers: list[tuple[Any, Any]] = list(zip(cache.layers, state.cache.layers, strict=True))
        for own, grown in layers:
            own.update(grown.keys[full], grown.values[full])
        mask = F.pad(state.mask[full], (0, room - length))
        self.current = FixedState(state.rows, cache, mask, state.logits, places[:rows], length)
        return self.current

    def advance(self, state: FixedState, tokens: list[int]) -> None:
        """Feed each living row its newest token.

        Raises:
            RuntimeError: another state was begun since, in the same cache.
        """
        if state is not self.current:
            raise RuntimeError("another answer was begun in this cache of fixed size: finish one before the next")
        ids = state.mask.new_full((state.mask.shape[0], 1), self.fill)
        ids[state.places, 0] = torch.tensor(tokens, device=ids.device)
        positions = state.mask.sum(1, keepdim=True).clamp(max=self.positions - 1)  # [B, 1]; of rows done, any
        state.mask[:, state.length] = 1
        state.length += 1
        state.logits = self.step(ids, state.mask, positions, state.cache)[state.places]

    def _step(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        """Logits ``[B, V]`` after the tokens ``[B, 1]``."""
        output = self.base(
            inputs_embeds=self.base.get_input_embeddings()(ids),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _cache(self, rows: int, length: int) -> tuple[StaticCache, int, int]:
        """An empty cache, its rows and its length: the last one, or one that is larger by so much that few are made."""
        from transformers import StaticCache

        cache, most, longest = self.held
        if cache is not None and rows <= most and length <= longest:
            cache.reset()
            return cache, most, longest
        rows = most if rows <= most else max(rows, 2 * most)
        if length > longest:
            length = max(length, min(2 * longest, self.positions))
        length = -(-max(length, longest) // _ROUND) * _ROUND
        cache = StaticCache(self.base.config, max_cache_len=length)
        self.held = cache, rows, length
        return self.held


def _is_plain(config: Any) -> bool:
    """Whether all layers keep the keys and values of all tokens, so that one cache can be read into the other."""
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    return all(type(layer) is StaticLayer for layer in StaticCache(config, max_cache_len=1).layers)
