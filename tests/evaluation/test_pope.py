"""POPE: the committed fixture with scores worked out by hand, the official parse and scorer stated again, refusals."""

from __future__ import annotations

import json
import random
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.benchmarks.pope import CATEGORIES, Pope
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Sample, Scores

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = Pope()

FUZZ = (
    *("Yes", "No", "yes", "no", "Yes.", "No.", "NO", "no!", "", "\n", "No\nbecause", " no", "No, there is not"),
    *("Well. no", "not", "nothing", "No,", "no,thing", "(B)", "A. cat", "\uff2e\uff4f", "\u5426\u3002no", "no\tdog"),
    *("." * 40 + "no", "no" + "." * 40, "a, not, b", "N.o", "x" * 10_000, "x " * 5_000 + "no", "Yes, not sure"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may spoil."""
    root = tmp_path / "eval"
    shutil.copytree(FIXTURES / "pope", root / "pope")
    return root


def right(sample: Sample) -> str:
    return sample.targets[0].capitalize()


def scores_of(samples: Sequence[Sample], texts: Sequence[str]) -> Scores:
    return BENCH.aggregate(samples, [BENCH.judge(s, text) for s, text in zip(samples, texts, strict=True)])


def official_says(text: str) -> str:
    """The official parse, stated again: of what comes before the first period, commas out, the words between spaces."""
    end = text.find(".")
    first = text if end < 0 else text[:end]
    padded = f" {''.join(letter for letter in first if letter != ',')} "
    return "no" if any(f" {word} " in padded for word in ("No", "not", "no")) else "yes"


@pytest.mark.parametrize("text", FUZZ)
def test_parse_is_the_official_one(text: str) -> None:
    assert BENCH.parse(text) == official_says(text)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        *(("NO", "yes"), ("no!", "yes"), ("", "yes"), ("No\nbecause", "yes"), ("Well. no", "yes"), ("nothing", "yes")),
        *(("No", "no"), ("no, never", "no"), ("I do not know.", "no"), ("Yes, not sure", "no"), (" no", "no")),
    ],
)
def test_parse_by_hand(text: str, parsed: str) -> None:
    assert BENCH.parse(text) == parsed


def test_the_fixture_loads_in_its_order() -> None:
    samples = get_benchmark("pope").load(FIXTURES)
    # 12 adversarial, 11 random (as LLaVA's edition has fewer), 12 popular.
    assert [sample.group for sample in samples] == ["adversarial"] * 12 + ["random"] * 11 + ["popular"] * 12
    assert len({sample.key for sample in samples}) == len({sample.question_id for sample in samples}) == 35
    assert samples[1].key == "adversarial/COCO_val2014_000000000001.jpg/Is there an apple in the image?"
    assert samples[1].prompt == ("Is there an apple in the imange?\nAnswer the question using a single word or phrase.")
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in samples)
    assert len({sample.cluster for sample in samples}) == 3


def golden(samples: Sequence[Sample]) -> list[str]:
    """All right, but: random one yes missed and one "NO"; popular two yes missed; adversarial two yes too many."""
    wrong = {("random", "yes"): ["No."], ("random", "no"): ["NO"], ("popular", "yes"): ["No", "not"]}
    wrong[("adversarial", "no")] = ["Yes", ""]
    return [(wrong.get((s.group, s.targets[0])) or [right(s)]).pop() for s in samples]


def test_golden_scores() -> None:
    samples = BENCH.load(FIXTURES)
    found = scores_of(samples, golden(samples))
    # Truths: 6 yes a category; 5 no in random, else 6. (TP, FP, TN, FN): random 5 1 4 1, popular 4 0 6 2,
    # adversarial 6 2 4 0. F1 = 2 TP / (2 TP + FP + FN): 10/12, 8/10, 12/14.
    assert {name: group.value for name, group in found.groups.items()} == pytest.approx(
        {"random": 10 / 12, "popular": 8 / 10, "adversarial": 12 / 14}
    )
    assert list(found.groups) == list(CATEGORIES)
    assert found.total.value == pytest.approx((10 / 12 + 8 / 10 + 12 / 14) / 3)
    assert (found.total.n, found.total.maximum) == (35, 100)
    expected = {
        "random": (9 / 11, 5 / 6, 5 / 6, 6 / 11),
        "popular": (10 / 12, 1, 4 / 6, 4 / 12),
        "adversarial": (10 / 12, 6 / 8, 1, 8 / 12),
    }
    for place, name in enumerate(("accuracy", "precision", "recall", "yes ratio")):
        for category in CATEGORIES:
            assert found.extra[f"{category} {name}"].value == pytest.approx(expected[category][place])
        assert found.extra[name].value == pytest.approx(sum(row[place] for row in expected.values()) / 3)


def mean_f1(rows: Sequence[tuple[Sample, str]]) -> float:
    """From the definition: precision and recall of "yes" a category."""
    found = []
    for category in CATEGORIES:
        pairs = [(s.targets[0], official_says(text)) for s, text in rows if s.group == category]
        hits = pairs.count(("yes", "yes"))
        precision = hits / sum(said == "yes" for _, said in pairs)
        recall = hits / sum(truth == "yes" for truth, _ in pairs)
        found.append(2 * precision * recall / (precision + recall))
    return sum(found) / 3


def test_standard_error_by_leaving_each_photograph_out() -> None:
    samples = BENCH.load(FIXTURES)
    rows = list(zip(samples, golden(samples), strict=True))
    photographs = sorted({sample.cluster for sample in samples})
    without = [mean_f1([row for row in rows if row[0].cluster != photograph]) for photograph in photographs]
    # Jackknife of three: sqrt(2/3 * sum of squares) = sqrt(2/3 * 2 * variance).
    expected = (2 / 3 * 2 * statistics.variance(without)) ** 0.5
    found = scores_of(samples, [text for _, text in rows])
    assert found.total.stderr == pytest.approx(expected)
    assert expected > 0.01


def test_standard_error_agrees_with_a_bootstrap_over_photographs() -> None:
    rng = random.Random(1)
    photographs: list[list[tuple[Sample, str]]] = []
    for number in range(80):
        skill = rng.uniform(0.5, 1)
        rows = []
        for category in CATEGORIES:
            for place in range(4):
                truth = "yes" if place < 2 else "no"
                key = f"{category}/{number}/{place}"
                sample = Sample(key, key, "", (truth,), group=category, cluster=str(number))
                rows.append((sample, truth if rng.random() < skill else "no" if truth == "yes" else "yes"))
        photographs.append(rows)
    rows = [row for photograph in photographs for row in photograph]
    found = scores_of([sample for sample, _ in rows], [text for _, text in rows])
    drawn = [[row for photograph in rng.choices(photographs, k=80) for row in photograph] for _ in range(300)]
    assert found.total.stderr == pytest.approx(statistics.stdev(map(mean_f1, drawn)), rel=0.12)


def test_a_model_that_never_says_yes_is_scored() -> None:
    # The official tool stops at a division by zero: precision 0 / 0. Here F1 = 0 / (0 + 0 + 6) = 0.
    samples = BENCH.load(FIXTURES)
    answers = BENCH.baselines(samples)["always no"].answers
    found = scores_of(samples, [answers[sample.key] for sample in samples])
    assert (found.total.value, found.extra["precision"].value, found.extra["yes ratio"].value) == (0, 0, 0)
    assert found.extra["popular accuracy"].value == 0.5


def test_always_yes() -> None:
    samples = BENCH.load(FIXTURES)
    answers = BENCH.baselines(samples)["always yes"].answers
    found = scores_of(samples, [answers[sample.key] for sample in samples])
    # Recall 1, precision 6/11 or 6/12: F1 12/17, 12/18, 12/18.
    assert found.total.value == pytest.approx((12 / 17 + 12 / 18 + 12 / 18) / 3)
    assert found.extra["yes ratio"].value == 1


def test_a_part_counts_the_categories_that_have_a_yes() -> None:
    samples = BENCH.load(FIXTURES)
    one = scores_of(samples[:1], ["Yes"])
    assert (one.total.value, one.total.stderr, list(one.groups)) == (1, None, ["adversarial"])
    two = scores_of([samples[0], samples[13]], ["Yes", "No"])  # the second, of random, has the truth no
    assert (list(two.groups), two.total.n) == (["adversarial"], 1)
    with pytest.raises(UserError, match="F1 needs a question whose truth is yes"):
        scores_of(samples[1:2], ["Yes"])


@pytest.mark.parametrize("seed", range(5))
def test_the_official_tool_gives_our_scores_to_our_export(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    samples = BENCH.load(FIXTURES)
    rng.shuffle(samples)
    texts = [rng.choice((*FUZZ, right(sample), right(sample))) for sample in samples]
    found = scores_of(samples, texts)
    for category, path in zip(CATEGORIES, BENCH.export(samples, texts, tmp_path), strict=True):
        answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        truth_path = FIXTURES / "pope" / "coco" / f"coco_pope_{category}.json"
        truths = [json.loads(line) for line in truth_path.read_text(encoding="utf-8").splitlines()]
        assert [row["question"] for row in answers] == [row["text"] for row in truths]
        # The official tool joins by position alone, and counts.
        pairs = [(row["label"], official_says(a["answer"])) for row, a in zip(truths, answers, strict=True)]
        hits = pairs.count(("yes", "yes"))
        precision, recall = hits / sum(said == "yes" for _, said in pairs), hits / 6
        assert found.groups[category].value == pytest.approx(2 * precision * recall / (precision + recall))
        assert found.extra[f"{category} yes ratio"].value == sum(said == "yes" for _, said in pairs) / len(pairs)


def test_build_gives_the_published_rows_in_their_order() -> None:
    path = FIXTURES / "pope" / "llava_pope_test.jsonl"
    built = BENCH.build(FIXTURES)
    assert "".join(json.dumps(row) + "\n" for row in built[path]) == path.read_text(encoding="utf-8")
    # LLaVA's ids: the official ones; 10,000,000 more in random, 20,000,000 more in popular.
    assert [row["question_id"] for row in built[path]][::11] == [1, 12, 10_000_011, 20_000_011]


def test_scores_an_answers_file_of_llava(tmp_path: Path) -> None:
    samples = BENCH.load(FIXTURES)
    rows = [
        {"question_id": s.question_id, "prompt": s.prompt, "text": text, "answer_id": "x"}
        for s, text in zip(samples, golden(samples), strict=True)
    ]
    random.Random(0).shuffle(rows)
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert found["total"]["value"] == pytest.approx((10 / 12 + 8 / 10 + 12 / 14) / 3)
    assert set(found["baselines"]) == {"always yes", "always no"}


def edit(path: Path, change: Callable[[list[str]], object]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_mended_typo_still_joins(data: Path) -> None:
    path = data / "pope" / "coco" / "coco_pope_random.json"
    path.write_text(path.read_text(encoding="utf-8").replace("imange", "image"), encoding="utf-8")
    assert [sample.key for sample in BENCH.load(data)] == [sample.key for sample in BENCH.load(FIXTURES)]


def test_another_edition_is_refused_and_both_are_named(data: Path) -> None:
    newer = {"question_id": 12, "image": "COCO_val2014_000000000003.jpg", "text": "Is there a fox in the image?"}
    random_truths = data / "pope" / "coco" / "coco_pope_random.json"
    edit(random_truths, lambda lines: lines.append(json.dumps({**newer, "label": "no"})))
    message = (
        r"has 11 random questions, .*coco_pope_random\.json has 12: 1 of the truths are not asked \(first: COCO_val"
        r"2014_000000000003\.jpg Is there a fox in the image\?\).*2910 random questions; newer ones have 3000"
        r".*evaluate build pope"
    )
    with pytest.raises(UserError, match=message):
        BENCH.load(data)
    ((path, rows),) = BENCH.build(data).items()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert len(BENCH.load(data)) == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(0), r"has 11 adversarial questions, .*has 12: 1 of the truths are not asked"),
        (lambda lines: lines.append(lines[0]), r"has 13 adversarial questions, .*has 12: 1 are asked twice"),
        (
            lambda lines: lines.append(lines[0].replace("circle", "cow")),
            r"1 have no truth \(first: COCO\S+ Is there a cow",
        ),
        (lambda lines: lines.append(lines[0].replace("adv", "Adv")), r"line 36: 'category' 'Adversarial' is none of"),
        (lambda lines: lines.append('{"category": "random", "image": 1}'), r"line 36: 'image' must be str, found 1"),
        (lambda lines: lines.append("[]"), r"line 36: expected an object, found list"),
    ],
)
def test_questions_that_do_not_fit_are_refused(data: Path, change: Callable[[list[str]], object], message: str) -> None:
    edit(data / "pope" / "llava_pope_test.jsonl", change)
    with pytest.raises(UserError, match=message):
        BENCH.load(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.append(lines[0]), r"popular\.json, line 13: asks 'Is there a circle.* again"),
        (lambda lines: lines.append(lines[0].replace('"yes"', '"Yes"')), r"line 13: 'label' must be 'yes' or 'no'"),
        (lambda lines: lines.append('{"image": "a", "text": "b"}'), r"line 13: has no field 'label'"),
    ],
)
def test_broken_truths_are_refused(data: Path, change: Callable[[list[str]], object], message: str) -> None:
    edit(data / "pope" / "coco" / "coco_pope_popular.json", change)
    with pytest.raises(UserError, match=message):
        BENCH.load(data)


def test_needs_are_the_fixture_s_files(data: Path) -> None:
    assert all(need.path.exists() for need in BENCH.needs(FIXTURES))
    assert [need.built for need in BENCH.needs()] == [True, False, False, False, False]
    (data / "pope" / "coco" / "coco_pope_random.json").unlink()
    with pytest.raises(UserError, match=r"coco_pope_random\.json: cannot be read"):
        BENCH.load(data)
