"""The committed base is what its card says and knows what it was taught; the builder runs end to end."""

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_base.build import states_of
from tiny_base.language import ask
from tiny_base.lm import RowMaker, lm_scores
from tiny_base.scenes import draw, make_scenes
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from llava_teamlora.data.records import Turn, parse_record
from llava_teamlora.data.templates import TEMPLATES

ROOT = Path(__file__).parents[2]
BASE = ROOT / "playground" / "tiny"


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(BASE).eval()


@pytest.fixture(scope="module")
def processor():  # noqa: ANN201
    return AutoProcessor.from_pretrained(BASE)


def test_card_tells_the_weights_hash() -> None:
    digest = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (BASE / "README.md").read_text()
    assert (BASE / "model.safetensors").stat().st_size < 12e6


def test_loads_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = LlavaForConditionalGeneration.from_pretrained(BASE, output_loading_info=True)
        AutoProcessor.from_pretrained(BASE)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_tokenizer_is_llama_like(processor) -> None:  # noqa: ANN001
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer.is_fast
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token] == [
        "<s>",
        "</s>",
        "<unk>",
        "<unk>",
    ]
    for text in ("Is there a teal triangle in the image?", "A line\nand another: 12 % of Ünïcode!", "yes"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("what color is the rectangle?", add_special_tokens=False).input_ids) == 6
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == len(tokenizer) - 1


def test_knows_its_own_held_out_questions(model, processor) -> None:  # noqa: ANN001
    torch.manual_seed(0)
    scenes, pictures = make_scenes(96, seed=987)
    maker = RowMaker(processor.tokenizer, model.config.image_token_index, model.config.image_seq_length)
    scores = lm_scores(model, maker, scenes, states_of(model.model.vision_tower, pictures), seed=5)
    floors = {"presence": 0.8, "absence": 0.8, "statement": 0.85, "reading": 0.75, "color": 0.7, "shape": 0.6}
    assert {kind: scores[kind] for kind, floor in floors.items() if scores[kind] < floor} == {}


def test_processor_and_generate_answer_in_words(model, processor) -> None:  # noqa: ANN001
    rng = np.random.default_rng(3)
    scenes, _ = make_scenes(40, seed=77)
    right = []
    for scene in scenes:
        made = ask(scene, rng)
        while made.kind not in ("color", "presence"):
            made = ask(scene, rng)
        turns = TEMPLATES["v1"].segments([Turn("human", f"<image>\n{made.question}")])
        prompt = "".join(segment.text for segment in turns)
        picture: Image.Image = draw(scene, rng)
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        told = model.generate(**inputs, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
        right.append(processor.decode(told, skip_special_tokens=True).strip() == made.answer)
    assert np.mean(right) > 0.7


def test_replay_file_holds_text_only_records() -> None:
    rows = json.loads((BASE / "replay.json").read_text())
    assert 600 <= len(rows) <= 1000
    assert all(parse_record(row, source="replay.json", index=i).images == () for i, row in enumerate(rows))


def test_fast_build_makes_a_loadable_base_and_spares_what_exists(tmp_path: Path) -> None:
    command = [
        "bash",
        str(ROOT / "scripts/build_tiny_base.sh"),
        "--fast",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "tiny"),
    ]
    # The environment the tests run in counts as active, whether or not a shell activated it.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": path, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert first.returncode == 0, first.stderr
    assert re.search(r"held-out: .*color", first.stderr)
    names = {file.name for file in (tmp_path / "tiny").iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "README.md",
        "replay.json",
        "tokenizer.json",
        "processor_config.json",
    } <= names
    LlavaForConditionalGeneration.from_pretrained(tmp_path / "tiny")
    AutoProcessor.from_pretrained(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert second.returncode != 0
    assert "exists already" in second.stderr
