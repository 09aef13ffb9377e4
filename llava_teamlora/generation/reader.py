"""Prompts -> the model's state after them: what stands in its cache, and what it expects next.

A prompt's ids are made exactly as in training (template -> tokenize -> picture places expanded). Pictures go through
the vision tower once each, and what the questions about one picture, or all, have in common is computed once for them.
Rows of unequal length are padded on the left of what is their own, so that the last position is always the newest.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicLayer

from llava_teamlora.data.collator import pad
from llava_teamlora.data.images import prepare_image
from llava_teamlora.data.records import Turn
from llava_teamlora.data.tokenize import encode_turns, expand_images
from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import LogLikelihood, Query
from llava_teamlora.generation.rows import prompt_length, shared_prefix

if TYPE_CHECKING:
    from PIL import Image
    from transformers import Cache

    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.data.segments import Template

_PICTURES_AT_ONCE = 64


@dataclass
class State:
    """The rows still being answered, between two steps. ``rows`` are their places in the batch asked for."""

    rows: list[int]
    cache: Cache
    mask: torch.Tensor  # [B, T], everything in the cache
    logits: torch.Tensor  # [B, V]

    def keep(self, alive: list[int]) -> None:
        """Drop the rows that are done; the others' places among the living are given."""
        index = torch.tensor(alive, device=self.mask.device)
        self.rows = [self.rows[i] for i in alive]
        self.cache.batch_select_indices(index)
        self.mask, self.logits = self.mask[index], self.logits[index]

    @property
    def joinable(self) -> bool:
        """Whether other rows can be taken in: each layer keeps the keys and values of all tokens."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def join(self, other: State) -> None:
        """Take in another state's rows after its own; what no row needs any more goes, the shorter is padded left."""
        states = (self, other)
        used = [state.mask.any(0).nonzero()[:, 0] for state in states]
        length = max(map(len, used))

        def fit(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
            parts = []
            for tensor, columns in zip(tensors, used, strict=True):
                shape = list(tensor.shape)
                shape[dim] = length - len(columns)
                parts.append(torch.cat([tensor.new_zeros(shape), tensor.index_select(dim, columns)], dim=dim))
            return torch.cat(parts)

        for own, new in zip(self.cache.layers, other.cache.layers, strict=True):
            assert isinstance(own, DynamicLayer) and isinstance(new, DynamicLayer)  # see joinable
            for name in ("keys", "values"):
                setattr(own, name, fit([getattr(layer, name) for layer in (own, new)], 2))  # [B, heads, T, D]
        self.mask = fit((self.mask, other.mask), 1)
        self.logits = torch.cat([self.logits, other.logits])
        self.rows = list(range(len(self.mask)))


class PromptTooLong(UserError):
    """A prompt has more tokens than the model has positions.

    Attributes:
        tokens: of the prompt.
    """

    def __init__(self, message: str, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens


class Reader:
    """Reads queries with one loaded model.

    Args:
        loaded: as ``checkpoint.load_model`` gives it; the model is put into evaluation mode, its adapter packed.
        exact: leave what packing would round, so that answers stay those of the model as it is.
        pack: leave it unpacked if not: a packed adapter takes the base's weights in, which others may share.

    Raises:
        UserError: the model's adapter is of a kind that cannot answer here.
    """

    def __init__(self, loaded: Loaded, *, exact: bool = True, pack: bool = True) -> None:
        self.loaded = loaded
        self.vision = loaded.vision
        self.tokenizer = loaded.tokenizer
        if pack:
            pack_adapters(loaded.model, exact=exact)
        loaded.model.eval()  # peft's wrapper too, which packing does not reach
        self.base = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
        self.prompt_length = prompt_length(loaded.model)
        self.positions: int = getattr(self.base.config.get_text_config(), "max_position_embeddings", 1 << 30)
        pad_id = self.tokenizer.pad_token_id
        self.fill = pad_id if isinstance(pad_id, int) else 0

    def encode(self, query: Query, answer: str | None = None) -> list[int]:
        """Prompt ids, pictures expanded; a prompt-tuned model's own tokens stand in front as fillers.

        Args:
            query: what is asked.
            answer: follows it, with what ends it; None for the prompt alone.

        Raises:
            PromptTooLong: for the model's positions.
            UserError: pictures for a text-only model, or a system prompt for a template without a place for one.
        """
        if query.images and self.vision is None:
            raise UserError(f"{self.loaded.name}: is a text-only model and takes no pictures")
        turns = query.turns if answer is None else (*query.turns, Turn("gpt", answer))
        encoded = encode_turns(self._template(query), turns, self.tokenizer)
        if self.vision is not None:
            encoded = expand_images(encoded, self.vision.image_token_id, self.vision.tokens_per_image)
        ids = [self.fill] * self.prompt_length + encoded.input_ids
        if len(ids) >= self.positions:
            given = "" if answer is None else f" with the answer {answer!r:.50}"
            raise PromptTooLong(
                f"the prompt{given} has {len(ids)} tokens, pictures included, but {self.loaded.name} has "
                f"{self.positions} positions",
                len(ids),
            )
        return ids

    def rendered(self, query: Query) -> str:
        """The text that is tokenized: system prompt, turns, and a mark where each picture stands."""
        return "".join(segment.text for segment in self._template(query).segments(query.turns))

    def _template(self, query: Query) -> Template:
        own = self.loaded.template
        return own if query.system is None else own.with_system(query.system)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """One picture as the vision tower wants it, ``[3, H, W]``: a query takes it in the picture's place.

        Raises:
            UserError: a text-only model.
        """
        if self.vision is None:
            raise UserError(f"{self.loaded.name}: is a text-only model and takes no pictures")
        return prepare_image(image, self.vision.image_processor, self.vision.aspect_ratio)

    def _prefill(self, queries: Sequence[Query], prompts: list[list[int]]) -> State:
        """Run the prompts: first what rows share, then the rest."""
        embeds, mask = self._embed(queries, prompts)  # [B, T, D], [B, T], padded on the left
        image = None if self.vision is None else self.vision.image_token_id
        shared, leaders, follow = shared_prefix(queries, prompts, image)
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
        return State(list(range(len(prompts))), output.past_key_values, mask, output.logits[:, -1])

    def _advance(self, state: State, tokens: list[int]) -> None:
        """Feed each living row its newest token."""
        ids = torch.tensor(tokens, device=state.mask.device)[:, None]  # [B, 1]
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        output = self._forward(self.base.get_input_embeddings()(ids), state.mask, state.cache)
        state.cache, state.logits = output.past_key_values, output.logits[:, -1]

    def _continued(self, state: State, rows: Sequence[tuple[int, list[int]]]) -> list[LogLikelihood]:
        """How likely each ids are after the state's row of that number; the state stays as it is."""
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
        greedy = ((logits.argmax(2) == ids) | ~mask.bool()).all(1).tolist()
        totals = (likely * mask).sum(1).tolist()
        return [LogLikelihood(total, len(ids), so) for total, (_, ids), so in zip(totals, rows, greedy, strict=True)]

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


def pack_adapters(model: Any, *, exact: bool) -> None:
    """Pack a model for inference, if its method knows how.

    Args:
        model: with an adapter or none.
        exact: leave what packing would round, so that answers stay those of the model as it is.
    """
    prepare = getattr(model, "prepare_for_inference", None)
    if prepare is not None:
        prepare(exact=exact)
