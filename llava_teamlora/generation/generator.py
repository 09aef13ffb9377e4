"""The batched loop from prompts to tokens.

In: queries. Out: answers, in batches or as a stream. A prompt's ids are made exactly as in training (template ->
tokenize -> picture places expanded). Pictures go through the vision tower once each, and what the questions about
one picture have in common is computed once for all of them. Rows of unequal length are padded on the left of what
is their own, so that the last position is always the newest.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llava_teamlora.data.collator import pad
from llava_teamlora.data.images import prepare_image
from llava_teamlora.data.records import Turn
from llava_teamlora.data.tokenize import encode, end_token_id, expand_images
from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query
from llava_teamlora.generation.rows import common_length, end_ids, prompt_length, shared_prefix
from llava_teamlora.generation.sampling import Chooser, Forbidden

if TYPE_CHECKING:
    from PIL import Image
    from transformers import Cache

    from llava_teamlora.checkpoint import Loaded

_PICTURES_AT_ONCE = 64
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte-fallback token
_STOP_WITHIN = 8  # newest tokens in which a stop text is looked for
_UNFINISHED = "\ufffd"  # what a tokenizer shows for a character whose bytes are not all there yet


@dataclass
class _State:
    """The rows still being answered, between two steps. ``rows`` are their places in the batch asked for."""

    rows: list[int]
    cache: Cache
    mask: torch.Tensor  # [B, T], everything in the cache
    logits: torch.Tensor  # [B, V]


class Generator:
    """Answers queries with one loaded model.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.

    Raises:
        UserError: the model's adapter is of a kind that cannot answer here.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.vision = loaded.vision
        self.tokenizer = loaded.tokenizer
        self.base = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
        self.prompt_length = prompt_length(loaded.model)
        self.positions: int = getattr(self.base.config.get_text_config(), "max_position_embeddings", 1 << 30)
        self.end = end_ids(self.base, self.tokenizer, end_token_id(loaded.template, self.tokenizer))
        self.stop = loaded.template.stop
        self.forbid = Forbidden(self.tokenizer, getattr(self.base.config, "image_token_id", None))
        pad_id = self.tokenizer.pad_token_id
        self.fill = pad_id if isinstance(pad_id, int) else 0

    def encode(self, query: Query) -> list[int]:
        """Prompt ids, pictures expanded; a prompt-tuned model's own tokens stand in front as fillers.

        Raises:
            UserError: pictures for a text-only model, or a prompt too long.
        """
        if query.images and self.vision is None:
            raise UserError(f"{self.loaded.name}: is a text-only model and takes no pictures")
        return self._ids(query.turns)

    def _ids(self, turns: Sequence[Turn]) -> list[int]:
        encoded = encode(self.loaded.template.segments(turns), self.tokenizer)
        if self.vision is not None:
            encoded = expand_images(encoded, self.vision.image_token_id, self.vision.tokens_per_image)
        ids = [self.fill] * self.prompt_length + encoded.input_ids
        if len(ids) >= self.positions:
            raise UserError(
                f"the prompt has {len(ids)} tokens, pictures included, but {self.loaded.name} has "
                f"{self.positions} positions; shorten the conversation"
            )
        return ids

    def rendered(self, query: Query) -> str:
        """The text that is tokenized: system prompt, turns, and a mark where each picture stands."""
        return "".join(segment.text for segment in self.loaded.template.segments(query.turns))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """One picture as the vision tower wants it, ``[3, H, W]``: a query takes it in the picture's place.

        Raises:
            UserError: a text-only model.
        """
        if self.vision is None:
            raise UserError(f"{self.loaded.name}: is a text-only model and takes no pictures")
        return prepare_image(image, self.vision.image_processor, self.vision.aspect_ratio)

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
            whole = [self._ids((*query.turns, Turn("gpt", text))) for text in texts]
            # The prompt's last token may melt into an answer's first one; then it counts as the answer's.
            begin = min([len(prompts[row]), *(common_length(prompts[row], ids) for ids in whole)])
            prompts[row] = prompts[row][:begin]
            rows += [(row, ids[begin:]) for ids in whole]
        state = self._prefill(queries, prompts)
        found: list[list[LogLikelihood]] = [[] for _ in queries]
        for start in range(0, len(rows), len(queries)):  # as many rows at once as were asked for
            some = rows[start : start + len(queries)]
            for (row, ids), total in zip(some, self._continued(state, some), strict=True):
                found[row].append(LogLikelihood(total, len(ids)))
        return found

    def _continued(self, state: _State, rows: Sequence[tuple[int, list[int]]]) -> list[float]:
        """Log-likelihood of each ids after the state's row of that number; the state stays as it is."""
        device = state.mask.device
        follow = torch.tensor([row for row, _ in rows], device=device)
        each = [torch.tensor(ids) for _, ids in rows]
        ids = pad(each, self.fill, "right").to(device)  # [R, T]
        mask = pad([torch.ones_like(row) for row in each], 0, "right").to(device)
        logits = state.logits[follow][:, None]  # [R, 1, V]
        if ids.shape[1] > 1:
            cache = copy.copy(state.cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            cache.batch_select_indices(follow)
            seen = torch.cat([state.mask[follow], mask[:, :-1]], dim=1)
            embeds = self.base.get_input_embeddings()(ids[:, :-1])
            output = self._forward(embeds, seen, cache, keep=ids.shape[1] - 1)
            logits = torch.cat([logits, output.logits], dim=1)  # [R, T, V]
        logits = logits.float()
        likely = logits.gather(2, ids[:, :, None])[:, :, 0] - logits.logsumexp(2)  # [R, T]
        return (likely * mask).sum(1).tolist()

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
            if len(alive) < len(step):
                _keep(state, alive)
            self._advance(state, [tokens[i] for i in alive])

    def _prefill(self, queries: Sequence[Query], prompts: list[list[int]]) -> _State:
        """Run the prompts: first what each picture's questions share, then the rest."""
        embeds, mask = self._embed(queries, prompts)  # [B, T, D], [B, T], padded on the left
        shared, leaders, follow = shared_prefix(queries, prompts)
        cache = None
        if shared:
            starts = [mask.shape[1] - len(prompts[row]) for row in leaders]
            heads = [embeds[row, at : at + shared] for row, at in zip(leaders, starts, strict=True)]
            prefix = torch.stack(heads)  # [G, P, D]
            cache = self._forward(prefix, mask.new_ones(prefix.shape[:2])).past_key_values
            cache.batch_select_indices(torch.tensor(follow, device=mask.device))
            # Own tokens end at the right edge; between them and the prefix lies the padding.
            own = mask.shape[1] - shared
            lengths = mask.sum(1, keepdim=True) - shared  # [B, 1]
            newest = torch.arange(own, device=mask.device)[None, :] >= own - lengths  # [B, T - P]
            mask = torch.cat([mask.new_ones(len(prompts), shared), newest.to(mask.dtype)], dim=1)
            embeds = embeds[:, -own:]
        output = self._forward(embeds, mask, cache)
        return _State(list(range(len(prompts))), output.past_key_values, mask, output.logits[:, -1])

    def _advance(self, state: _State, tokens: list[int]) -> None:
        """Feed each living row its newest token."""
        ids = torch.tensor(tokens, device=state.mask.device)[:, None]  # [B, 1]
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        output = self._forward(self.base.get_input_embeddings()(ids), state.mask, state.cache)
        state.cache, state.logits = output.past_key_values, output.logits[:, -1]

    def _forward(self, embeds: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None, keep: int = 1) -> Any:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]  # [B, T]; padding does not count
        return self.base(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )

    def _embed(self, queries: Sequence[Query], prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Input embeddings ``[B, T, D]`` with pictures in their places, and the mask ``[B, T]``."""
        device = self.base.get_input_embeddings().weight.device
        rows = [torch.tensor(prompt) for prompt in prompts]
        ids = pad(rows, self.fill, "left").to(device)
        mask = pad([torch.ones_like(row) for row in rows], 0, "left").to(device)
        embeds = self.base.get_input_embeddings()(ids)  # [B, T, D]
        if any(query.images for query in queries):
            assert self.vision is not None  # refused in encode
            features, order = self._image_features(queries)
            places = (ids == self.vision.image_token_id) & mask.bool()  # [B, T]
            embeds[places] = features[order].flatten(0, 1).to(embeds.dtype)
        if self.prompt_length:
            trained = self.loaded.model.get_prompt(batch_size=len(prompts)).to(embeds.dtype)  # [B, n, D]
            places = (mask.cumsum(1) <= self.prompt_length) & mask.bool()
            embeds[places] = trained.flatten(0, 1)
        return embeds, mask

    def _image_features(self, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected features ``[N, P, D]`` of the different pictures, and which of them stands at each place."""
        assert self.vision is not None
        different = {id(image): image for query in queries for image in query.images}
        number = {key: i for i, key in enumerate(different)}
        pictures = list(different.values())
        parts = []
        for start in range(0, len(pictures), _PICTURES_AT_ONCE):
            some = pictures[start : start + _PICTURES_AT_ONCE]
            batch = torch.stack([p if isinstance(p, torch.Tensor) else self.pixels(p) for p in some])  # [n, 3, H, W]
            if self.base.device.type == "cuda":
                batch = batch.pin_memory()
            batch = batch.to(self.base.device, self.base.dtype, non_blocking=True)
            parts += self.base.get_image_features(pixel_values=batch, return_dict=True).pooler_output
        order = [number[id(image)] for query in queries for image in query.images]
        return torch.stack(list(parts)), torch.tensor(order, device=self.base.device)

    @torch.inference_mode()
    def _beams(self, queries: Sequence[Query], prompts: list[list[int]], decoding: Decoding) -> list[list[int]]:
        from transformers import GenerationConfig, LogitsProcessorList

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


def _keep(state: _State, alive: list[int]) -> None:
    """Drop the rows that are done."""
    index = torch.tensor(alive, device=state.mask.device)
    state.rows = [state.rows[i] for i in alive]
    state.cache.batch_select_indices(index)
    state.mask, state.logits = state.mask[index], state.logits[index]


def _up_to_end(ids: list[int], end: frozenset[int]) -> list[int]:
    """Ids up to and with the first end token; what follows is padding."""
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in end), len(ids))]
