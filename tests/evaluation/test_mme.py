"""MME: the committed fixture with scores worked out by hand, the official parse and sums stated again, refusals."""

from __future__ import annotations

import json
import math
import random
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.benchmarks.mme import COGNITION, PERCEPTION, RELEASE, Mme
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Sample, Scores

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = Mme()

FUZZ = (
    *("Yes", "No", "yes", "no", "Yes.", "NO", "", "\n", "\nyes", " yes", "  no", "   yes", "    yes", "Not sure"),
    *("It is no", "yesno", "noyes", "nyes", "know", "eyes", "oh no", "(B)", "A. cat", "\uff4e\uff4f", "\u662f\u3002"),
    *(
        "no\tway",
        "ye\ts",
        "n\no",
        "Yes\nbecause",
        "No\r\nbecause",
        "\u0130yes",
        "y" * 10_000,
        "." * 40 + "yes",
        "no" + "." * 40,
    ),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may spoil."""
    root = tmp_path / "eval"
    shutil.copytree(FIXTURES / "MME", root / "MME")
    return root


def right(sample: Sample) -> str:
    return sample.targets[0].capitalize()


def scores_of(samples: list[Sample], answer: Callable[[Sample], str]) -> Scores:
    return BENCH.aggregate(samples, [BENCH.judge(sample, answer(sample)) for sample in samples])


def points(scores: Scores) -> dict[str, float]:
    """As the official tool shows them."""
    return {name: found.value * found.maximum for name, found in scores.groups.items()}


def test_the_fixture_loads_perception_first_with_both_layouts() -> None:
    samples = get_benchmark("mme").load(FIXTURES)
    assert len(samples) == len({sample.key for sample in samples}) == 56
    assert list(dict.fromkeys(sample.group for sample in samples)) == [*PERCEPTION, *COGNITION]
    assert samples[0].key == "existence/000000000101.jpg/Is there a circle in this image?"
    assert samples[0].prompt == ("Is there a circle in this image?\nAnswer the question using a single word or phrase.")
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in samples)
    assert set(Counter(sample.cluster for sample in samples).values()) == {2}
    # Three subtasks ask about the same photograph: each has a cluster of its own.
    assert {s.cluster for s in samples if "0101" in s.cluster} == {
        f"{name}/000000000101.jpg" for name in ("existence", "count", "color")
    }


def test_the_official_question_keeps_its_one_or_two_spaces() -> None:
    questions = {sample.metadata["question"] for sample in BENCH.load(FIXTURES)}
    assert "Is there only one circle in the image?  Please answer yes or no." in questions
    assert "Are there two circles in the image? Please answer yes or no." in questions


def test_the_layouts_folders_may_be_the_other_way_round(data: Path) -> None:
    before = BENCH.load(FIXTURES)
    for base in (data / "MME" / RELEASE).iterdir():
        nested = base / "images"
        if nested.is_dir():
            for path in [*nested.iterdir(), *(base / "questions_answers_YN").iterdir()]:
                path.rename(base / path.name)
            nested.rmdir()
            (base / "questions_answers_YN").rmdir()
        else:
            files = list(base.iterdir())
            nested.mkdir()
            (base / "questions_answers_YN").mkdir()
            for path in files:
                path.rename(base / ("questions_answers_YN" if path.suffix == ".txt" else "images") / path.name)
    after = BENCH.load(data)
    assert [(s.key, s.targets, s.metadata) for s in after] == [(s.key, s.targets, s.metadata) for s in before]
    assert all(isinstance(sample.image, Path) and sample.image.is_file() for sample in after)


@pytest.mark.parametrize("text", FUZZ)
def test_parse_is_the_official_one(text: str) -> None:
    # The official tool: lower-case; "yes" or "no" themselves; else the first four characters decide, yes before no.
    lowered = text.lower()
    official = lowered if lowered in ("yes", "no") else "other"
    if official == "other":
        places = [lowered[i : i + 3] for i in range(2)], [lowered[i : i + 2] for i in range(3)]
        official = "yes" if "yes" in places[0] else "no" if "no" in places[1] else "other"
    assert BENCH.parse(text) == official


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("Not sure", "no"), ("It is no", "other"), ("", "other"), ("noyes", "no"), ("nyes", "yes"), ("\nyes", "yes")],
)
def test_parse_by_hand(text: str, parsed: str) -> None:
    assert BENCH.parse(text) == parsed


WRONG = {
    "existence/000000000101.jpg/Is there a triangle in this image?": "Yes, there is",
    "color/000000000106.jpg/Is there a yellow triangle in the image?": "It is yes",  # neither: wrong
    'OCR/0001.jpg/Is the word in the logo "go"?': "No",
    'OCR/0001.jpg/Is the word in the logo "goo"?': "Yes",
    "code_reasoning/0002.png/The image shows a python code. Is the output of the code '2'?": "",  # neither: wrong
    "count/000000000101.jpg/Are there two circles in the image?": "Not sure",  # a no, and right
}


def test_golden_scores() -> None:
    samples = BENCH.load(FIXTURES)
    found = scores_of(samples, lambda sample: WRONG.get(sample.key, right(sample)))
    # existence, color and code_reasoning: 3 of 4 questions, 1 of 2 pictures: 75 + 50. OCR: 2 of 4, 1 of 2: 50 + 50.
    expected = dict.fromkeys(BENCH.groups, 200.0) | {"existence": 125, "color": 125, "OCR": 100, "code_reasoning": 125}
    assert points(found) == pytest.approx(expected)
    assert list(found.groups) == list(BENCH.groups)
    # Perception 125 + 125 + 100 + 7 * 200 = 1750; cognition 125 + 3 * 200 = 725.
    assert (found.total.value * found.total.maximum, found.total.maximum) == (pytest.approx(1750), 2000)
    cognition = found.extra["cognition"]
    assert (cognition.value * cognition.maximum, cognition.maximum) == (pytest.approx(725), 800)
    # acc (0.75 + 0.75 + 0.5 + 7) / 10 = 0.9; acc+ (0.5 + 0.5 + 0.5 + 7) / 10 = 0.85; 1000 * (0.9 + 0.85) = 1750.
    assert found.extra["perception acc"].value == pytest.approx(0.9)
    assert found.extra["perception acc+"].value == pytest.approx(0.85)
    # (0.75 + 3) / 4 and (0.5 + 3) / 4.
    assert found.extra["cognition acc"].value == pytest.approx(0.9375)
    assert found.extra["cognition acc+"].value == pytest.approx(0.875)
    assert found.extra["other"].value == pytest.approx(2 / 56)


def test_golden_standard_errors() -> None:
    samples = BENCH.load(FIXTURES)
    found = scores_of(samples, lambda sample: WRONG.get(sample.key, right(sample)))
    # existence: its pictures have 50 + 0 and 100 + 100 points; s / sqrt(2) = (150 / sqrt(2)) / sqrt(2) = 75.
    # OCR: 0 and 200; (200 / sqrt(2)) / sqrt(2) = 100.
    stderr = {name: (score.stderr or 0) * score.maximum for name, score in found.groups.items()}
    expected = dict.fromkeys(BENCH.groups, 0.0) | {"existence": 75, "color": 75, "OCR": 100, "code_reasoning": 75}
    assert stderr == pytest.approx(expected)
    assert found.total.stderr is not None
    assert found.total.stderr * 2000 == pytest.approx(math.sqrt(75**2 + 75**2 + 100**2))


def test_standard_error_of_the_sum_agrees_with_a_bootstrap() -> None:
    rng = random.Random(0)
    samples, answers = [], {}
    for subtask, pictures in (("existence", 30), ("OCR", 20), ("scene", 60)):
        for number in range(pictures):
            skill = rng.random()
            for truth in ("yes", "no"):
                key = f"{subtask}/{number}/{truth}"
                samples.append(Sample(key, key, "", (truth,), group=subtask, cluster=f"{subtask}/{number}"))
                answers[key] = truth if rng.random() < skill else "maybe"
    found = scores_of(samples, lambda sample: answers[sample.key])
    assert found.total.maximum == 600

    per_picture: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        per_picture[sample.group][sample.cluster].append(answers[sample.key] == sample.targets[0])
    totals = []
    for _ in range(1000):
        total = 0.0
        for pictures in per_picture.values():
            drawn = rng.choices(list(pictures.values()), k=len(pictures))
            total += 100 * sum(sum(both) for both in drawn) / (2 * len(drawn)) + 100 * sum(map(all, drawn)) / len(drawn)
        totals.append(total)
    assert found.total.stderr is not None
    assert found.total.stderr * 600 == pytest.approx(statistics.stdev(totals), rel=0.08)


def test_a_part_is_scored_of_its_own_maximum_and_never_divides_by_zero() -> None:
    samples = BENCH.load(FIXTURES)
    # existence 101 (both right) and the first question of 102 (right): acc 3/3, acc+ 2/2.
    part = scores_of(samples[:3], right)
    assert (part.total.value, part.total.maximum, part.total.n) == (1.0, 200, 3)
    one = scores_of(samples[:1], right)
    assert (one.total.value, one.total.stderr, list(one.groups)) == (1.0, None, ["existence"])
    assert "cognition" not in one.extra
    with pytest.raises(UserError, match="perception's, and none of its questions was answered"):
        scores_of([sample for sample in samples if sample.group in COGNITION], right)


def test_always_yes_gets_a_quarter() -> None:
    samples = BENCH.load(FIXTURES)
    answers = BENCH.baselines(samples)["always yes"].answers
    found = scores_of(samples, lambda sample: answers[sample.key])
    assert points(found) == pytest.approx(dict.fromkeys(BENCH.groups, 50.0))
    assert found.total.value * found.total.maximum == pytest.approx(500)
    assert found.extra["perception acc+"].value == 0


def official_points(folder: Path) -> Mapping[str, float]:
    """The official tool's arithmetic, stated again: lines in twos, first four letters, acc and acc+ in percent."""
    found = {}
    for name in BENCH.groups:
        lines = (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        rights, both = [], []
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            pair = []
            for line in (first, second):
                _, _, truth, answer = line.split("\t")
                start = (answer.lower() + "\n")[:4]
                pair.append(truth.lower() == ("yes" if "yes" in start else "no" if "no" in start else "other"))
            assert first.split("\t")[0] == second.split("\t")[0]
            rights += pair
            both.append(all(pair))
        found[name] = 100 * sum(rights) / len(rights) + 100 * sum(both) / len(both)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_official_tool_gives_our_scores_to_our_export(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    samples = BENCH.load(FIXTURES)
    texts = [rng.choice((*FUZZ, right(sample), right(sample))) for sample in samples]
    written = BENCH.export(samples, texts, tmp_path)
    assert {path.name for path in written} == {f"{name}.txt" for name in BENCH.groups}
    by_key = {sample.key: text for sample, text in zip(samples, texts, strict=True)}
    assert points(scores_of(samples, lambda sample: by_key[sample.key])) == pytest.approx(official_points(tmp_path))


def test_export_lines(tmp_path: Path) -> None:
    samples = BENCH.load(FIXTURES)
    BENCH.export(samples, ["Yes\n\tit is\r\n" for _ in samples], tmp_path)
    assert (tmp_path / "celebrity.txt").read_text(encoding="utf-8").split("\n")[0] == (
        "tt0000021_circle.jpg\tIs the one inside the red bounding box called Zo\u00eb Circle? Please answer yes or no."
        "\tYes\tYes  it is  "
    )


def test_build_gives_the_published_rows() -> None:
    built = BENCH.build(FIXTURES)
    path = FIXTURES / "MME" / "llava_mme.jsonl"
    assert built == {path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]}
    rows = built[path]
    assert [list(row) for row in rows[:1]] == [["question_id", "image", "text", "category"]]
    assert {row["image"].count("/") for row in rows if row["category"] == "artwork"} == {2}
    assert {row["image"].count("/") for row in rows if row["category"] == "OCR"} == {1}


def test_build_wants_every_picture(data: Path) -> None:
    (data / "MME" / RELEASE / "OCR" / "0002.jpg").unlink()
    with pytest.raises(UserError, match=r"OCR: has no picture 0002\.jpg or \.png"):
        BENCH.build(data)
    assert len(BENCH.load(data)) == 56  # scoring needs no picture
    shutil.rmtree(data / "MME" / RELEASE / "posters" / "images")
    (data / "MME" / RELEASE / "OCR" / "0002.jpg").touch()
    with pytest.raises(UserError, match=r"posters.images: no such folder; it holds pictures of MME's official release"):
        BENCH.build(data)


@pytest.mark.parametrize("ending", ["", "\nOne word.", "  Please answer yes or no.\nOne word."])
def test_another_request_behind_the_question_joins_too(data: Path, ending: str) -> None:
    path = data / "MME" / "llava_mme.jsonl"
    asked = "\\nAnswer the question using a single word or phrase."
    path.write_text(path.read_text(encoding="utf-8").replace(asked, ending.replace("\n", "\\n")), encoding="utf-8")
    assert [sample.key for sample in BENCH.load(data)] == [sample.key for sample in BENCH.load(FIXTURES)]


def test_scores_an_answers_file_of_llava(tmp_path: Path) -> None:
    samples = BENCH.load(FIXTURES)
    rows = [
        {"question_id": s.question_id, "prompt": s.prompt, "text": WRONG.get(s.key, right(s)), "answer_id": "x"}
        for s in samples
    ]
    random.Random(0).shuffle(rows)
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert found["total"]["value"] * found["total"]["maximum"] == pytest.approx(1750)
    assert found["baselines"]["always yes"]["total"]["value"] == pytest.approx(0.25)


def edit(path: Path, change: Callable[[list[str]], object]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(0), r"1 questions of .*release_version are not in it \(first: code_reasoning \| 0001"),
        (lambda lines: lines.append(lines[0]), r"1 questions stand there twice \(first: code_reasoning \| 0001"),
        (
            lambda lines: lines.append(lines[0].replace("python", "rust")),
            r"1 questions have no truth under .*\(first: code_reasoning \| 0001 \| Is a rust code",
        ),
        (
            lambda lines: lines.append(lines[0].replace('"code_', '"kode_')),
            r"line 57: 'category' 'kode_reasoning' is no",
        ),
        (lambda lines: lines.append('{"category": "OCR"}'), r"line 57: has no field 'image'"),
        (lambda lines: lines.append('{"category": "OCR", "image": 3}'), r"line 57: 'image' must be str, found 3"),
        (lambda lines: lines.append("{"), r"line 57: broken JSON"),
    ],
)
def test_questions_that_do_not_fit_are_refused(data: Path, change: Callable[[list[str]], object], message: str) -> None:
    edit(data / "MME" / "llava_mme.jsonl", change)
    with pytest.raises(UserError, match=message):
        BENCH.load(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(), r"0001\.txt: has 1 questions; a picture of MME has two"),
        (lambda lines: lines.append("Is it new? Please answer yes or no.\tNo"), r"0001\.txt: has 3 questions"),
        (lambda lines: lines.append(lines[0]), r"0001\.txt, line 3: asks the same question again"),
        (lambda lines: lines.__setitem__(1, "Is it new?\tMaybe"), r"0001\.txt, line 2: expected a question, a tab"),
        (lambda lines: lines.__setitem__(1, "Is it new? No"), r"0001\.txt, line 2: expected a question, a tab"),
    ],
)
def test_broken_truths_are_refused(data: Path, change: Callable[[list[str]], object], message: str) -> None:
    edit(data / "MME" / RELEASE / "OCR" / "0001.txt", change)
    with pytest.raises(UserError, match=message):
        BENCH.load(data)


def test_other_broken_releases(data: Path) -> None:
    path = data / "MME" / RELEASE / "OCR" / "0001.txt"
    text = path.read_bytes()
    path.with_name("._0001.txt").write_bytes(b"\x00\xff")  # what macOS leaves in archives is passed over
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b" \r\n"))
    assert len(BENCH.load(data)) == 56
    path.write_bytes(b"\xe9")
    with pytest.raises(UserError, match=r"0001\.txt: is not UTF-8 text"):
        BENCH.load(data)
    shutil.rmtree(path.parent)
    with pytest.raises(UserError, match="OCR: holds no text files with the truth of OCR"):
        BENCH.load(data)
    shutil.rmtree(data / "MME" / RELEASE)
    with pytest.raises(UserError, match="no such folder; it holds MME's official release"):
        BENCH.load(data)


def test_needs_are_the_fixture_s_files() -> None:
    assert all(need.path.exists() for need in BENCH.needs(FIXTURES))
    assert [need.built for need in BENCH.needs()] == [True, False]
    assert BENCH.needs()[0].path == Path("playground/data/eval/MME/llava_mme.jsonl")
