"""Ids and labels are those of LLaVA's own code on real vocabularies; where they are not, it is named here, and why."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.records import parse_record
from llava_teamlora.data.templates import get_template
from llava_teamlora.data.tokenize import Encoded, encode

_HERE = Path(__file__).parent / "golden"
RECORDS = {row["id"]: row for row in json.loads((_HERE / "records.json").read_text(encoding="utf-8"))}
IDS = json.loads(lzma.decompress((_HERE / "ids.json.xz").read_bytes()))["ids"]
CASES = [(name, made_as) for name, templates in IDS.items() for made_as in templates]
CHATML = ("mpt", "chatml_direct")
MaskOf = Callable[[str, str, str], Encoded]


def not_llavas_ids(name: str, made_as: str) -> set[str]:
    """Records whose ids differ on purpose."""
    if made_as.startswith("v0"):
        # Of all forms only this one keeps a first turn of gpt's in LLaVA.
        return {"a leading answer"} & IDS[name][made_as].keys()
    if made_as == "llava_llama_3":
        return {"in a later turn"}  # LLaVA-NeXT puts no newline behind a marker that begins its turn
    found = {"an empty answer"} if not made_as.startswith("plain") else set()  # runs into the next question in LLaVA
    if (name, made_as) == ("llama-legacy", "v1_im_start_end"):
        # Behind a special token, a legacy tokenizer's fast form has no token for a space, which its slow form has.
        found |= {"alone", "interleaved"}
    return found & IDS[name][made_as].keys()


@pytest.fixture(scope="module")
def ours(golden_tokenizer: Callable[[str], Any]) -> MaskOf:
    def encoded(name: str, made_as: str, record: str) -> Encoded:
        version = made_as.removesuffix("_im_start_end")
        turns = parse_record(RECORDS[record], source="records.json", index=0).turns
        found = encode(get_template(version, made_as != version).segments(turns), golden_tokenizer(name))
        limit = 70 if name.endswith("-70") else None  # LLaVA's tokenizer cuts conversations without a picture
        return Encoded(found.input_ids[:limit], found.labels[:limit])

    return encoded


def trained_spans(encoded: Encoded) -> list[list[int]]:
    """[start, end) of everything that carries a loss."""
    spans: list[list[int]] = []
    for i, label in enumerate(encoded.labels):
        if label == IGNORE_INDEX:
            continue
        if spans and spans[-1][1] == i:
            spans[-1][1] = i + 1
        else:
            spans.append([i, i + 1])
    return spans


def llavas_spans(name: str, made_as: str, record: str) -> list[list[int]]:
    """LLaVA's, but for Llama 3's bos: no position predicts the first token, so that its label has no effect."""
    spans = [list(span) for span in IDS[name][made_as][record]["trained"]]
    if name == "llama_3":
        assert spans[0][0] == 0
        spans[0][0] = 1
    return spans


@pytest.mark.parametrize(("name", "made_as"), CASES)
def test_ids_are_llavas(name: str, made_as: str, ours: MaskOf) -> None:
    golden = IDS[name][made_as]
    different = {record for record in golden if ours(name, made_as, record).input_ids != golden[record]["ids"]}
    assert different == not_llavas_ids(name, made_as)


@pytest.mark.parametrize(("name", "made_as"), [case for case in CASES if case[1] not in CHATML])
def test_labels_are_llavas(name: str, made_as: str, ours: MaskOf) -> None:
    """LLaVA masks a whole conversation where its counting fails: there, an answer that holds the mark of a role."""
    for record in IDS[name][made_as].keys() - not_llavas_ids(name, made_as):
        theirs, found = llavas_spans(name, made_as, record), trained_spans(ours(name, made_as, record))
        if record == "role marks in an answer" and not theirs:
            assert found or name.endswith("-70")
        else:
            assert found == theirs, record


@pytest.mark.parametrize("name", ["bytes", "llama", "llama-legacy"])
@pytest.mark.parametrize("version", CHATML)
def test_chatml_trains_the_answers_where_llava_goes_wrong(
    name: str, version: str, ours: MaskOf, golden_tokenizer: Callable[[str], Any]
) -> None:
    """LLaVA miscounts each of these: it masks all, or is a token off (legacy tokenizers, several questions)."""
    wrong = 0
    for record in IDS[name][version].keys() - {"an empty answer"}:
        encoded = ours(name, version, record)
        wrong += trained_spans(encoded) != llavas_spans(name, version, record)
        turns = parse_record(RECORDS[record], source="records.json", index=0).turns
        spans = trained_spans(encoded)
        assert len(spans) == len(turns) // 2
        for (start, end), turn in zip(spans, turns[1::2], strict=True):
            text = golden_tokenizer(name).decode(encoded.input_ids[start:end], clean_up_tokenization_spaces=False)
            assert text.strip() == (turn.text + "<|im_end|>").strip()
    assert wrong == len(IDS[name][version]) - 1


def test_an_empty_answer_has_an_end(ours: MaskOf, golden_tokenizer: Callable[[str], Any]) -> None:
    encoded = ours("llama", "v1", "an empty answer")
    parts = [golden_tokenizer("llama").decode(encoded.input_ids[a:b]) for a, b in trained_spans(encoded)]
    assert [part.strip() for part in parts] == ["</s>", "A chair.</s>"]


def test_a_space_behind_a_picture_is_a_token(golden_tokenizer: Callable[[str], Any]) -> None:
    """LLaVA's slow tokenizer has one for it; the fast one takes it for the space it would put there itself."""
    encoded = encode(
        get_template("v1").segments(parse_record(RECORDS["alone"], source="f", index=0).turns),
        golden_tokenizer("llama"),
    )
    place = encoded.input_ids.index(-200)
    assert encoded.input_ids[place + 1 : place + 3] == golden_tokenizer("llama").convert_tokens_to_ids(["▁", "▁A"])
