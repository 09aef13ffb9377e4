"""Segments -> token ids and labels.

In: a template's segments and a fast tokenizer. Out: :class:`Encoded`. As in LLaVA (``tokenizer_image_token``)
the text is cut at the pictures (and where a segment stands apart) and each chunk is tokenized as one string, with one
bos in front of all. Labels come from the character offsets of the trained segments, so ids and labels cannot drift
apart (LLaVA's "tokenization mismatch").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from llava_teamlora.constants import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava_teamlora.data.records import Turn
from llava_teamlora.data.segments import Segment, Template
from llava_teamlora.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of equal length; a picture is one ``IMAGE_TOKEN_INDEX`` until expanded."""

    input_ids: list[int]
    labels: list[int]

    @property
    def images(self) -> int:
        """Number of unexpanded pictures."""
        return self.input_ids.count(IMAGE_TOKEN_INDEX)

    @property
    def trained_tokens(self) -> int:
        """Number of positions that carry a loss."""
        return sum(label != IGNORE_INDEX for label in self.labels)


def encode_turns(template: Template, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A conversation, or a prompt that ends in a question, as its template has it.

    Raises:
        UserError: see :meth:`Template.segments` and :func:`encode`.
    """
    return encode(template.segments(turns), tokenizer, bare=template.bare)


def encode(segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, *, bare: bool = False) -> Encoded:
    """Tokenize a conversation chunk by chunk and label its trained segments.

    Args:
        segments: as made by a template.
        tokenizer: a *fast* tokenizer (character offsets are needed).
        bare: the text holds all special tokens; the tokenizer puts no bos in front.

    Raises:
        UserError: the tokenizer has no offsets.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{tokenizer.name_or_path}: a fast tokenizer (tokenizer.json) is needed to place labels exactly; "
            "load it with AutoTokenizer.from_pretrained(..., use_fast=True) and save it again"
        )
    input_ids: list[int] = []
    labels: list[int] = []
    for number, chunk in enumerate(_chunks(segments)):
        if chunk.behind_picture:
            input_ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
        ids, chunk_labels = _encode_chunk(chunk.segments, tokenizer, bos=not number and not bare)
        input_ids += ids
        labels += chunk_labels
    return Encoded(input_ids, labels)


@dataclass(frozen=True)
class _Chunk:
    """What is tokenized as one string."""

    segments: list[Segment]
    behind_picture: bool = False


def _chunks(segments: Sequence[Segment]) -> list[_Chunk]:
    """Cut the segments before every one that stands apart, and at every picture."""
    chunks = [_Chunk([])]
    for segment in segments:
        if segment.apart and chunks[-1].segments:
            chunks.append(_Chunk([]))
        first, *rest = segment.text.split(IMAGE_TOKEN)
        chunks[-1].segments.append(replace(segment, text=first))
        chunks += [_Chunk([replace(segment, text=text)], behind_picture=True) for text in rest]
    return chunks


def _encode_chunk(chunk: list[Segment], tokenizer: PreTrainedTokenizerBase, bos: bool) -> tuple[list[int], list[int]]:
    text = "".join(segment.text for segment in chunk)
    trained = [segment.trained for segment in chunk for _ in segment.text]
    if text.startswith(" ") and _swallows_space(tokenizer):
        text, trained = " " + text, [trained[0], *trained]
    encoding = tokenizer(text, add_special_tokens=bos, return_offsets_mapping=True, verbose=False)
    ids: list[int] = list(encoding["input_ids"])
    # A token belongs to the segment its last character lies in; bos covers no character and is never trained.
    labels = [
        token if end > start and trained[end - 1] else IGNORE_INDEX
        for token, (start, end) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    return ids, labels


def _swallows_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a leading space counts as the one that the tokenizer itself puts before a text.

    It does for fast Llama tokenizers. It does not for the slow ones that LLaVA trains with: there it is a token more.
    """
    return tokenizer(" x").input_ids == tokenizer("x").input_ids


def end_token_id(template: Template, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that ends the template's answers; None if it is not one token of this tokenizer."""
    if template.end is None:
        return None
    ids = tokenizer(template.end, add_special_tokens=False).input_ids
    # By its name: Qwen's and GPT-2's end is what they call their unknown token, too.
    return ids[0] if tokenizer.convert_ids_to_tokens(ids) == [template.end] else None


def check_end(template: Template, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse to train a model on ends of answers that its tokenizer has no token for.

    Raises:
        UserError: naming both.
    """
    if template.end is not None and end_token_id(template, tokenizer) is None:
        raise UserError(
            f"--version {template.name} ends answers in {template.end!r}, which is not one token of "
            f"{tokenizer.name_or_path}, whose own is {tokenizer.eos_token!r}: it would never learn to stop. Choose a "
            "template that fits the model"
        )


def expand_images(encoded: Encoded, image_token_id: int, tokens_per_image: int) -> Encoded:
    """Replace each picture's one placeholder by as many image tokens as it has patch features."""
    input_ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        repeat = tokens_per_image if token == IMAGE_TOKEN_INDEX else 1
        input_ids += [image_token_id if token == IMAGE_TOKEN_INDEX else token] * repeat
        labels += [label] * repeat
    return Encoded(input_ids, labels)


def truncate(encoded: Encoded, max_length: int, image_token_id: int, where: str) -> Encoded:
    """Keep the first ``max_length`` tokens of an expanded sample, pictures whole.

    Raises:
        UserError: part or all of a picture would be cut off.
    """
    if len(encoded.input_ids) <= max_length:
        return encoded
    if image_token_id in encoded.input_ids[max_length:]:
        raise UserError(
            f"{where}: --model_max_length {max_length} would cut off a picture's tokens; raise it or "
            "shorten the text before the picture"
        )
    return Encoded(encoded.input_ids[:max_length], encoded.labels[:max_length])
