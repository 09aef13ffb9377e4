"""TextVQA on a fixture in the official layout, with scores worked out by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import read_answers
from llava_teamlora.evaluation.benchmarks.textvqa import TextVqa
from llava_teamlora.evaluation.reading import read_json_lines
from llava_teamlora.evaluation.scoring import score

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
BENCH = TextVqa()
SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the fixture to break."""
    shutil.copytree(FIXTURES / "textvqa", tmp_path / "eval" / "textvqa")
    return tmp_path / "eval"


def llava_answers(path: Path, texts: Sequence[str]) -> Path:
    """As LLaVA's model_vqa_loader.py writes them: no key, and a picture's id for the question's."""
    rows = [row for _, row in read_json_lines(FIXTURES / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl")]
    lines = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text, "answer_id": "x", "model_id": "m"}
        for row, text in zip(rows, texts, strict=True)
    ]
    path.write_text("".join(json.dumps({**line, "metadata": {}}) + "\n" for line in lines))
    return path


def test_samples() -> None:
    samples = BENCH.load(FIXTURES)
    assert [sample.key for sample in samples][:2] == ["00aa/what does the sign say?", "00aa/how many ways?"]
    # Same picture, two questions; same question, two pictures.
    assert [sample.question_id for sample in samples] == ["00aa", "00aa", "00bb", "00cc", "00cc", "00cc"]
    assert samples[4].key == "00cc/what does the sign say?"
    assert samples[2].prompt == "What brand is this?\nReference OCR token: " + SUFFIX
    assert samples[5].prompt == "What is the price on usa tag?\nReference OCR token: 7, Eleven,, café" + SUFFIX
    assert samples[3].targets == ("7 eleven",) * 7 + ("eleven",) * 2 + ("store",)
    assert samples[3].image == FIXTURES / "textvqa" / "train_images" / "00cc.jpg"


def test_golden(tmp_path: Path) -> None:
    # 8 said stop: 1; "4-way" and "4 way": .6; one said none, which is 0: .3; one said store: .3; two said denny's,
    # seven dennys: .6; one said $1.99: .3. Sum 3.1.
    answers = llava_answers(tmp_path / "a.jsonl", ["Stop.", "4 WAY", "zero", "Store!", "Denny's", "$1.99"])
    scores = score(BENCH, answers, tmp_path / "scores.json", data_root=FIXTURES)
    assert scores["total"]["value"] == pytest.approx(3.1 / 6)
    # By picture, less 31/60 a row: 00aa 1.6 - 62/60 = 34/60, 00bb .3 - 31/60 = -13/60, 00cc 1.2 - 93/60 = -21/60.
    # sqrt(3/2 * (34^2 + 13^2 + 21^2)) / 60 / 6 = sqrt(1.5 * 1766) / 360
    assert scores["total"]["stderr"] == pytest.approx((1.5 * 1766) ** 0.5 / 360)
    rows = [row for _, row in read_json_lines(tmp_path / "scores.rows.jsonl")]
    assert [row["score"] for row in rows] == pytest.approx([1, 0.6, 0.3, 0.3, 0.6, 0.3])
    assert rows[4]["parsed"] == "denny 's"


def test_the_order_of_llavas_rows_does_not_matter(tmp_path: Path) -> None:
    answers = llava_answers(tmp_path / "a.jsonl", ["0", "1", "2", "3", "4", "5"])
    answers.write_text("".join(sorted(answers.read_text().splitlines(keepends=True), reverse=True)))
    found = read_answers(answers, BENCH.load(FIXTURES))
    assert [prediction.text for _, prediction in found] == ["0", "1", "2", "3", "4", "5"]


def test_built_as_llava_published() -> None:
    ((path, rows),) = BENCH.build(FIXTURES).items()
    assert "".join(json.dumps(row) + "\n" for row in rows) == path.read_text()


def test_a_picture_without_ocr_is_named(root: Path) -> None:
    (root / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text('{"data": []}')
    with pytest.raises(UserError, match=r"TextVQA_0\.5\.1_val\.json, data\[0\]: .*Rosetta.* has no picture '00aa'"):
        BENCH.build(root)


def test_a_token_that_is_no_text_is_named(root: Path) -> None:
    path = root / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json"
    content = json.loads(path.read_text())
    content["data"][1]["ocr_tokens"] = ["a", 7]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"Rosetta.*, data\[1\]: 'ocr_tokens' must be texts, found 7"):
        BENCH.build(root)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("How many ways?", "How many?", r"line 2: .*val\.json has no question 'how many\?' about '00aa'"),
        ("\\nReference OCR token: 7", "", r"line 4: 'text' must be the question, a line 'Reference OCR token: …'"),
        ("What store is it?", "What does the sign say?", "line 5: the question .* stands already at .*line 4"),
        ('"00bb"', "7", r"line 3: .* has no question 'what brand is this\?' about '7'"),
        ('"text"', '"question"', "line 1: has no field 'text'"),
    ],
)
def test_broken_questions(root: Path, old: str, new: str, problem: str) -> None:
    path = root / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=problem):
        BENCH.load(root)


def test_a_short_question_file_is_refused(root: Path) -> None:
    path = root / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(UserError, match="lacks 2 questions of .*val.json"):
        BENCH.load(root)


def test_nine_answers_are_refused(root: Path) -> None:
    path = root / "textvqa" / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    content["data"][2]["answers"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"val\.json, data\[2\]: 'answers' must hold 10 answers, found 9"):
        BENCH.load(root)


def test_absent_files_say_where_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; take it from LLaVA's eval\.zip .* evaluate build textvqa"):
        BENCH.load(tmp_path)
    assert [need.built for need in BENCH.needs(tmp_path)] == [True, False, False]
    assert all(need.path.exists() for need in BENCH.needs(FIXTURES))
