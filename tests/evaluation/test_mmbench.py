"""MMBench: the committed fixture with circular scores worked out by hand, its awkward cells, the upload, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import get_benchmark
from llava_teamlora.evaluation.benchmarks.mmbench import missing_to_llava
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import EncodedPicture, Sample, Scores

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
DEV = "mmbench/mmbench_dev_20230712.tsv"
SUFFIX = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the fixtures that a test may spoil."""
    for folder in ("mmbench", "mmbench_cn"):
        shutil.copytree(FIXTURES / folder, tmp_path / "eval" / folder)
    return tmp_path / "eval"


@pytest.fixture
def edit(data: Path) -> Callable[..., Path]:
    """Change cells of rows of the dev file: ``edit({"1000007": {"answer": "E"}})``."""

    def change(cells: dict[str, dict[str, str]]) -> Path:
        path = data / DEV
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        for row in rows:
            row.update(cells.get(row["index"], {}))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
        return data

    return change


def by_key(name: str, root: Path = FIXTURES) -> dict[str, Sample]:
    return {sample.key: sample for sample in get_benchmark(name).load(root)}


def scores_of(name: str, answers: dict[str, str], *, only: int | None = None) -> Scores:
    """Of these answers, and the right ones where none is given."""
    bench = get_benchmark(name)
    samples = bench.load(FIXTURES)[:only]
    return bench.aggregate(samples, [bench.judge(s, answers.get(s.key, s.targets[0])) for s in samples])


def test_samples() -> None:
    samples = by_key("mmbench")
    assert list(samples) == [
        *("2", "5", "7", "11", "1000002", "1000005", "1000007", "1000011", "2000005", "2000007", "2000011", "3000011")
    ]
    first = samples["2"]
    assert (first.question_id, first.targets, first.cluster) == (2, ("A",), "2")
    assert first.llava_prompt == "What shape is it?\nA. circle\nB. square"
    assert first.prompt == first.llava_prompt + SUFFIX
    hinted = samples["1000007"]
    assert hinted.llava_prompt is not None
    assert hinted.llava_prompt.splitlines() == [
        "Figure: a blue square.",
        "A square has four sides.",
        'How many corners has the "square"?',
        *("A. three", "B. four", "C. two"),
    ]
    assert hinted.metadata["question"] == "\n".join(hinted.llava_prompt.splitlines()[:3])
    assert (hinted.targets, hinted.cluster, hinted.group) == (("B",), "7", "attribute_reasoning")


def test_options_that_read_none_are_options() -> None:
    assert by_key("mmbench")["5"].choices == ("K", "NA", "W", "None")
    assert by_key("mmbench")["1000005"].targets == ("C",)
    # What pandas and LLaVA's is_none make of K, NA, W, None and its rotations: everything from the first on is lost.
    llava = by_key("mmbench_llava")
    assert [llava[key].choices for key in ("5", "1000005", "2000005")] == [("K",), (), ("W",)]
    assert llava["5"].prompt == "Which letter stands on it?\nA. K" + SUFFIX
    assert llava["1000005"].prompt == "Which letter stands on it?" + SUFFIX
    assert [s.prompt for s in llava.values() if s.cluster != "5"] == [
        s.prompt for s in by_key("mmbench").values() if s.cluster != "5"
    ]
    assert all(map(missing_to_llava, ("", "nan", "NaN", "None", "NONE", "none", "NA", "N/A", "null", "<NA>")))
    assert not any(map(missing_to_llava, ("No", "na", "None of these", "0", " ")))


def test_pictures_are_shared() -> None:
    samples = by_key("mmbench")
    pictures = {key: sample.image for key, sample in samples.items()}
    # Rows 1000007 and 2000007 name row 7; rows 2 and 5 hold equal pictures.
    assert pictures["7"] is pictures["1000007"] is pictures["2000007"]
    assert pictures["2"] is pictures["5"] is pictures["1000005"]
    assert pictures["2"] is not pictures["7"]
    found = pictures["3000011"]
    assert isinstance(found, EncodedPicture) and found.content().startswith(b"\x89PNG")


def test_golden_circular_scores() -> None:
    # Wrong: one of the three rows of question 7, one (unparsed) of the four of 11. Right in all rows: 2 and 5.
    scores = scores_of("mmbench", {"1000007": "A", "2000011": "red or green", "5": "(D)", "2": "A. circle"})
    assert (scores.total.value, scores.total.n) == (2 / 4, 4)
    # Four questions, residuals +-1/2: sqrt(4/3 * 4/4) / 4
    assert scores.total.stderr == pytest.approx((4 / 3) ** 0.5 / 4)
    groups = {name: (score.value, score.n) for name, score in scores.groups.items()}
    assert groups == {"attribute_reasoning": (0.0, 1), "finegrained_perception (instance-level)": (2 / 3, 3)}
    extra = {name: (score.value, score.n) for name, score in scores.extra.items()}
    assert extra == {
        "plain": (10 / 12, 12),
        "unparsed": (1 / 12, 12),
        "category: attribute_recognition": (0.0, 1),
        "category: object_localization": (1.0, 1),
        "category: ocr": (1.0, 1),
        "category: physical_property_reasoning": (0.0, 1),
    }
    # Residuals of the rows from 10/12, summed by question: 2 * 2/12, 3 * 2/12, 3 * 2/12 - 1, 4 * 2/12 - 1
    residuals = (4 / 12, 6 / 12, -6 / 12, -4 / 12)
    assert scores.extra["plain"].stderr == pytest.approx((4 / 3 * sum(u * u for u in residuals)) ** 0.5 / 12)


def test_always_a_is_never_right_in_a_circle() -> None:
    bench = get_benchmark("mmbench")
    samples = bench.load(FIXTURES)
    answers = bench.baselines(samples)["always A"].answers
    scores = bench.aggregate(samples, [bench.judge(sample, answers[sample.key]) for sample in samples])
    # Right in rows 2, 2000007 and 1000011; question 5 has no row with the answer first.
    assert (scores.total.value, scores.extra["plain"].value) == (0.0, 3 / 12)


def test_baselines_where_llava_leaves_no_option() -> None:
    bench = get_benchmark("mmbench_llava")
    baselines = bench.baselines(bench.load(FIXTURES))
    assert baselines["random"].answers["1000005"] == "A"
    assert baselines["random"].answers["5"] == "A"


def test_a_part_is_scored_by_what_is_there_and_says_so() -> None:
    scores = scores_of("mmbench", {}, only=6)
    # Six rows: questions 2 (both rotations), 5 (two of three), 7 and 11 (one each)
    assert (scores.total.value, scores.total.n) == (1.0, 4)
    assert (scores.extra["all rotations"].value, scores.extra["all rotations"].n) == (1 / 4, 4)
    assert "all rotations" not in scores_of("mmbench", {}).extra


def test_chinese() -> None:
    samples = by_key("mmbench_cn")
    assert samples["2"].prompt.splitlines()[-1] == "\u8bf7\u76f4\u63a5\u56de\u7b54\u9009\u9879\u5b57\u6bcd\u3002"
    right = {key: f"\u7b54\u6848\u662f{sample.targets[0]}\u3002" for key, sample in samples.items()}
    assert scores_of("mmbench_cn", right).total.value == 1.0
    by_text = {"2": samples["2"].choices[0], "1000002": "\u662f\u6b63\u65b9\u5f62"}
    assert scores_of("mmbench_cn", by_text).total.value == 1 / 2


def test_chinese_lies_in_either_folder(data: Path) -> None:
    source = data / "mmbench_cn" / "mmbench_dev_cn_20231003.tsv"
    source.rename(data / "mmbench" / source.name)
    assert len(get_benchmark("mmbench_cn").load(data)) == 5
    assert get_benchmark("mmbench_cn").needs(data)[0].path == data / "mmbench" / source.name
    (data / "mmbench" / source.name).unlink()
    with pytest.raises(UserError, match=r"mmbench_cn.mmbench_dev_cn_20231003\.tsv: no such file \(nor in mmbench\)"):
        get_benchmark("mmbench_cn").load(data)


@pytest.mark.parametrize("name", ["mmbench_test", "mmbench_cn_test"])
def test_the_server_scores_test_splits(name: str, tmp_path: Path) -> None:
    bench = get_benchmark(name)
    samples = bench.load(FIXTURES)
    assert [sample.targets for sample in samples] == [(), ()]
    with pytest.raises(UserError, match=rf"{name}: .*not public.*mmbench-submission"):
        bench.judge(samples[0], "A")
    with pytest.raises(UserError, match="not public"):
        bench.aggregate(samples, [])
    rows = sheet(bench.export(samples, ["A", "no"], tmp_path)[0])
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "split")
    assert [(row[0], row[6], row[7]) for row in rows[1:]] == [(3, "A", "test"), (1000003, "no", "test")]


def sheet(path: Path) -> list[tuple[object, ...]]:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(path, read_only=True)
    rows = list(book.active.iter_rows(values_only=True))
    book.close()
    return rows


def test_upload(tmp_path: Path) -> None:
    bench = get_benchmark("mmbench")
    samples = bench.load(FIXTURES)
    texts = ["A", "=1+1", "C", ""] + ["B"] * 8
    path = bench.export(samples, texts, tmp_path)[0]
    assert path.name == "mmbench_dev_20230712.xlsx"
    head, *rows = sheet(path)
    assert head == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[0] == (2, "What shape is it?", "circle", "square", None, None, "A", "A", "dev")
    assert rows[1][2:8] == ("K", "NA", "W", "None", "=1+1", "D")
    # The hint is a column of its own in the TSV, and none in the upload.
    assert rows[2][1] == 'How many corners has the "square"?'
    assert [row[0] for row in rows] == [sample.question_id for sample in samples]
    before = path.read_bytes()
    bench.export(samples, texts, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\x0bb", r"row 2, prediction: control characters"), ("x" * 32768, r"row 2, prediction: 32768 characters")],
)
def test_what_no_cell_can_hold_is_told(text: str, message: str, tmp_path: Path) -> None:
    bench = get_benchmark("mmbench")
    samples = bench.load(FIXTURES)
    with pytest.raises(UserError, match=message):
        bench.export(samples, [text, *["A"] * 11], tmp_path)
    assert not list(tmp_path.iterdir())


def test_llavas_answers_file_scores_the_same(tmp_path: Path) -> None:
    samples = get_benchmark("mmbench").load(FIXTURES)
    rows = [
        {"question_id": s.question_id, "round_id": 0, "prompt": s.llava_prompt, "text": s.targets[0], "metadata": {}}
        for s in reversed(samples)
    ]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = score(get_benchmark("mmbench"), answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert (content["total"]["value"], content["answered"]) == (1.0, 12)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"7": {"index": "seven"}}, r"line 4: 'index' must be a whole number, found 'seven'"),
        ({"7": {"index": "2"}}, r"line 4: index 2 again, as line 2"),
        ({"2": {"answer": "C"}}, r"line 2: 'answer' must be the letter of an option \(A, B\), found 'C'"),
        ({"2": {"answer": ""}}, r"line 2: 'answer' must be"),
        ({"2": {"answer": "AB"}}, r"line 2: 'answer' must be"),
        ({"5": {"B": ""}}, r"line 3: options must fill the columns from A on.*filled are A, C, D"),
        ({"2": {"B": ""}}, r"line 2: options must fill"),
        ({"1000007": {"image": "8"}}, r"line 9: 'image' names row '8', which has no picture itself"),
        ({"1000007": {"image": "2000007"}}, r"'image' names row '2000007', which has no picture"),
        ({"2": {"image": ""}}, r"line 2: 'image' is empty"),
    ],
)
def test_broken_rows(cells: dict[str, dict[str, str]], message: str, edit: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=message):
        get_benchmark("mmbench").load(edit(cells))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("answer", "truth", 1), r"has no column 'answer' \(it has 'index', "),
        (lambda text: "", r"has no column 'index', .* \(it has none\)"),
        (lambda text: text[: text.index("2000011")] + "2000011\tWhat", r"line 15: has 2 fields, but the head 14"),
        (lambda text: text.replace("circle\tsquare", 'circle\t"square', 1), r"has \d+ fields, but the head 14"),
    ],
)
def test_broken_files(change: Callable[[str], str], message: str, data: Path) -> None:
    path = data / DEV
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        get_benchmark("mmbench").load(data)


def test_other_encodings_and_blank_lines(data: Path) -> None:
    path = data / DEV
    text = path.read_text(encoding="utf-8")
    path.write_bytes(("\ufeff" + text.replace("\n2000005", "\n\n2000005")).encode("utf-8"))
    assert len(get_benchmark("mmbench").load(data)) == 12
    path.write_bytes(text.replace("circle", "c\u00edrculo").encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        get_benchmark("mmbench").load(data)
    with pytest.raises(UserError, match=r"no such file; get it from https://"):
        get_benchmark("mmbench").load(data / "elsewhere")


def test_a_picture_longer_than_a_usual_csv_field(edit: Callable[..., Path]) -> None:
    root = edit({"2": {"image": "A" * 300_000}})
    assert len(str(by_key("mmbench", root)["2"].image)) < 40
