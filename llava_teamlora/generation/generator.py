"""The batched loop from prompts to tokens.

In: queries. Out: answers, in batches or as a stream; or how likely given answers are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from llava_teamlora.data.tokenize import end_token_id
from llava_teamlora.errors import UserError
from llava_teamlora.generation.fixed import FixedState, FixedSteps, Steps
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query
from llava_teamlora.generation.reader import Reader, State
from llava_teamlora.generation.rows import common_length, end_ids
from llava_teamlora.generation.sampling import Chooser, Forbidden

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte-fallback token
_STOP_WITHIN = 8  # newest tokens in which a stop text is looked for
_UNFINISHED = "\ufffd"  # what a tokenizer shows for a character whose bytes are not all there yet


class Generator(Reader):
    """Answers queries with one loaded model; see :class:`Reader` for how it reads them.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        steps: how the tokens after an answer's first are computed; None with a growing cache.

    Raises:
        UserError: see :class:`Reader`; or steps that this model cannot make.
    """

    def __init__(self, loaded: Loaded, steps: Steps | None = None) -> None:
        fixed = steps is not None and steps.fixed
        super().__init__(loaded, exact=not fixed)
        self.fixed = FixedSteps(self.base, steps, self.positions, self.fill) if steps is not None and fixed else None
        self.end = end_ids(self.base, self.tokenizer, end_token_id(loaded.template, self.tokenizer))
        self.stop = loaded.template.stop
        self.forbid = Forbidden(self.tokenizer, getattr(self.base.config, "image_token_id", None))

    def generate(self, queries: Sequence[Query], decoding: Decoding) -> list[Answer]:
        """Answer a batch. The answers do not depend on which queries stand together.

        Raises:
            UserError: see :meth:`encode`.
        """
        if not queries:
            return []
        prompts = [self.encode(query) for query in queries]
        if decoding.num_beams > 1:
            return [self._answer(ids) for ids in self._beams(queries, prompts, decoding)]
        rows: list[list[int]] = [[] for _ in queries]
        for step in self._steps(queries, prompts, decoding):
            for row, token in step:
                rows[row].append(token)
        return [self._answer(ids) for ids in rows]

    def stream(self, query: Query, decoding: Decoding) -> Iterator[str]:
        """Answer one query piece by piece; the pieces joined are :meth:`generate`'s text.

        Closing the iterator stops the model. With beams the answer comes in one piece.

        Raises:
            UserError: see :meth:`encode`.
        """
        if decoding.num_beams > 1:
            yield self.generate([query], decoding)[0].text
            return
        ids: list[int] = []
        shown = ""
        for step in self._steps([query], [self.encode(query)], decoding):
            ids += [token for _, token in step]
            if _BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(ids[-1]))):
                continue  # a run of bytes is decoded as a whole
            # Trailing space waits: at the end it is stripped, as a whole answer's is; so does what may begin the stop.
            text = self._text(ids).rstrip(_UNFINISHED).rstrip(self.stop).strip()
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        if rest := self._text(ids).strip()[len(shown) :]:
            yield rest

    @torch.inference_mode()
    def log_likelihoods(self, queries: Sequence[Query], answers: Sequence[Sequence[str]]) -> list[list[LogLikelihood]]:
        """How likely the model finds given answers to each query. It reads a query once for all of its answers.

        An answer's tokens are those that follow the prompt's in the conversation whole, tokenized as in training;
        what ends an answer is one of them.

        Args:
            queries: as for :meth:`generate`.
            answers: one list a query.

        Raises:
            UserError: see :meth:`encode`.
        """
        prompts = [self.encode(query) for query in queries]
        rows: list[tuple[int, list[int]]] = []  # the query's number, and an answer's ids
        for row, (query, texts) in enumerate(zip(queries, answers, strict=True)):
            whole = [self.encode(query, text) for text in texts]
            # The prompt's last token may melt into an answer's first one; then it counts as the answer's.
            begin = min([len(prompts[row]), *(common_length(prompts[row], ids) for ids in whole)])
            prompts[row] = prompts[row][:begin]
            rows += [(row, ids[begin:]) for ids in whole]
        state = self._prefill(queries, prompts)
        found: list[list[LogLikelihood]] = [[] for _ in queries]
        for start in range(0, len(rows), len(queries)):  # as many rows at once as were asked for
            some = rows[start : start + len(queries)]
            for (row, _), likelihood in zip(some, self._continued(state, some), strict=True):
                found[row].append(likelihood)
        return found

    def _text(self, ids: list[int]) -> str:
        """What the ids say, up to the template's stop text."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return text if self.stop is None else text.partition(self.stop)[0]

    def _ended(self, ids: list[int]) -> bool:
        """Whether an answer is complete: at an end token, or once the template's stop text stands in it."""
        if ids and ids[-1] in self.end:
            return True
        return self.stop is not None and self.stop in self.tokenizer.decode(ids[-_STOP_WITHIN:])

    def _answer(self, ids: list[int]) -> Answer:
        stopped = self._ended(ids)
        ids = ids[:-1] if stopped and ids[-1] in self.end else ids
        return Answer(self._text(ids).strip(), tuple(ids), "stop" if stopped else "length")

    @torch.inference_mode()
    def _steps(
        self, queries: Sequence[Query], prompts: list[list[int]], decoding: Decoding
    ) -> Iterator[list[tuple[int, int]]]:
        """One list of (row, token) a step, for the rows not yet done; what ends an answer is a row's last."""
        budgets = [min(decoding.max_new_tokens, self.positions - len(prompt)) for prompt in prompts]
        choose = Chooser(decoding, prompts)
        state = self._prefill(queries, prompts)
        written: list[list[int]] = [[] for _ in prompts]
        for number in range(1, max(budgets) + 1):
            tokens = choose(self.forbid(None, state.logits), state.rows)
            step = list(zip(state.rows, tokens, strict=True))
            yield step
            for row, token in step:
                written[row].append(token)
            alive = [i for i, (row, _) in enumerate(step) if not self._ended(written[row]) and number < budgets[row]]
            if not alive:
                return
            if self.fixed is not None and not isinstance(state, FixedState):
                state = self.fixed.start(state, max(budgets))
            if len(alive) < len(step):
                state.keep(alive)
            self._advance(state, [tokens[i] for i in alive])

    def _advance(self, state: State, tokens: list[int]) -> None:
        if self.fixed is not None and isinstance(state, FixedState):
            self.fixed.advance(state, tokens)
        else:
            super()._advance(state, tokens)

    @torch.inference_mode()
    def _beams(self, queries: Sequence[Query], prompts: list[list[int]], decoding: Decoding) -> list[list[int]]:
        from transformers import GenerationConfig, LogitsProcessorList

        if self.fixed is not None:
            raise UserError(f"--num_beams {decoding.num_beams} has a growing cache; drop --static_cache and --compile")
        if self.stop is not None:
            raise UserError(
                f"--num_beams {decoding.num_beams} is for templates that end answers in a token; --version "
                f"{self.loaded.template.name} ends them in the text {self.stop!r}"
            )
        embeds, mask = self._embed(queries, prompts)
        config = GenerationConfig(
            max_new_tokens=min(decoding.max_new_tokens, self.positions - mask.shape[1]),
            num_beams=decoding.num_beams,
            do_sample=False,
            eos_token_id=sorted(self.end),
            pad_token_id=self.fill,
        )
        found = self.base.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([self.forbid]),
        )
        return [_up_to_end(ids, self.end) for ids in found.tolist()]


def _up_to_end(ids: list[int], end: frozenset[int]) -> list[int]:
    """Ids up to and with the first end token; what follows is padding."""
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in end), len(ids))]
