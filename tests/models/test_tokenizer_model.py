"""Vicuna's and LLaVA's folders hold SentencePiece's ``tokenizer.model`` alone."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from llava_originals import Originals, make_originals

from llava_teamlora.errors import UserError
from llava_teamlora.models import tokenizer
from llava_teamlora.models.build import BaseSpec, load_base

TEXT = "USER: what color is it? ASSISTANT: red, green and blue USER: how many?"


@pytest.fixture
def originals(tmp_path: Path, tiny: str) -> Originals:
    return make_originals(tmp_path, tiny)


def leave_sentencepiece_alone(folder: Path, model: bytes) -> None:
    """What the hub's folders of Vicuna and LLaVA hold of a tokenizer."""
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(model)


def test_what_is_missing_is_named(originals: Originals, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = originals.full()
    leave_sentencepiece_alone(folder, b"none")
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="tokenizer.model: is read by sentencepiece: pip install sentencepiece"):
        load_base(BaseSpec(str(folder)))


@pytest.mark.parametrize("model_type", ["llava", "llava_llama"])
def test_ids_are_those_of_sentencepiece(originals: Originals, model_type: str) -> None:
    """For the type ``llava`` transformers alone would take a tokenizer that splits words otherwise."""
    sentencepiece = pytest.importorskip("sentencepiece")
    trained = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 50), model_writer=trained, vocab_size=310, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
    )  # fmt: skip
    folder = originals.full(model_type=model_type)
    leave_sentencepiece_alone(folder, trained.getvalue())
    base = load_base(BaseSpec(str(folder)))
    expected = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()).encode(TEXT)
    assert base.tokenizer(TEXT)["input_ids"] == [1, *expected]
    assert len(base.tokenizer) == base.image_token_id + 1
