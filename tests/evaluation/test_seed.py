"""SEED-Bench: the committed fixture with scores worked out by hand, LLaVA's question file and upload, refusals."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Scores

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = get_benchmark("seed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may spoil."""
    shutil.copytree(FIXTURES / "seed_bench", tmp_path / "eval" / "seed_bench")
    return tmp_path / "eval"


@pytest.fixture
def spoil(data: Path) -> Callable[..., Path]:
    """Edit ``SEED-Bench.json`` in place."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        path = data / "seed_bench" / "SEED-Bench.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        return data

    return change


def scores_of(name: str, texts: list[str]) -> Scores:
    bench = get_benchmark(name)
    samples = bench.load(FIXTURES)
    return bench.aggregate(samples, [bench.judge(s, text) for s, text in zip(samples, texts, strict=True)])


def test_samples() -> None:
    samples = {sample.key: sample for sample in BENCH.load(FIXTURES)}
    assert list(samples) == ["101", "102", "57", "v1", "v2", "57#2"]  # an id twice, as 49914 in the real one
    picture, video = samples["101"], samples["v1"]
    assert (picture.question_id, video.question_id) == (101, "v1")
    assert picture.prompt == (
        "How many circles are there?\nA. One\nB. Two\nC. Three\nD. Four\n"
        "Answer with the option's letter from the given choices directly."
    )
    folder = FIXTURES / "seed_bench"
    assert picture.image == folder / "SEED-Bench-image" / "1001_77"
    assert video.image == folder / "SEED-Bench-video-image" / "10_v1.png"
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in samples.values())
    assert (picture.group, picture.cluster) == ("Instances Counting", samples["102"].cluster)
    assert picture.choices == ("One", "Two", "Three", "Four")
    assert picture.metadata["question"] == "How many circles are there?"


def test_golden_scores() -> None:
    # Right: 101, 57, v2, 57#2. "C." of 102 is no bare letter, and "a" of v1 neither.
    scores = scores_of("seed", ["A", "C.", "D", "a", "B", "B"])
    assert (scores.total.value, scores.total.n) == (4 / 6, 6)
    # Residuals by picture or video, in thirds: 1 - 2, 1 + 1, -2, 1
    assert scores.total.stderr == pytest.approx((4 / 3 * (1 + 4 + 4 + 1) / 9) ** 0.5 / 6)
    assert [(name, score.value) for name, score in scores.groups.items()] == [
        ("Scene Understanding", 0),
        ("Instances Counting", 1),
        ("Spatial Relation", 1),
        ("Action Recognition", 0),
        ("Action Prediction", 1),
    ]
    extra = {name: (score.value, score.n) for name, score in scores.extra.items()}
    assert extra == {"seed_image": (3 / 4, 4), "seed_video": (1 / 2, 2), "unparsed": (2 / 6, 6)}


def test_pictures_alone() -> None:
    scores = scores_of("seed_image", ["A", "B", "D", "B"])
    assert (scores.total.value, scores.total.n) == (3 / 4, 4)
    assert list(scores.extra) == ["seed_image", "unparsed"]


def test_only_the_letter_itself_counts() -> None:
    sample = BENCH.load(FIXTURES)[0]
    rng = random.Random(0)
    fuzz = [
        "",
        "\n",
        "NO",
        "Yes.",
        "(A)",
        "A.",
        "A. One",
        " A",
        "A ",
        "\uff21",
        "A\u3002",
        "AB",
        "." * 40,
        "A" * 10_000,
    ]
    fuzz += ["".join(rng.choices("ABCDa. ", k=rng.randint(0, 3))) for _ in range(500)]
    for text in (*fuzz, "A", "B", "E"):
        verdict = BENCH.judge(sample, text)
        assert verdict.score == (text == "A")
        assert verdict.parsed == (text if text in ["A", "B", "C", "D"] else "")
        assert verdict.extra["unparsed"] == (verdict.parsed == "")


def test_build_gives_llavas_file(data: Path) -> None:
    ((path, rows),) = BENCH.build(data).items()
    assert path == data / "seed_bench" / "llava-seed-bench.jsonl"
    assert rows == [json.loads(line) for line in path.read_text().splitlines()]
    assert list(rows[0]) == ["image", "text", "category", "question_id"]
    assert (rows[3]["image"], rows[3]["question_id"]) == ("SEED-Bench-video-image/10_v1.png", "v1")
    assert (rows[0]["question_id"], rows[0]["category"]) == (101, "Instances Counting")


def test_upload(tmp_path: Path) -> None:
    (path,) = BENCH.export(BENCH.load(FIXTURES), ["A", "B", "C", "D", "no\nletter", "A"], tmp_path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"question_id": "101", "prediction": "A"},
        {"question_id": "102", "prediction": "B"},
        {"question_id": "57", "prediction": "C"},
        {"question_id": "v1", "prediction": "D"},
        {"question_id": "v2", "prediction": "no\nletter"},
        {"question_id": "57", "prediction": "A"},
    ]


def test_llavas_answers_file_scores_the_same(tmp_path: Path) -> None:
    rows = [{"question_id": s.question_id, "prompt": s.prompt, "text": "A"} for s in reversed(BENCH.load(FIXTURES))]
    answers = tmp_path / "merge.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert content["total"]["value"] == 1 / 6
    assert content["baselines"]["always A"]["total"]["value"] == 1 / 6


def test_an_id_that_asks_the_same_twice(spoil: Callable[..., Path], tmp_path: Path) -> None:
    """Of two pictures: LLaVA's questions are then told apart by their order, and its answers likewise."""
    data = spoil(lambda c: c["questions"].__setitem__(5, c["questions"][2] | {"data_id": "1001_77", "answer": "A"}))
    ((path, rows),) = BENCH.build(data).items()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = BENCH.load(data)
    assert [sample.key for sample in samples] == ["101", "102", "57", "v1", "v2", "57#2"]
    assert samples[2].prompt == samples[5].prompt
    assert [str(samples[place].image)[-7:] for place in (2, 5)] == ["1002_78", "1001_77"]
    answers = tmp_path / "merge.jsonl"
    lines = [json.dumps({"question_id": s.question_id, "prompt": s.prompt, "text": s.targets[0]}) for s in samples]
    for found, total in ((lines, 1), ([*lines[:2], lines[5], *lines[3:5], lines[2]], 4 / 6)):
        answers.write_text("\n".join(found))
        assert score(BENCH, answers, tmp_path / "scores.json", data_root=data)["total"]["value"] == total


def test_rows_of_one_id_go_to_the_question_that_they_ask(data: Path) -> None:
    path = data / "seed_bench" / "llava-seed-bench.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(True))))
    assert [(s.key, s.prompt) for s in BENCH.load(data)] == [(s.key, s.prompt) for s in BENCH.load(FIXTURES)]


def test_rows_of_one_id_whose_last_options_begin_alike(spoil: Callable[..., Path]) -> None:
    def twins(content: dict[str, Any]) -> None:
        content["questions"][2].update(question="How many?", choice_d="Two")
        content["questions"][5].update(content["questions"][2], choice_d="Two or more")

    data = spoil(twins)
    ((path, rows),) = BENCH.build(data).items()
    rows[2], rows[5] = rows[5], rows[2]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = {sample.key: sample for sample in BENCH.load(data)}
    for key, last in (("57", "Two"), ("57#2", "Two or more")):
        assert samples[key].choices[-1] == last and f"\nD. {last}\nAnswer" in samples[key].prompt


@pytest.mark.parametrize(
    "edit",
    [
        lambda row: row.update(choice_a=row["choice_b"], choice_b=row["choice_a"], answer="B"),
        lambda row: row.update(question="Quite another question?"),
        lambda row: row.update(choice_d="Four hundred"),
        lambda row: row.update(choice_d="Fo"),
        lambda row: row.update(question="many circles are there?"),
    ],
)
def test_a_question_file_of_other_questions_is_refused(
    edit: Callable[[dict[str, Any]], object], spoil: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=r"jsonl, line 1: 'text' is .How many.*by .*questions\[0\] it must ask .*build"):
        BENCH.load(spoil(lambda content: edit(content["questions"][0])))


def test_white_space_makes_no_other_question(spoil: Callable[..., Path]) -> None:
    data = spoil(lambda content: content["questions"][1].update(question="What is  the background? "))
    assert len(BENCH.load(data)) == 6


def test_needs_name_what_is_asked_about() -> None:
    assert all(need.path.exists() for need in BENCH.needs(FIXTURES))
    assert [need.path.name for need in BENCH.needs(FIXTURES) if need.pictures] == [
        "SEED-Bench-image",
        "SEED-Bench-video-image",
    ]
    assert [need.path.name for need in get_benchmark("seed_image").needs() if need.pictures] == ["SEED-Bench-image"]


def test_a_question_file_without_videos(data: Path) -> None:
    path = data / "seed_bench" / "llava-seed-bench.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"v' not in line))
    with pytest.raises(
        UserError, match=r"lacks 2 of 6 questions .*v1 is the first.*seed_image asks only about pictures"
    ):
        BENCH.load(data)
    assert len(get_benchmark("seed_image").load(data)) == 4
    path.write_text(path.read_text() + path.read_text().splitlines(True)[0])
    with pytest.raises(UserError, match=r"line 5: SEED-Bench.json has no question of its own for question_id 101 here"):
        get_benchmark("seed_image").load(data)
    path.unlink()
    with pytest.raises(UserError, match="evaluate build seed"):
        BENCH.load(data)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("question_type"), r"SEED-Bench\.json: has no field 'question_type'"),
        (lambda c: c["questions"][1].update(answer="E"), r"questions\[1\]: 'answer' must be A, B, C or D, found 'E'"),
        (lambda c: c["questions"][1].update(question_id="101"), r"jsonl: lacks 1 of 6 .*id 101 is the first"),
        (
            lambda c: c["questions"].pop(1),
            r"jsonl, line 2: SEED-Bench\.json has no question of its own for .* 102 here",
        ),
        (
            lambda c: c["question_type"].update({"Action Prediction": [11]}),
            r"'Action Prediction' must be int, found \[11\]",
        ),
        (lambda c: c["questions"][1].update(question_type_id=77), r"questions\[1\]: question_type_id 77 has no name"),
        (lambda c: c["questions"][1].update(data_type="text"), r"'data_type' must be image or video, found 'text'"),
        (lambda c: c["questions"][1].pop("choice_c"), r"questions\[1\]: has no field 'choice_c'"),
        (lambda c: c["questions"].__setitem__(1, 5), r"questions\[1\]: expected an object, found int"),
    ],
)
def test_broken_truth(edit: Callable[[dict[str, Any]], object], message: str, spoil: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=message):
        BENCH.load(spoil(edit))


def test_types_are_in_their_numbers_order_whatever_they_are_called(spoil: Callable[..., Path]) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["question_type"]["Zebras"] = content["question_type"].pop("Scene Understanding")

    samples = BENCH.load(spoil(rename))
    scores = BENCH.aggregate(samples, [BENCH.judge(sample, "A") for sample in samples])
    assert next(iter(scores.groups)) == "Zebras"
