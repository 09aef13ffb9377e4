"""The batched loop from prompts to tokens.

In: queries. Out: answers, in batches or as a stream; or how likely given answers are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from llava_teamlora.data.tokenize import end_token_id
from llava_teamlora.errors import UserError
from llava_teamlora.generation.answering import Answering, Ask, Token
from llava_teamlora.generation.fixed import FixedState, FixedSteps, Steps
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query
from llava_teamlora.generation.reader import Reader, State
from llava_teamlora.generation.rows import common_length, end_ids
from llava_teamlora.generation.sampling import Forbidden
from llava_teamlora.generation.spoken import Spoken, spoken_text, stands

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded


class Generator(Reader):
    """Answers queries with one loaded model; see :class:`Reader` for how it reads them.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        steps: how the tokens after an answer's first are computed; None with a growing cache.
        pack: see :class:`Reader`.

    Raises:
        UserError: see :class:`Reader`; or steps that this model cannot make.
    """

    def __init__(self, loaded: Loaded, steps: Steps | None = None, *, pack: bool = True) -> None:
        fixed = steps is not None and steps.fixed
        super().__init__(loaded, exact=not fixed, pack=pack)
        self.fixed = FixedSteps(self.base, steps, self.positions, self.fill) if steps is not None and fixed else None
        self.end = end_ids(self.base, self.tokenizer, end_token_id(loaded.template, self.tokenizer))
        self.stops = () if loaded.template.stop is None else (loaded.template.stop,)
        self.forbid = Forbidden(self.tokenizer, getattr(self.base.config, "image_token_id", None))

    def generate(self, queries: Sequence[Query], decoding: Decoding) -> list[Answer]:
        """Answer a batch. The answers do not depend on which queries stand together.

        Raises:
            UserError: see :meth:`encode`.
        """
        if not queries:
            return []
        if decoding.num_beams > 1:
            return [self._answer(ids) for ids in self._beams(queries, decoding)]
        answering = Answering(self)
        numbers = answering.add([Ask(query, decoding) for query in queries])
        written: dict[int, list[int]] = {number: [] for number in numbers}
        while answering:
            for token in answering.step():
                written[token.row].append(token.id)
        return [self._answer(written[number]) for number in numbers]

    def stream(self, query: Query, decoding: Decoding) -> Iterator[str]:
        """Answer one query piece by piece; the pieces joined are :meth:`generate`'s text.

        Closing the iterator stops the model. With beams the answer comes in one piece.

        Raises:
            UserError: see :meth:`encode`.
        """
        if decoding.num_beams > 1:
            yield self.generate([query], decoding)[0].text
            return
        yield from (piece for piece, _ in self.follow(Ask(query, decoding)) if piece)

    def follow(self, ask: Ask) -> Iterator[tuple[str, Token]]:
        """Answer one row token by token; closing the iterator stops the model.

        Yields:
            What may be shown now, often nothing, and the token that came.

        Raises:
            UserError: see :meth:`encode`.
        """
        answering = Answering(self)
        answering.add([ask])
        spoken = Spoken(self.tokenizer, (*self.stops, *ask.stops))
        while answering:
            for token in answering.step():
                piece = "" if token.id in self.end else spoken.push(token.id)
                yield piece if token.end is None else piece + spoken.rest(), token

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

    def ended(self, ids: list[int], stops: Sequence[str] = ()) -> bool:
        """Whether an answer is complete: at an end token, or once a text that ends it stands in it.

        Args:
            ids: its tokens so far.
            stops: such texts, beside the template's own.
        """
        if ids and ids[-1] in self.end:
            return True
        return stands(self.tokenizer, ids, (*self.stops, *stops))

    def _answer(self, ids: list[int]) -> Answer:
        stopped = self.ended(ids)
        ids = ids[:-1] if stopped and ids[-1] in self.end else ids
        text = spoken_text(self.tokenizer, ids, self.stops).strip()
        return Answer(text, tuple(ids), "stop" if stopped else "length")

    def _advance(self, state: State, tokens: list[int]) -> None:
        if self.fixed is not None and isinstance(state, FixedState):
            self.fixed.advance(state, tokens)
        else:
            super()._advance(state, tokens)

    @torch.inference_mode()
    def _beams(self, queries: Sequence[Query], decoding: Decoding) -> list[list[int]]:
        from transformers import GenerationConfig, LogitsProcessorList

        if self.fixed is not None:
            raise UserError(f"--num_beams {decoding.num_beams} has a growing cache; drop --static_cache and --compile")
        if self.stops:
            raise UserError(
                f"--num_beams {decoding.num_beams} is for templates that end answers in a token; --version "
                f"{self.loaded.template.name} ends them in the text {self.stops[0]!r}"
            )
        embeds, mask = self._embed(queries, [self.encode(query) for query in queries])
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
