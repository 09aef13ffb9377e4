"""IMDB, ANLI, QQP, RTE, WinoGrande, ARC, MMLU: their prompts, scores by hand, and broken files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cme_fixtures import FIXTURES, of_fixture, task

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS, SETS, spelled_out
from llava_teamlora.evaluation.cme.mmlu import CATEGORY_OF
from llava_teamlora.evaluation.cme.task import TextTask
from llava_teamlora.evaluation.types import Sample, Scores

SEVEN = ("imdb", "anli", "qqp", "rte", "winogrande", "arc", "mmlu")
every = pytest.mark.parametrize("name", SEVEN)


def scored(name: str, *texts: str) -> Scores:
    """Of answers to the fixture's questions."""
    samples = task(name).load(FIXTURES)
    verdicts = [task(name).judge(sample, text) for sample, text in zip(samples, texts, strict=True)]
    return task(name).aggregate(samples, verdicts)


@every
def test_instructions(name: str) -> None:
    """Of our own, all different, and each names the labels where they are words."""
    ways = (task(name).instruction, *task(name).paraphrases)
    assert 7 <= len(ways) == len(set(ways)) and all(way.strip() == way and "\n" not in way for way in ways)
    if labels := getattr(task(name), "labels", ()):
        assert all(label in way for way in ways for label in labels)


@every
def test_prompts_and_candidates(name: str) -> None:
    for item, sample in zip(of_fixture(name), task(name).load(FIXTURES), strict=True):
        assert sample.prompt == f"{task(name).instruction}\n{item.input}"
        assert sample.targets == item.answers and len(item.answers) == 1 and item.answers[0] in sample.candidates
        assert all(text in item.input for text in item.texts) and not any("Sentence 1" in text for text in item.texts)


def test_the_authors_forms() -> None:
    """As their train_example.json has them."""
    first = {name: of_fixture(name)[0].input for name in SEVEN}
    assert first["rte"] == (
        "Sentence 1: The ferry to Orrin, which carries 40 cars, was out of service on Friday.\n"
        "Sentence 2: The ferry to Orrin did not run on Friday."
    )
    assert first["anli"].startswith("Sentence 1: The Old Mill") and "\nSentence 2: The mill's wheel" in first["anli"]
    assert first["qqp"] == "Text 1: How do I oil a wooden spoon?\nText 2: What is the way to oil spoons of wood?"
    assert first["winogrande"] == (
        "Sentence: 'The rug would not go into the drawer because the _ was too wide.'\n"
        "Option A: 'rug'\nOption B: 'drawer'"
    )
    assert first["arc"] == (
        "Question: Which of these floats on water?\nChoices: A.a cork, B.a coin, C.a brick, D.a nail"
    )
    assert first["mmlu"] == "Question: What is 7 + 5?\nChoices: A.10, B.11, C.12, D.13"


def test_golden_scores_of_labels() -> None:
    # neg0 pos0 neg1 pos1 pos2: 3 of 5; the last names no label.
    scores = scored("imdb", "negative", "Positive.", "positive", "positive, and how", "great")
    assert scores.total.value == pytest.approx(3 / 5) and scores.extra["unparsed"].value == pytest.approx(1 / 5)
    # Three films: neg0, pos0 and pos1 are of one, all right, 2/5 above the mean; neg1 and pos2 are wrong, 3/5 below:
    # u = 6/5, -3/5, -3/5; sqrt(3/2 * (36 + 9 + 9) / 25) / 5 = sqrt(3.24) / 5 = 0.36.
    assert scores.total.stderr == pytest.approx(0.36)
    # R1 e right, c wrong; R2 n right; R3 c right, n nothing.
    scores = scored("anli", "entailment", "neutral", "neutral", "Contradiction", "it is unclear")
    assert {group: score.value for group, score in scores.groups.items()} == {"R1": 0.5, "R2": 1.0, "R3": 0.5}
    assert scores.total.value == pytest.approx(3 / 5) and scores.extra["unparsed"].value == pytest.approx(1 / 5)
    # Truth d n d n. One pair found, one called so wrongly, one missed: F1 = 2 / (2 + 1 + 1); right are 1 and 4.
    scores = scored("qqp", "duplicate", "duplicate", "not duplicate", "not_duplicate")
    assert scores.total.value == pytest.approx(2 / 4) and scores.extra["F1"].value == pytest.approx(0.5)
    scores = scored("rte", "entailment", "entailment", "not entailment")
    assert scores.total.value == pytest.approx(2 / 3)
    # Residuals 1/3, -2/3 | 1/3: two clusters of u = -1/3, 1/3: sqrt(2 * 2/9) / 3 = 2/9.
    assert scores.total.stderr == pytest.approx(2 / 9)


def test_golden_scores_of_letters() -> None:
    # Truth A B | A: the twins one right, one wrong, the other right by its option's text.
    scores = scored("winogrande", "A", "A", "Mira")
    assert scores.total.value == pytest.approx(2 / 3) and scores.total.stderr == pytest.approx(2 / 9)
    # Truth A C B easy, B A challenge. "D" is not among three options.
    scores = scored("arc", "A", "water", "D", "b", "E")
    assert {group: score.value for group, score in scores.groups.items()} == {
        "easy": pytest.approx(2 / 3),
        "challenge": 0.5,
    }
    assert scores.total.value == pytest.approx(3 / 5) and scores.extra["unparsed"].value == pytest.approx(2 / 5)
    # Truth C C (mathematics, STEM), B (logic, humanities), A (geography, social sciences), B (nutrition, other).
    scores = scored("mmlu", "C", "A", "B", "C", "cucumber")
    values = {name: score.value for name, score in scores.extra.items()}
    assert values == pytest.approx(
        {"STEM": 0.5, "humanities": 1.0, "social sciences": 0.0, "other": 1.0, "macro": 2.5 / 4, "unparsed": 0.0}
    )
    assert scores.total.value == pytest.approx(3 / 5) and scores.extra["macro"].n == 5
    assert list(scores.groups) == ["elementary_mathematics", "formal_logic", "high_school_geography", "nutrition"]


def test_f1_of_pairs_that_nobody_found() -> None:
    assert "F1" in scored("qqp", *["not duplicate"] * 4).extra  # two were missed: 0
    samples = [Sample(str(n), n, "p", ("not duplicate",)) for n in range(2)]
    verdicts = [task("qqp").judge(sample, "not duplicate") for sample in samples]
    assert "F1" not in task("qqp").aggregate(samples, verdicts).extra  # nothing to find, nothing found


def test_mmlu_macro_has_the_error_of_its_subjects(tmp_path: Path) -> None:
    # Two subjects of four questions, 2 and 3 right: s = sqrt(1/3) / 2, 1/4 -> sqrt(1/12 + 1/16) / 2.
    samples = [
        Sample(f"{subject}/{n}", n, "p", ("A",), group=subject, choices=("x", "y"))
        for subject in ("anatomy", "virology")
        for n in range(4)
    ]
    verdicts = [task("mmlu").judge(sample, text) for sample, text in zip(samples, "AABBAAAB", strict=True)]
    macro = task("mmlu").aggregate(samples, verdicts).extra["macro"]
    assert macro.value == pytest.approx(5 / 8) and macro.stderr == pytest.approx((1 / 12 + 1 / 16) ** 0.5 / 2)


def test_mmlu_subjects() -> None:
    """57 in the original's four categories."""
    counts = {name: list(CATEGORY_OF.values()).count(name) for name in task("mmlu").headline or ()}
    assert counts == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14, "macro": 0, "unparsed": 0}


BROKEN: list[tuple[str, str, str, str]] = [
    ("rte", "RTE/dev.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n", "line 2: has no field 'label', its label"),
    ("rte", "RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tyes\n", "must be one of 0, 1, '0'"),
    ("rte", "RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t-1\n", "has no label"),
    ("qqp", "QQP/dev.tsv", "id\tquestion1\tis_duplicate\n0\ta\t1\n", "line 2: has no field 'question2'"),
    ("anli", "anli_v1.0/R1/test.jsonl", '{"uid": "a", "context": "b", "hypothesis": "c"}', "has no field 'label'"),
    ("anli", "anli_v1.0/R1/test.jsonl", '{"uid": "a", "context": "b", "label": "e"}', "has no field 'hypothesis'"),
    (
        "winogrande",
        "winogrande_1.1/dev.jsonl",
        '{"qID": "a-1", "sentence": "_", "option1": "x", "option2": "y"}',
        "line 1: has no 'answer'",
    ),
    (
        "winogrande",
        "winogrande_1.1/dev.jsonl",
        '{"qID": "a-1", "sentence": "_", "option1": "x", "option2": "y", "answer": "3"}',
        "'answer' must be '1' or '2', found '3'",
    ),
    (
        "arc",
        "ARC-Easy-Test.jsonl",
        '{"id": "1", "question": {"stem": "s", "choices": [{"text": "x", "label": "A"}]}, "answerKey": "A"}',
        "line 1: has 1 choices",
    ),
    (
        "arc",
        "ARC-Easy-Test.jsonl",
        '{"id": "1", "question": "s", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}',
        "has 2 texts and 1 labels",
    ),
    (
        "arc",
        "ARC-Easy-Test.jsonl",
        '{"id": "1", "question": "s", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "3"}',
        r"'answerKey' '3' is no choice's label \(A, B\)",
    ),
    (
        "arc",
        "ARC-Easy-Test.jsonl",
        '{"id": "1", "question": "s", "choices": {"text": ["x", "y"], "label": ["A", "B"]}}',
        "has no 'answerKey'",
    ),
    ("mmlu", "data/test/anatomy_test.csv", "q,a,b,c,d,answer\n", "'answer' must be A, B, C or D, found 'answer'"),
    ("mmlu", "data/test/anatomy_test.csv", "q,a,b,c,A\n", r"line 1: has 5 fields, expected 6"),
    ("mmlu", "data/test/anatomy_test.csv", "q,a,b,c,d,A\n", r"lacks 56 of 57 subjects \(abstract_algebra"),
    ("mmlu", "data/test/cookery_test.csv", "q,a,b,c,d,A\n", "subject of 'test/cookery/0' is no subject of MMLU's"),
    (
        "anli",
        "anli_v1.0/R1/test.jsonl",
        '{"uid": "a", "context": "b", "hypothesis": "c", "label": "e"}\n' * 2,
        "line 2: 'a' stands twice in the test split of round 1",
    ),
    ("imdb", "aclImdb/test/pos/x_9.txt", "fine", "aclImdb/test/neg: no such folder"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BROKEN)
def test_what_is_broken_is_told(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        task(name).load(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_reviews_must_be_named_as_reviews(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "imdb", tmp_path / "imdb")
    (tmp_path / "imdb/aclImdb/test/pos/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: reviews are named <id>_<rating>\.txt"):
        task("imdb").load(tmp_path)


@every
def test_what_is_missing_is_told(name: str, tmp_path: Path) -> None:
    """With every edition that would do, and from where."""
    with pytest.raises(UserError, match="no such file") as caught:
        task(name).load(tmp_path)
    source = task(name).tests[0]
    assert all(path in str(caught.value) for path in source.paths) and source.origin in str(caught.value)


def test_a_file_of_a_missing_set_is_named_by_the_commands(
    tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``cme`` is all or nothing: what lacks is listed, and nothing is answered."""
    shutil.copytree(FIXTURES / "arc", tmp_path / "arc")
    flags = ["--data_root", str(tmp_path)]
    assert main(["evaluate", "run", "cme", "--model", tiny, "--out", str(tmp_path / "out"), *flags]) == 1
    said = capsys.readouterr().err
    assert all(f"evaluate check {name} --data_root" in said for name in SETS["cme"] if name != "arc")
    assert "evaluate check arc" not in said and not (tmp_path / "out").exists()
    assert main(["evaluate", "check", "cme", *flags]) == 1
    assert "1 of 11 ready" in capsys.readouterr().out


def test_cme_stands_for_the_eleven() -> None:
    assert len(SETS["cme"]) == 11 and all(isinstance(BENCHMARKS[name], TextTask) for name in SETS["cme"])
    assert spelled_out(["mme", "cme", "imdb"]) == ["mme", *SETS["cme"]]
    assert {name for name, found in BENCHMARKS.items() if isinstance(found, TextTask)} == set(SETS["cme"])
