"""Answers file -> scores: golden figures, refusals, LLaVA's own files, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.scoring import rows_path, score

BENCH = EasyVqa()
TEXTS = ["Circle.", "no", " red", "rectangle", "no", "No.", "red", "not at all"]
Rows = list[dict[str, Any]]


def test_scores_and_rows(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.json"
    content = score(BENCH, write_answers(TEXTS), out, data_root=root)
    assert json.loads(out.read_text()) == content
    assert content["name"] == "easy_vqa" and content["answered"] == content["questions"] == 8
    assert content["total"]["value"] == 5 / 8
    # Residual sums per picture: -1/2, 1/2 + 1/2, -1/2; sqrt(3/2 * 3/2) / 4
    assert content["groups"]["yes/no"] == {"value": 0.5, "stderr": pytest.approx(3 / 8), "n": 4, "maximum": 100.0}
    # Majority "no": the two "no" of picture 1 and the one of picture 2.
    assert content["baselines"]["majority"]["total"]["value"] == 3 / 8
    assert content["baselines"]["question-only"]["total"]["value"] == 5 / 8
    assert content["manifest"] is None
    rows = [json.loads(line) for line in rows_path(out).read_text().splitlines()]
    assert [row["score"] for row in rows] == [1, 0, 1, 1, 1, 1, 0, 0]
    assert rows[0] | {"image": None} == {
        "key": "test/0",
        "group": "shape",
        "image": None,
        "prompt": "what shape is it?",
        "text": "Circle.",
        "parsed": "circle",
        "targets": ["circle"],
        "score": 1.0,
        "lenient": 1.0,
    }
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_order_of_answers_is_of_no_account(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    straight = score(BENCH, write_answers(TEXTS), tmp_path / "a.json", data_root=root)
    turned = score(BENCH, write_answers(TEXTS, list.reverse), tmp_path / "b.json", data_root=root)
    assert straight == turned
    assert rows_path(tmp_path / "a.json").read_text() == rows_path(tmp_path / "b.json").read_text()


def test_llavas_answers_file_without_keys(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    def strip(rows: Rows) -> None:
        for row in rows:
            del row["key"]

    answers = write_answers(TEXTS, strip)
    assert score(BENCH, answers, tmp_path / "s.json", data_root=root)["total"]["value"] == 5 / 8


def drop(rows: Rows) -> None:
    del rows[1:6]


def repeat(rows: Rows) -> None:
    rows += [rows[2], rows[3]]


def invent(rows: Rows) -> None:
    rows.append(rows[0] | {"key": "test/99"})


def other_question(rows: Rows) -> None:
    rows[4]["prompt"] = "is it blue?"


def number_for_text(rows: Rows) -> None:
    rows[1]["text"] = 5


def nothing_to_join_on(rows: Rows) -> None:
    del rows[0]["key"], rows[0]["question_id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"5 missing \(test/1, test/2, test/3, …\) of 8 answers; --partial scores what is there"),
        (repeat, r"2 duplicate \(test/2, test/3\) of 8"),
        (invent, r"1 unknown \(test/99\) of 8"),
        (lambda rows: (drop(rows), invent(rows)), r"1 unknown \(test/99\), 5 missing"),
        (other_question, r"1 answers are to other prompts .*line 5: 'is it blue\?' is not 'is it red\?'"),
        (number_for_text, r"line 2: 'text' must be a string, found 5"),
        (nothing_to_join_on, "line 1: has neither 'key' nor 'question_id'"),
    ],
)
def test_refusals(
    change: Callable[[Rows], object],
    message: str,
    root: Path,
    write_answers: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores.json"
    with pytest.raises(UserError, match=message):
        score(BENCH, write_answers(TEXTS, change), out, data_root=root)
    assert not out.exists()


def test_partial_says_so(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    content = score(BENCH, write_answers(TEXTS, drop), tmp_path / "s.json", partial=True, data_root=root)
    assert content["name"] == "easy_vqa [partial: 3 of 8]"
    assert content["total"]["value"] == pytest.approx(1 / 3)
    assert content["baselines"]["majority"]["total"]["n"] == 3
    with pytest.raises(UserError, match="2 duplicate"):
        score(BENCH, write_answers(TEXTS, repeat), tmp_path / "s.json", partial=True, data_root=root)


def test_broken_files(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(UserError, match=r"a\.jsonl: no such answers file"):
        score(BENCH, path, tmp_path / "s.json", data_root=root)
    path.write_text('{"key": "test/0", "text": "no"}\n{"key": ')
    with pytest.raises(UserError, match="line 2: broken JSON"):
        score(BENCH, path, tmp_path / "s.json", data_root=root)
    path.write_text("")
    with pytest.raises(UserError, match="holds no answers"):
        score(BENCH, path, tmp_path / "s.json", partial=True, data_root=root)


def test_scoring_and_reporting_import_no_torch(write_answers: Callable[..., Path], root: Path) -> None:
    answers = write_answers(TEXTS)
    out = answers.parent / "scores.json"
    program = (
        "import sys\n"
        "from llava_teamlora.cli import main\n"
        f"score = ['evaluate', 'score', 'easy_vqa', '--answers', {str(answers)!r}, '--data_root', {str(root)!r}]\n"
        f"assert main(score) == 0 and main(['evaluate', 'report', {str(out)!r}]) == 0\n"
        "assert main(['evaluate', 'list']) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "question-only" in done.stdout and out.is_file()
