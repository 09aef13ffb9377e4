"""Answers file -> scores: golden figures, refusals, what is recorded, and no torch. Joining: test_answers_files.py."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import append_rows, data_sha256, write_json
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.reading import read_json_lines
from llava_teamlora.evaluation.score_files import read_scores
from llava_teamlora.evaluation.scoring import export, rows_path, score
from llava_teamlora.evaluation.types import Benchmark, Sample

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
        "question_id": 0,
        "group": "shape",
        "cluster": "0",
        "image": None,
        "prompt": "what shape is it?",
        "text": "Circle.",
        "parsed": "circle",
        "targets": ["circle"],
        "choices": [],
        "score": 1.0,
        "extra": {"lenient": 1.0},
        "metadata": {"picture": 0},
    }
    answers = Path(content["answers"])
    assert content["answers_sha256"] == hashlib.sha256(answers.read_bytes()).hexdigest()
    assert content["data_root"] == str(root) and len(content["data_sha256"]) == 64 and content["grades"] is None
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_order_of_answers_is_of_no_account(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    straight = score(BENCH, write_answers(TEXTS), tmp_path / "a.json", data_root=root)
    turned = score(BENCH, write_answers(TEXTS, list.reverse), tmp_path / "b.json", data_root=root)
    assert straight.pop("answers_sha256") != turned.pop("answers_sha256")
    assert straight == turned
    assert rows_path(tmp_path / "a.json").read_text() == rows_path(tmp_path / "b.json").read_text()


def drop(rows: Rows) -> None:
    del rows[1:6]


def test_partial_says_so(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    content = score(BENCH, write_answers(TEXTS, drop), tmp_path / "s.json", partial=True, data_root=root)
    assert content["name"] == "easy_vqa [partial: 3 of 8]"
    assert content["total"]["value"] == pytest.approx(1 / 3)
    assert content["baselines"]["majority"]["total"]["n"] == 3


def test_a_limit_lets_the_other_answers_be(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    content = score(BENCH, write_answers(TEXTS), tmp_path / "s.json", limit=4, data_root=root)
    assert content["name"] == "easy_vqa [partial: 4 of 8]"
    assert (content["total"]["value"], content["total"]["n"]) == (3 / 4, 4)
    few = write_answers(TEXTS, drop)  # rows 0, 6 and 7 remain
    assert score(BENCH, few, tmp_path / "s.json", limit=1, data_root=root)["total"]["value"] == 1
    with pytest.raises(UserError, match=r"1 missing \(50.0% of 2 questions; test/1\)"):
        score(BENCH, few, tmp_path / "s.json", limit=2, data_root=root)
    with pytest.raises(UserError, match="--limit 0 must be at least 1"):
        score(BENCH, few, tmp_path / "s.json", limit=0, data_root=root)


def manifest(answers: Path, **parts: Any) -> None:
    (answers.parent / "manifest.json").write_text(json.dumps(parts))


def test_answers_of_another_edition_are_refused(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    """The prompts are the same, so only the manifest can tell that an accepted answer has changed since."""
    answers = write_answers(TEXTS)
    manifest(answers, benchmark={"name": "easy_vqa", "data_sha256": data_sha256(BENCH.load(root))})
    assert score(BENCH, answers, tmp_path / "s.json", data_root=root)["manifest"]["benchmark"]["name"] == "easy_vqa"
    questions = root / "easy-vqa" / "test" / "questions.json"
    questions.write_text(questions.read_text().replace('"rectangle"', '"circle"'))
    with pytest.raises(UserError, match=r"manifest\.json: .* another edition of easy_vqa's data .*--data_root"):
        score(BENCH, answers, tmp_path / "t.json", data_root=root)
    manifest(answers, benchmark={"name": "pope", "data_sha256": "0" * 64})
    with pytest.raises(UserError, match="are to 'pope', not to 'easy_vqa'"):
        score(BENCH, answers, tmp_path / "t.json", data_root=root)
    assert not (tmp_path / "t.json").exists()


def test_a_manifest_speaks_of_its_runs_answers_alone(
    root: Path, write_answers: Callable[..., Path], tmp_path: Path
) -> None:
    """LLaVA's folder of many models' answers, which --out was pointed at."""
    answers = write_answers(TEXTS)
    manifest(answers, model={"model": "runs/x"}, decoding={"answer_by": "likelihood"})
    for name, ours in (
        ("predictions.jsonl", True),
        ("predictions.rank-0.jsonl", True),
        ("llava-v1.5-7b.jsonl", False),
        ("my-predictions.jsonl", False),
    ):
        path = answers.with_name(name)
        path.write_bytes(answers.read_bytes())
        content = score(BENCH, path, tmp_path / "s.json", data_root=root)
        assert ((content["manifest"] or {}).get("model") == {"model": "runs/x"}) is ours
        assert content["name"] == ("easy_vqa [likelihood]" if ours else "easy_vqa")
    manifest(answers, benchmark={"name": "pope", "data_sha256": "0" * 64})
    assert score(BENCH, answers.with_name("llava-v1.5-7b.jsonl"), tmp_path / "s.json", data_root=root)


def test_likelihood_is_named(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    answers = write_answers(TEXTS, drop)
    manifest(answers, decoding={"answer_by": "likelihood"})
    content = score(BENCH, answers, tmp_path / "s.json", partial=True, data_root=root)
    assert content["name"] == "easy_vqa [partial: 3 of 8] [likelihood]"


@pytest.mark.parametrize("content", ["[]", '{"name": "a web page", "icons": []}', '{"benchmark": "pope"}'])
def test_somebody_elses_manifest_is_passed_over(
    content: str, root: Path, write_answers: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = write_answers(TEXTS)
    (answers.parent / "manifest.json").write_text(content)
    assert score(BENCH, answers, tmp_path / "s.json", data_root=root)["manifest"] is None
    assert "manifest.json: is passed over, it does not say who gave the answers beside it" in capsys.readouterr().err
    (answers.parent / "manifest.json").write_text('{"benchmark": {"na')
    with pytest.raises(UserError, match="manifest.json: is not JSON .*; move it away if it does not say who"):
        score(BENCH, answers, tmp_path / "s.json", data_root=root)


def test_half_a_character_is_scored_and_kept(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    """JSON may hold half of a pair of surrogates, UTF-8 may not."""
    answers = write_answers(["circle \ud83d 猫", *TEXTS[1:]])
    assert score(BENCH, answers, tmp_path / "s.json", data_root=root)["total"]["n"] == 8
    rows = [json.loads(line) for line in (tmp_path / "s.rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["text"] == "circle \ud83d 猫"
    assert "猫" in (tmp_path / "s.rows.jsonl").read_text(encoding="utf-8")  # only the half is escaped
    append_rows(tmp_path / "a.jsonl", rows)
    assert [row for _, row in read_json_lines(tmp_path / "a.jsonl")] == rows


def test_two_answers_files_have_scores_of_their_own(root: Path, write_answers: Callable[..., Path]) -> None:
    """LLaVA keeps the answers of all models in one folder; the folder of a run has one, predictions.jsonl."""
    folder = write_answers(TEXTS).parent
    for name in ("llava-v1.5-7b.jsonl", "llava-v1.5-13b.jsonl", "predictions.jsonl"):
        if name != "predictions.jsonl":
            (folder / name).write_bytes((folder / "predictions.jsonl").read_bytes())
        command = ["evaluate", "score", "easy_vqa", "--answers", str(folder / name), "--data_root", str(root)]
        assert main(command) == 0
    written = ("scores.json", "llava-v1.5-7b.scores.json", "llava-v1.5-13b.scores.json")
    assert {path.name for path in folder.glob("*scores.json")} == set(written)
    assert all(rows_path(folder / name).is_file() for name in written)
    assert len({rows_path(folder / name) for name in written}) == 3
    (folder / "scores.json").unlink()
    with pytest.raises(UserError, match=r"name a file: llava-v1\.5-13b\.scores\.json, llava-v1\.5-7b\.scores\.json"):
        read_scores([str(folder)])


def test_missing_data_names_the_check(write_answers: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"evaluate check easy_vqa --data_root {tmp_path} lists what it needs"):
        score(BENCH, write_answers(TEXTS), tmp_path / "s.json", data_root=tmp_path)


class Served(EasyVqa):
    name = "served"
    server = "upload it at example.org"


class Judged(EasyVqa):
    name = "judged"
    judged = True

    def with_grades(self, grades: Path) -> Benchmark:
        graded = EasyVqa()
        graded.metric = f"accuracy ({grades.read_text()})"
        return graded


def test_what_only_a_server_can_score(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate export served --answers FILE --out DIR, then: upload it at"):
        score(Served(), write_answers(TEXTS), tmp_path / "s.json", data_root=root)


def test_what_a_judge_grades(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    answers, grades = write_answers(TEXTS), tmp_path / "m_grades.json"
    with pytest.raises(UserError, match="evaluate grade judged .*--grades FILE"):
        score(Judged(), answers, tmp_path / "s.json", data_root=root)
    grades.write_text("gpt")
    content = score(Judged(), answers, tmp_path / "s.json", data_root=root, grades=grades)
    assert content["metric"] == "accuracy (gpt)"
    assert content["grades"] == {"path": str(grades), "sha256": hashlib.sha256(b"gpt").hexdigest()}
    with pytest.raises(UserError, match="easy_vqa: is scored without a judge; drop --grades"):
        score(BENCH, answers, tmp_path / "s.json", data_root=root, grades=grades)


def test_export_gets_all_answers_in_the_benchmarks_order(
    root: Path, write_answers: Callable[..., Path], tmp_path: Path
) -> None:
    class Exporting(EasyVqa):
        def export(
            self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
        ) -> list[Path]:
            write_json(out / "upload.json", {s.key: text for s, text in zip(samples, texts, strict=True)})
            return [out / "upload.json"]

    files = export(Exporting(), write_answers(TEXTS, list.reverse), tmp_path / "new", root)
    assert files == [tmp_path / "new" / "upload.json"]
    assert list(json.loads(files[0].read_text()).values()) == TEXTS
    with pytest.raises(UserError, match="5 missing"):
        export(Exporting(), write_answers(TEXTS, drop), tmp_path / "other", root)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="no official tool takes a file"):
        export(BENCH, write_answers(TEXTS), tmp_path / "other", root)


@pytest.mark.parametrize("out", ["predictions.jsonl", "predictions.rows.jsonl"])
def test_answers_are_not_overwritten(root: Path, write_answers: Callable[..., Path], out: str) -> None:
    answers = write_answers(TEXTS)
    if out != answers.name:  # the rows' file, not the scores, would take its place
        answers = answers.rename(answers.with_name("predictions.rows.rows.jsonl"))
    before = answers.read_bytes()
    with pytest.raises(UserError, match="would be overwritten by the scores"):
        score(BENCH, answers, answers.with_name(out), data_root=root)
    assert answers.read_bytes() == before


def test_scores_are_not_named_as_json_lines(root: Path, write_answers: Callable[..., Path], tmp_path: Path) -> None:
    """The report, and every other reader, would refuse them by their name."""
    with pytest.raises(UserError, match=r"s\.jsonl: scores are one JSON object, not JSON lines; name them s\.json$"):
        score(BENCH, write_answers(TEXTS), tmp_path / "s.jsonl", data_root=root)
    assert not list(tmp_path.glob("s.*"))


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
