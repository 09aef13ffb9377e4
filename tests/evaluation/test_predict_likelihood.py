"""Log-likelihoods of given answers against whole forward passes, and choosing an option by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.data.images import prepare_image
from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import get_template
from llava_teamlora.data.tokenize import encode, expand_images
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.cme.arc import Arc
from llava_teamlora.evaluation.cme.qqp import Qqp
from llava_teamlora.evaluation.prediction.answerers import LikelihoodAnswerer
from llava_teamlora.evaluation.runner import Plan, evaluate, predict
from llava_teamlora.evaluation.types import Sample
from llava_teamlora.generation import Decoding, Generator, LogLikelihood, Query

COLORS = ("red", "a rather dark blue", "green", "no")


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    red, green = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (80, 40), (0, 255, 0))
    talk = (Turn("human", "<image>\nwhat color is it?"), Turn("gpt", "red"), Turn("human", "is it a circle?"))
    asked = [Query.ask("what color is the shape?", red), Query.ask("is it?", red), Query(talk, (red,))]
    return [*asked, Query.ask("what shape is this?", green), Query.ask("what is the opposite of yes?")]


def reference(loaded: Loaded, query: Query, text: str) -> LogLikelihood:
    """Token by token, by a whole forward pass each: no cache, no padding, no sharing."""
    assert loaded.vision is not None

    def ids(*turns: Turn) -> list[int]:
        assert loaded.vision is not None
        encoded = encode(loaded.template.segments(turns), loaded.tokenizer)
        return expand_images(encoded, loaded.vision.image_token_id, loaded.vision.tokens_per_image).input_ids

    prompt, whole = ids(*query.turns), ids(*query.turns, Turn("gpt", text))
    assert whole[: len(prompt)] == prompt
    pixels = [
        prepare_image(i, loaded.vision.image_processor, "pad") for i in query.images if isinstance(i, Image.Image)
    ]
    extra = {"pixel_values": torch.stack(pixels)} if pixels else {}
    total, greedy = 0.0, True
    with torch.inference_mode():
        for end in range(len(prompt), len(whole)):
            logits = loaded.model(input_ids=torch.tensor([whole[:end]]), **extra).logits[0, -1]
            total += float(logits.double().log_softmax(-1)[whole[end]])
            greedy &= int(logits.argmax()) == whole[end]
    return LogLikelihood(total, len(whole) - len(prompt), greedy)


@pytest.mark.parametrize("version", ["v1", "v0"])
def test_log_likelihoods_equal_whole_forward_passes(loaded: Loaded, queries: list[Query], version: str) -> None:
    loaded = replace(loaded, template=get_template(version))
    answers = [COLORS, ("yes", "no"), ("yes", "no it is a circle"), ("a circle",), ("no", "yes", "")]
    found = Generator(loaded).log_likelihoods(queries, answers)
    for query, texts, row in zip(queries, answers, found, strict=True):
        assert len(row) == len(texts)
        for text, ours in zip(texts, row, strict=True):
            expected = reference(loaded, query, text)
            assert (ours.tokens, ours.greedy) == (expected.tokens, expected.greedy)
            assert ours.total == pytest.approx(expected.total, abs=2e-4)
            assert ours.per_token == pytest.approx(expected.total / expected.tokens, abs=1e-4)


def test_an_answer_is_as_likely_alone_as_among_others(loaded: Loaded, queries: list[Query]) -> None:
    generator = Generator(loaded)
    together = generator.log_likelihoods(queries, [COLORS] * len(queries))
    for query, row in zip(queries, together, strict=True):
        (alone,) = generator.log_likelihoods([query], [COLORS])
        assert [one.total for one in alone] == pytest.approx([one.total for one in row], abs=2e-4)


def test_what_the_model_would_write_is_likeliest(loaded: Loaded, queries: list[Query]) -> None:
    generator = Generator(loaded)
    for query in queries:
        said = generator.generate([query], Decoding(8))[0]
        if said.finish == "stop":
            (likely,) = generator.log_likelihoods([query], [(said.text, "a rather dark blue", "circle red")])
            assert likely[0].per_token == max(one.per_token for one in likely)


def test_an_answer_beyond_the_last_position_is_refused(loaded: Loaded) -> None:
    with pytest.raises(UserError, match=r"has \d+ tokens, .* positions"):
        Generator(loaded).log_likelihoods([Query.ask("what?")], [["red " * 5000]])


class Choosing(EasyVqa):
    """What colour, with options; the question alone stands in the metadata, as multiple-choice benchmarks have it."""

    name = "choosing"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        return [
            replace(
                sample,
                choices=COLORS if number % 2 else COLORS[1:],
                prompt=f"{sample.prompt}\nA. …\nAnswer with the option's letter from the given choices directly.",
                metadata={"question": sample.prompt},
            )
            for number, sample in enumerate(super().load(data_root))
        ]


def test_the_answer_is_the_letter_of_the_likeliest_option(loaded: Loaded, root: Path, tmp_path: Path) -> None:
    model = LikelihoodAnswerer(loaded)
    plan = Plan(tmp_path / "out", batch_size=3, data_root=root)
    content = evaluate(Choosing(), model, Decoding(16), plan)
    rows = [json.loads(line) for line in (plan.out / "predictions.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, Choosing().load(root), strict=True):
        assert isinstance(sample.image, Path)
        with Image.open(sample.image) as picture:
            query = Query.ask(str(sample.metadata["question"]), picture.convert("RGB"))
        means = [reference(loaded, query, choice).per_token for choice in sample.choices]
        assert row["text"] == "ABCD"[means.index(max(means))]
        found = [entry["sum"] / entry["tokens"] for entry in row["metadata"]["log_likelihoods"]]
        assert found == pytest.approx(means, abs=2e-4) and row["metadata"]["question"] == sample.metadata["question"]
        assert row["prompt"] == sample.prompt  # what scoring compares with
        assert row["metadata"]["asked"] == sample.metadata["question"]
    logged = [json.loads(line) for line in (plan.out / "scores.rows.jsonl").read_text().splitlines()]
    assert [row["asked"] for row in logged] == [sample.metadata["question"] for sample in Choosing().load(root)]
    assert len({row["text"] for row in rows}) > 1
    decoding = content["manifest"]["decoding"]
    assert decoding["answer_by"] == "likelihood" and "max_new_tokens" not in decoding
    assert content["name"] == "choosing [likelihood]"
    assert content["manifest"]["first_prompt"].endswith("USER: <image>\nwhat shape is it? ASSISTANT:")


def test_of_few_answers_the_likeliest_as_a_whole_is_given(loaded: Loaded, tmp_path: Path) -> None:
    """Labels and letters stand after the whole prompt; their sums decide, in which a long label counts in full."""
    model, root = LikelihoodAnswerer(loaded), Path(__file__).parents[2] / "eval" / "fixtures"
    for task in (Qqp(), Arc()):
        plan = Plan(tmp_path / task.name, batch_size=3, data_root=root)
        content = evaluate(task, model, Decoding(16), plan)
        assert content["name"] == f"{task.name} [likelihood]" and content["extra"]["unparsed"]["value"] == 0
        rows = [json.loads(line) for line in (plan.out / "predictions.jsonl").read_text().splitlines()]
        for row, sample in zip(rows, task.load(root), strict=True):
            sums = [reference(loaded, Query.ask(sample.prompt), answer).total for answer in sample.candidates]
            assert row["text"] == sample.candidates[sums.index(max(sums))] and "asked" not in row["metadata"]
            assert [entry["sum"] for entry in row["metadata"]["log_likelihoods"]] == pytest.approx(sums, abs=2e-3)


def test_questions_without_options_are_refused(loaded: Loaded, root: Path, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "out", data_root=root)
    with pytest.raises(UserError, match=r"8 of 8 questions have none \(first: test/0\); drop it"):
        predict(EasyVqa(), LikelihoodAnswerer(loaded), Decoding(16), plan)
    assert not plan.out.exists()
