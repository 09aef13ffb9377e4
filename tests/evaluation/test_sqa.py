"""ScienceQA: the committed fixture with scores worked out by hand, LLaVA's parse stated again, its file, refusals."""

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
from llava_teamlora.evaluation.benchmarks.sqa import parse
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Scores

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = get_benchmark("sqa")
SUFFIX = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may spoil."""
    shutil.copytree(FIXTURES / "scienceqa", tmp_path / "eval" / "scienceqa")
    return tmp_path / "eval"


@pytest.fixture
def spoil(data: Path) -> Callable[..., Path]:
    """Edit one of its JSON files in place."""

    def change(name: str, edit: Callable[[Any], object]) -> Path:
        path = data / "scienceqa" / name
        content = json.loads(path.read_text(encoding="utf-8"))
        edit(content)
        path.write_text(json.dumps(content))
        return data

    return change


def scores_of(texts: list[str]) -> Scores:
    samples = BENCH.load(FIXTURES)
    return BENCH.aggregate(samples, [BENCH.judge(s, text) for s, text in zip(samples, texts, strict=True)])


def test_samples() -> None:
    samples = {sample.key: sample for sample in BENCH.load(FIXTURES)}
    assert list(samples) == ["4", "5", "11", "26", "42"]
    text_only = samples["4"]
    assert (text_only.image, text_only.llava_prompt, text_only.targets) == (None, None, ("B",))
    lines = ("Which figure of speech is used?", "The wind sang.", "\u2014made up", "A. simile", "B. personification")
    assert text_only.prompt == "\n".join(lines) + SUFFIX
    pictured = samples["5"]
    # LLaVA's file has one space where ScienceQA has two.
    assert pictured.prompt == (
        "Context: A red shape is shown.\nThe shape has no corners.\nWhat shape is shown?\n"
        "A. a square\nB. a circle\nC. a triangle" + SUFFIX
    )
    assert pictured.llava_prompt == f"<image>\n{pictured.prompt}"
    assert pictured.image == FIXTURES / "scienceqa" / "images" / "test" / "5" / "image.png"
    assert len(samples["42"].choices) == 5 and samples["42"].targets == ("E",)
    assert samples["26"].prompt.startswith("Context: Select the better estimate.\nHow long")


def test_golden_scores() -> None:
    # Questions 4 (LAN, nothing in the context, grade 7), 5 (NAT, text and image, 1), 11 (SOC, image, 3),
    # 26 (NAT, text, 2), 42 (NAT, text and image, 8). Right: 4, 5, 42; D of 26 is beyond its two options.
    scores = scores_of(["The answer is B.", "B. a circle", "A", "D", "E"])
    values = {name: (score.value, score.n) for name, score in scores.groups.items()}
    assert values == {
        "NAT": (2 / 3, 3),
        "SOC": (0.0, 1),
        "LAN": (1.0, 1),
        "TXT": (2 / 3, 3),
        "IMG": (2 / 3, 3),
        "NO": (1.0, 1),
        "G1-6": (1 / 3, 3),
        "G7-12": (1.0, 2),
    }
    assert scores.total == scores.groups["IMG"]
    assert {name: score.value for name, score in scores.extra.items()} == {"all": 3 / 5, "unparsed": 1 / 5}
    # Residuals of three questions: 1/3, 1/3, -2/3
    assert scores.total.stderr == pytest.approx((3 / 2 * 6 / 9) ** 0.5 / 3)


def test_no_picture_no_total() -> None:
    samples = BENCH.load(FIXTURES)[:1]
    with pytest.raises(UserError, match="none of the 1 answered questions has a picture"):
        BENCH.aggregate(samples, [BENCH.judge(samples[0], "B")])


def official_says(text: str) -> str:
    """The parse of eval_science_qa.py, stated again without a pattern."""
    options = ["A", "B", "C", "D", "E"]
    if options.count(text):
        return text
    if any(text.startswith(f"{option}. ") for option in options):
        return text[0]
    stated, start = [], 0
    while (place := text.find("The answer is ", start)) >= 0:
        end = place + len("The answer is ")
        letter, then = text[end : end + 1], text[end + 1 : end + 2]
        # What stands after the letter belongs to the match: any character but a line end.
        found = "A" <= letter <= "Z" and then not in ("", "\n")
        stated += [letter] if found else []
        start = end + 2 if found else place + 1
    return stated[0] if len(stated) == 1 else ""


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("E", "E"),
        ("F", ""),
        ("A.", ""),
        ("A. cat", "A"),
        ("A.cat", ""),
        ("(B)", ""),
        ("a", ""),
        ("The answer is C.", "C"),
        ("The answer is C", ""),
        ("The answer is C, since", "C"),
        ("The answer is A. The answer is B.", ""),
        ("So: The answer is Zebra", "Z"),
        ("the answer is C.", ""),
        ("", ""),
        ("\n", ""),
        ("NO", ""),
        ("Yes.", ""),
        ("ABC", ""),
        ("\uff21", ""),
        ("A\u3002", ""),
        ("." * 40, ""),
        ("x" * 10_000, ""),
        ("x" * 10_000 + "The answer is D.", "D"),
    ],
)
def test_parse(text: str, letter: str) -> None:
    assert parse(text) == official_says(text) == letter


def test_fuzzed_answers_are_read_as_officially() -> None:
    rng = random.Random(1)
    parts = ("A", "B", "E", "F", ". ", ".", " ", "The answer is ", "the answer is ", "cat", "\n", "(", "")
    texts = ["".join(rng.choices(parts, k=rng.randint(0, 5))) for _ in range(20_000)]
    assert [parse(text) for text in texts] == [official_says(text) for text in texts]
    assert sum(bool(parse(text)) for text in texts) > 1_000


def test_build_gives_llavas_file(data: Path) -> None:
    ((path, rows),) = BENCH.build(data).items()
    assert path == data / "scienceqa" / "llava_test_CQM-A.json"
    assert rows == json.loads(path.read_text(encoding="utf-8"))
    assert rows[2] == {
        "id": "11",
        "image": "11/image.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat color is it?\nA. red\nB. green\nC. blue\nD. white"},
            {"from": "gpt", "value": "C"},
        ],
    }
    assert list(rows[0]) == ["id", "conversations"]


def test_export_for_the_official_tool(tmp_path: Path) -> None:
    (path,) = BENCH.export(BENCH.load(FIXTURES), ["B", "C. x", "none", "D", "E"], tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["results"] == {"4": 1, "5": 2, "11": -1, "26": -1, "42": 4}
    assert content["outputs"]["11"] == "none"


def test_llavas_answers_file_scores_the_same(tmp_path: Path) -> None:
    samples = BENCH.load(FIXTURES)
    rows = [{"question_id": s.key, "prompt": s.llava_prompt or s.prompt, "text": s.targets[0]} for s in samples]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert (content["total"]["value"], content["total"]["n"]) == (1.0, 3)
    # Always A: only question 26, which has no picture.
    always = content["baselines"]["always A"]
    assert (always["total"]["value"], always["extra"]["all"]["value"]) == (0.0, 1 / 5)


def as_the_converter_writes(rows: Any) -> None:
    text = "Question: Which figure of speech is used?\nThe wind sang.\n\u2014made up\nContext: N/A\nOptions: "
    rows[0]["conversations"][0]["value"] = f"{text}(A) simile (B) personification\n"


def one_option_more(rows: Any) -> None:
    rows[1]["conversations"][0]["value"] += "\nD. something else"


def another_question_first(rows: Any) -> None:
    turn = rows[2]["conversations"][0]
    turn["value"] = turn["value"].replace("What color", "Which is it?\nWhat color")


QUESTIONS, PROBLEMS, SPLITS = "llava_test_CQM-A.json", "problems.json", "pid_splits.json"


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            QUESTIONS,
            lambda rows: rows.pop(1),
            r"CQM-A\.json: lacks 1 of the 5 questions .*\(5 is the first\).*build sqa",
        ),
        (QUESTIONS, lambda rows: rows.append(rows[0]), r"index 5: id '4' stands twice"),
        (QUESTIONS, lambda rows: rows[0].update(id="1"), r"index 0: id '1' is not in the test split"),
        (QUESTIONS, lambda rows: rows[0].update(image="4/image.png"), r"index 0: whether '4' has a picture is not as"),
        (QUESTIONS, lambda rows: rows[1].pop("image"), r"index 1: whether '5' has a picture is not as"),
        (QUESTIONS, lambda rows: rows[0].update(conversations=[]), r"index 0, conversations\[0\]: expected an object"),
        (PROBLEMS, lambda all_: all_.pop("11"), r"problems\.json: lacks 1 of the 5 questions .*\(11 is the first\)"),
        (PROBLEMS, lambda all_: all_["4"].update(answer=2), r"problems\.json, '4': 'answer' must be the number of one"),
        (PROBLEMS, lambda all_: all_["4"].update(answer=-1), r"'answer' must be the number of one of 2 options"),
        (PROBLEMS, lambda all_: all_["4"].update(choices=["x"]), r"'4': 'choices' must be 2 to 5 texts"),
        (PROBLEMS, lambda all_: all_["4"].pop("hint"), r"'4': has no field 'hint'"),
        (
            PROBLEMS,
            lambda all_: all_["5"].update(grade="first"),
            r"'5': 'grade' must be grade1 to grade12, found 'first'",
        ),
        (PROBLEMS, lambda all_: all_["5"].update(grade="grade13"), r"'5': 'grade' must be .*, found 'grade13'"),
        (
            PROBLEMS,
            lambda all_: all_["5"].update(question="What is it?"),
            r"index 1: the prompt .*does not ask .*'5' has",
        ),
        (PROBLEMS, lambda all_: all_["5"]["choices"].reverse(), r"index 1: the prompt .*does not ask .*'5' has"),
        (QUESTIONS, as_the_converter_writes, r"index 0: the prompt .*'4' has .*convert_sqa_to_llava\.py writes other"),
        (QUESTIONS, one_option_more, r"index 1: the prompt .*something else.*does not ask .*'5' has"),
        (QUESTIONS, another_question_first, r"index 2: the prompt .*Which is it.*does not ask .*'11' has"),
        (SPLITS, lambda splits: splits["test"].append(["4"]), r"'test' must hold ids as texts, found \['4'\]"),
        (SPLITS, lambda splits: splits.pop("test"), r"pid_splits\.json: has no field 'test'"),
    ],
)
def test_broken_files(name: str, edit: Callable[[Any], object], message: str, spoil: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=message):
        BENCH.load(spoil(name, edit))


def test_without_the_question_file(data: Path) -> None:
    (data / "scienceqa" / QUESTIONS).unlink()
    with pytest.raises(UserError, match="evaluate build sqa"):
        BENCH.load(data)
    assert len(next(iter(BENCH.build(data).values()))) == 5
