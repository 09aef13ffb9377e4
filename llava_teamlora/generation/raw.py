"""Plain text before and after a model: no template, no turns, no pictures.

In: ids of contexts. Out: how likely given ids are after them, or the text that greedy decoding writes. What evaluation
harnesses ask of a language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from llava_teamlora.data.records import Turn
from llava_teamlora.generation.query import LogLikelihood, Query
from llava_teamlora.generation.reader import Reader
from llava_teamlora.generation.rows import end_ids

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded

_TEXT = Query((Turn("human", ""),))  # stands for a row without pictures


class RawReader(Reader):
    """Reads contexts as they are, with one loaded model. A prompt-tuned model's own tokens still stand in front.

    Attributes:
        room: the most ids that a context and what follows it may have together.
        end: ids that end what is written.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self.room = self.positions - self.prompt_length
        self.end = end_ids(self.base, self.tokenizer, None)

    @torch.inference_mode()
    def log_likelihoods(
        self, contexts: Sequence[list[int]], answers: Sequence[Sequence[list[int]]]
    ) -> list[list[LogLikelihood]]:
        """Of each context's answers. It reads a context once for all of them.

        Args:
            contexts: ids, at least one each; with an answer they fit into ``room`` but for the answer's last.
            answers: one list of ids, at least one each, a context.
        """
        state = self._prefill([_TEXT] * len(contexts), self._fronted(contexts))
        rows = [(row, ids) for row, each in enumerate(answers) for ids in each]
        found: list[list[LogLikelihood]] = [[] for _ in contexts]
        for start in range(0, len(rows), len(contexts)):  # as many rows at once as there are contexts
            some = rows[start : start + len(contexts)]
            for (row, _), likelihood in zip(some, self._continued(state, some), strict=True):
                found[row].append(likelihood)
        return found

    @torch.inference_mode()
    def write(self, contexts: Sequence[list[int]], until: Sequence[str], max_new_tokens: int) -> list[str]:
        """What greedy decoding writes after each context, up to the first of the texts in ``until``.

        Args:
            contexts: ids, at least one each; with ``max_new_tokens`` they fit into ``room``.
            until: texts that end it; so do ``end`` and the budget.
            max_new_tokens: the budget.
        """
        state = self._prefill([_TEXT] * len(contexts), self._fronted(contexts))
        written: list[list[int]] = [[] for _ in contexts]
        for number in range(1, max_new_tokens + 1):
            tokens = state.logits.argmax(-1).tolist()
            for row, token in zip(state.rows, tokens, strict=True):
                written[row].append(token)
            alive = [i for i, row in enumerate(state.rows) if not self._over(written[row], until)]
            if not alive or number == max_new_tokens:
                break
            if len(alive) < len(state.rows):
                state.keep(alive)
            self._advance(state, [tokens[i] for i in alive])
        return [self._text(ids, until) for ids in written]

    def _fronted(self, contexts: Sequence[list[int]]) -> list[list[int]]:
        return [[self.fill] * self.prompt_length + ids for ids in contexts]

    def _over(self, ids: list[int], until: Sequence[str]) -> bool:
        if ids[-1] in self.end:
            return True
        text = self.tokenizer.decode(ids, skip_special_tokens=True) if until else ""
        return any(stop in text for stop in until)

    def _text(self, ids: list[int], until: Sequence[str]) -> str:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        for stop in until:
            text = text.partition(stop)[0]
        return text
