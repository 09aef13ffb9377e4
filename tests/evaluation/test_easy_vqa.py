"""easy-VQA: golden scores by hand on a small copy, facts of the installed package, refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS, get_benchmark
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa, group_of, read_questions
from llava_teamlora.evaluation.types import Sample

BENCH = EasyVqa()


def test_the_installed_test_split() -> None:
    samples = BENCH.load()
    assert len(samples) == len({sample.key for sample in samples}) == 9673
    assert len({sample.cluster for sample in samples}) == 1000
    assert all(sample.image is not None and sample.image.is_file() for sample in samples)
    counts = Counter(sample.group for sample in samples)
    assert counts == {"yes/no": 7136, "color": 1280, "shape": 1257}
    answers = {answer for sample in samples for answer in sample.targets}
    assert len(answers) == 13


def test_the_installed_baselines_are_the_known_floors() -> None:
    samples = BENCH.load()
    found = {}
    for name, baseline in BENCH.baselines(samples).items():
        verdicts = [BENCH.judge(sample, baseline.answers[sample.key]) for sample in samples]
        found[name] = BENCH.aggregate(samples, verdicts)
    assert found["majority"].total.value == pytest.approx(0.373, abs=5e-4)
    assert found["question-only"].total.value == pytest.approx(0.670, abs=1e-3)
    assert found["question-only"].groups["yes/no"].value == pytest.approx(0.825, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("yes", "yes"),
        (" Yes. \n", "yes"),
        ("NO", "no"),
        ("no..", "no."),
        ("yes .", "yes "),
        ("", ""),
        (".", ""),
        ("it is red", "it is red"),
        ("red\u3002", "red\u3002"),
        ("x" * 10000, "x" * 10000),
    ],
)
def test_parse(text: str, parsed: str) -> None:
    assert BENCH.parse(text) == parsed


def test_golden_scores(root: Path) -> None:
    samples = BENCH.load(root)
    texts = ["Circle.", "no", " red", "rectangle", "no", "No.", "red", "not at all"]
    verdicts = [BENCH.judge(sample, text) for sample, text in zip(samples, texts, strict=True)]
    assert [v.score for v in verdicts] == [1, 0, 1, 1, 1, 1, 0, 0]
    scores = BENCH.aggregate(samples, verdicts)
    assert (scores.total.value, scores.total.n) == (5 / 8, 8)
    values = {name: (score.value, score.n) for name, score in scores.groups.items()}
    assert values == {"yes/no": (2 / 4, 4), "color": (1 / 2, 2), "shape": (1.0, 2)}
    # Residual sums per picture: 2 - 3 * 5/8 = 1/8, 3 - 3 * 5/8 = 9/8, 0 - 2 * 5/8 = -10/8
    expected = (3 / 2 * (1 + 81 + 100) / 64) ** 0.5 / 8
    assert scores.total.stderr == pytest.approx(expected)


@pytest.mark.parametrize(
    ("group", "target", "text", "lenient"),
    [
        ("yes/no", "no", "No, there is no circle.", 1),
        ("yes/no", "no", "Yes, there is no circle.", 0),
        ("yes/no", "no", "There is not.", 0),
        ("color", "teal", "The circle is teal, not red.", 1),
        ("color", "red", "The circle is teal, not red.", 0),
        ("shape", "circle", "It is a red circle", 1),
        ("shape", "circle", "circles", 0),
        ("shape", "circle", "", 0),
    ],
)
def test_lenient_takes_the_first_word_of_the_kind(group: str, target: str, text: str, lenient: int) -> None:
    sample = Sample("k", 0, "?", (target,), group=group)
    assert BENCH.judge(sample, text).extra == {"lenient": lenient}


def test_lenient_stands_beside_the_score(root: Path) -> None:
    samples = BENCH.load(root)
    texts = ["a circle", "yes", "It is red.", "x", "no", "no", "blue", "There is no."]
    verdicts = [BENCH.judge(sample, text) for sample, text in zip(samples, texts, strict=True)]
    scores = BENCH.aggregate(samples, verdicts)
    assert (scores.total.value, scores.extra["lenient"].value) == (4 / 8, 7 / 8)


def test_baselines_by_hand(root: Path) -> None:
    baselines = BENCH.baselines(BENCH.load(root), root)
    # "no" is the commonest of the nine training answers (four times).
    assert set(baselines["majority"].answers.values()) == {"no"}
    assert "'no'" in baselines["majority"].how
    # The unseen question falls back to the commonest answer.
    assert list(baselines["question-only"].answers.values()) == [
        *("circle", "no", "red", "circle", "no", "no", "red", "no")
    ]


def test_every_answer_has_a_group() -> None:
    found = [group_of(answer) for answer in ("yes", "no", "teal", "circle")]
    assert found == ["yes/no", "yes/no", "color", "shape"]
    with pytest.raises(UserError, match="'mauve' is not an answer of easy-VQA"):
        group_of("mauve")


def test_broken_data_is_refused(root: Path) -> None:
    (root / "easy-vqa" / "test" / "questions.json").write_text('[["a", "b"]]')
    with pytest.raises(UserError, match=r"questions\.json: is not a list of \[question, answer"):
        BENCH.load(root)
    with pytest.raises(UserError, match="cannot be read .* is .* easy-vqa's data folder"):
        read_questions(root / "nowhere", "test")


def test_needs_name_what_is_read(root: Path) -> None:
    found = {need.path.relative_to(root).as_posix(): need.pictures for need in BENCH.needs(root)}
    assert found == {
        "easy-vqa/test/questions.json": False,
        "easy-vqa/train/questions.json": False,
        "easy-vqa/test/images": True,
    }
    assert all(need.path.exists() for need in BENCH.needs(root) + BENCH.needs())


def test_registry() -> None:
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())
    with pytest.raises(UserError, match="'easy_vqq' is not a benchmark .* did you mean 'easy_vqa'"):
        get_benchmark("easy_vqq")
