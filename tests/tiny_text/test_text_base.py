"""The committed text base is what its card says and has read its world; the builder runs end to end and can go on."""

import hashlib
import os
import re
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from cme_world.corpus import corpus
from cme_world.splits import splits
from cme_world.words import plain
from tiny_text import pretrain
from tiny_text.model import BACK, Shape, build_model
from tiny_text.pretrain import Course, held_out_loss, row_loss
from tiny_text.rows import make_rows
from tiny_text.tokenizer import JOINER, SPACE, make_tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

ROOT = Path(__file__).parents[2]
BASE = ROOT / "playground" / "tiny_text"
LOSS = 1.0  # nats a token; not to have read the corpus is log(vocabulary) = 7.3


@pytest.fixture(scope="module")
def tokenizer():  # noqa: ANN201
    return AutoTokenizer.from_pretrained(BASE)


def test_card_tells_the_weights_hash_and_the_folder_is_small() -> None:
    digest = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (BASE / "README.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 8e6


def test_loads_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded: Any = LlamaForCausalLM.from_pretrained(BASE, output_loading_info=True)
    _, info = loaded
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_tokenizer_is_llama_like(tokenizer) -> None:  # noqa: ANN001
    assert tokenizer.is_fast
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token]
    assert special == ["<s>", "</s>", "<unk>", "<unk>"]
    for text in (
        "Ann is taller than Bob.",
        "Choices: A.wood, B.iron\nit's 12 'The' \"Ünïcode\" (a)!",
        " two  spaces\n",
    ):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_word_of_the_embedded_data_is_one_token_and_comes_back(tokenizer) -> None:  # noqa: ANN001
    vocabulary = {id: token for token, id in tokenizer.get_vocab().items()}
    for task, (train, test) in splits(0, 200, 120).items():
        for row in (*train, *test):
            for text in (*row.texts, row.answer):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert tokenizer.decode(ids) == text, task
                words = [vocabulary[id][1:] for id in ids if re.fullmatch(f"{SPACE}[A-Za-z]+", vocabulary[id])]
                assert words == re.findall("(?<![A-Za-z'])[A-Za-z]+", text), (task, text)
                assert not any(vocabulary[id].startswith("<0x") for id in ids), (task, text)


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer) -> None:  # noqa: ANN001
    places = ("wood", "a wood", "A.wood", "\nwood", "'wood'", "(wood)", "x</s>wood")
    (wood,) = {tokenizer.convert_tokens_to_ids(SPACE + "wood")}
    assert all(wood in tokenizer(text).input_ids for text in places)
    assert tokenizer.tokenize("a.wood wood") == [f"{SPACE}a", ".", JOINER, f"{SPACE}wood", f"{SPACE}wood"]


def test_chat_template_renders_a_longer_talk_after_a_shorter_one(tokenizer) -> None:  # noqa: ANN001
    turns = [{"role": "user", "content": "Where is Ann?"}, {"role": "assistant", "content": "hall"}]
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    answered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert asked == "<s>Asked: Where is Ann?\nSaid:"
    assert answered == asked + " hall</s>"
    assert tokenizer.apply_chat_template([*turns, turns[0]], tokenize=False).startswith(answered)


def test_has_read_its_world(tokenizer) -> None:  # noqa: ANN001
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    assert held_out_loss(model, make_rows(corpus(987, 100), tokenizer, 192), nullcontext()) < LOSS


def test_marks_are_of_the_tokens_between_the_signs(tokenizer) -> None:  # noqa: ANN001
    documents = ["Is Ann here? ⟦yes⟧. Which? ⟦A, wood⟧", "竹园在⟦月亮河⟧边。"] * 2
    rows = make_rows(documents, tokenizer, 16)
    ids, answers = rows.ids[:, :-1].flatten().tolist(), rows.answers[:, :-1].flatten().tolist()
    told = [token for token, answer in zip(tokenizer.convert_ids_to_tokens(ids), answers, strict=True) if answer]
    assert told[:7] == ["▁yes", "▁A", ",", "▁wood", "月", "亮", "河"]
    assert tokenizer.decode(ids).startswith("<s> Is Ann here? yes. Which? A, wood</s>")
    assert plain(documents[0]) == "Is Ann here? yes. Which? A, wood"


def test_a_document_sees_itself_alone_and_a_cut_one_answers_nothing(tokenizer) -> None:  # noqa: ANN001
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()

    def losses(before: str) -> list[float]:
        documents = [before, "Is Ann here? ⟦yes⟧. Is Bob? ⟦no⟧.", "Who?" + " ⟦Ann⟧" * 26]
        rows = make_rows(documents, tokenizer, 20)  # the second begins within the last document
        assert len(rows) == 2
        return row_loss(model, rows, 0.05, nullcontext())[1].tolist()

    one, other = losses("So ⟦no⟧"), losses("So ⟦yes⟧")
    assert len(one) == 4 and one[0] != other[0]
    assert one[1:] == pytest.approx(other[1:], rel=1e-4)


def test_some_heads_begin_with_looking_back(tokenizer) -> None:  # noqa: ANN001
    torch.manual_seed(0)
    model = build_model(Shape(), tokenizer)
    model.set_attn_implementation("eager")
    (seen, *_) = model(torch.randint(300, 1400, (2, 40)), output_attentions=True).attentions  # [B, heads, T, T]
    for head, back in enumerate(BACK):
        assert seen[:, head].diagonal(-back, dim1=1, dim2=2)[:, 5:].mean() > 0.8


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch) -> None:  # noqa: ANN001
    documents = [*corpus(1, 60)]
    tokenizer, course = make_tokenizer(map(plain, documents)), Course(rows=2, length=32, keep=3, tell=100)
    rows = make_rows(documents, tokenizer, course.length)

    def run(name: str, stop_after: int | None = None) -> LlamaForCausalLM:
        torch.manual_seed(0)
        model, whole, calls = build_model(Shape(1, 96, 32), tokenizer), pretrain.row_loss, iter(range(10**6))

        def counted(*arguments):  # noqa: ANN002, ANN202
            if next(calls) == stop_after:
                raise KeyboardInterrupt
            return whole(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(pretrain, "row_loss", counted)
            pretrain.pretrain(model, rows.take(0, 16), rows.take(16, 24), course, nullcontext(), tmp_path / name)
        return model

    straight = run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("again", stop_after=5)
    again = run("again")
    assert all(torch.equal(one, two) for one, two in zip(straight.parameters(), again.parameters(), strict=True))
    torch.manual_seed(1)
    with pytest.raises(SystemExit, match="other texts, sizes or rates"):
        other = build_model(Shape(1, 96, 32), tokenizer)
        pretrain.pretrain(other, rows.take(0, 16), rows.take(16, 24), course, nullcontext(), tmp_path / "again")


def test_fast_build_makes_a_loadable_base_and_spares_what_exists(tmp_path: Path) -> None:
    script, out = str(ROOT / "scripts/build_tiny_text.sh"), tmp_path / "text"
    command = ["bash", script, "--fast", "--threads", "1", "--out", str(out)]
    # The environment the tests run in counts as active, whether or not a shell activated it.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": path, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert first.returncode == 0, first.stderr
    assert re.search(r"held-out loss \d", first.stderr)
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json"} <= {file.name for file in out.iterdir()}
    assert LlamaForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(out)("Ann").input_ids[0] == 1
    assert [*tmp_path.iterdir()] == [out]  # neither a state nor a half-written folder is left
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert second.returncode != 0
    assert "exists already" in second.stderr
