"""``evaluate run`` and ``evaluate predict``: several benchmarks, endings, failures, mistakes and where things go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llava_teamlora.cli import main
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction import setup
from llava_teamlora.evaluation.prediction.setup import default_folder
from llava_teamlora.evaluation.types import Need, Sample
from llava_teamlora.run_card import RUN_FILE


class Blind(EasyVqa):
    """The same questions without their pictures: text-only rows."""

    name = "blind"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        return [replace(sample, image=None) for sample in super().load(data_root)]


class Served(EasyVqa):
    """Scored by a server."""

    name = "served"
    server = "upload it to the server"

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        out.mkdir(parents=True, exist_ok=True)
        path = out / "upload.json"
        path.write_text(json.dumps([[s.question_id, text] for s, text in zip(samples, texts, strict=True)]))
        return [path]


class Judged(Served):
    """Graded by a judge."""

    name = "judged"
    server = ""
    judged = True


class Absent(EasyVqa):
    """Its files are not there."""

    name = "absent"

    def needs(self, data_root: Path | None = None) -> list[Need]:
        return [Need(Path("nowhere/questions.json"), "the questions", "the author")]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {b.name: b for b in (EasyVqa(), Blind(), Served(), Judged(), Absent())}
    monkeypatch.setattr(setup, "BENCHMARKS", found)
    monkeypatch.setattr(setup, "get_benchmark", found.__getitem__)


@pytest.fixture
def flags(tiny: str, root: Path, tmp_path: Path) -> list[str]:
    where = ["--data_root", str(root), "--out", str(tmp_path / "out")]
    return ["--model", tiny, "--device", "cpu", "--max_new_tokens", "4", *where]


def test_one_benchmark(
    flags: list[str], root: Path, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "run", "easy_vqa", *flags]) == 0
    shown = capsys.readouterr()
    assert "question-only" in shown.out and f"scores: {out / 'scores.json'}" in shown.out
    assert "8 questions in" in shown.out and "Loading weights" not in shown.err
    scores = (out / "scores.json").read_text()
    (out / "scores.json").unlink()
    answers = ["--answers", str(out / "predictions.jsonl"), "--data_root", str(root)]
    assert main(["evaluate", "score", "easy_vqa", *answers]) == 0
    assert (out / "scores.json").read_text() == scores
    assert main(["evaluate", "report", f"base={out / 'scores.json'}", "--format", "md"]) == 0
    assert "| base |" in capsys.readouterr().out
    assert main(["evaluate", "predict", "easy_vqa", *flags, "--max_new_tokens", "5"]) == 1
    assert "decoding.max_new_tokens was 4, is 5" in capsys.readouterr().err


def test_several_benchmarks_take_one_loading_and_end_each_in_its_way(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_teamlora.generation import loading

    loadings: list[str] = []
    load = loading.load_quietly
    monkeypatch.setattr(loading, "load_quietly", lambda path, **k: loadings.append(path) or load(path, **k))
    assert main(["evaluate", "run", "all", *flags]) == 0
    shown, out = capsys.readouterr(), tmp_path / "out"
    assert len(loadings) == 1
    assert "not there: absent: nowhere/questions.json is missing" in shown.err
    assert {path.name for path in out.iterdir()} == {"easy_vqa", "blind", "served", "judged"}
    assert (out / "easy_vqa" / "scores.json").is_file() and (out / "blind" / "scores.json").is_file()
    assert len(json.loads((out / "served" / "export" / "upload.json").read_text())) == 8
    assert "served: then: upload it to the server" in shown.out
    assert "judged: then: llava-teamlora evaluate grade judged --answers" in shown.out
    assert not (out / "served" / "scores.json").exists()
    blind = json.loads((out / "blind" / "manifest.json").read_text())
    assert "USER: what shape is it?" in blind["first_prompt"] and blind["cost"]["pictures_decoded"] == 0


def test_a_part_is_not_exported(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "served", *flags, "--limit", "2"]) == 0
    assert "2 of 8 questions: nothing is exported before all are answered" in capsys.readouterr().out
    assert not (tmp_path / "out" / "export").exists()
    assert main(["evaluate", "predict", "served", *flags]) == 0
    assert f"answers: {tmp_path / 'out' / 'predictions.jsonl'}" in capsys.readouterr().out


def test_a_limit_in_a_finished_folder_spares_its_scores(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "run", "easy_vqa", *flags]) == 0
    before = (out / "scores.json").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", "run", "easy_vqa", *flags, "--limit", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 questions asked for; so far 8 answered in " in said and "partial: 2 of 8" in said
    assert f"scores: {out / 'scores.limit-2.json'} (partial; those of more questions stay in " in said
    assert (out / "scores.json").read_bytes() == before


def test_one_failure_does_not_lose_the_others(
    flags: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "easy-vqa" / "test" / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n but then nothing")
    assert main(["evaluate", "run", "served", "easy_vqa", "blind", *flags]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("failed: ") == 2 and "1.png: not a readable picture" in shown.err
    assert "blind" in shown.out and (tmp_path / "out" / "blind" / "scores.json").is_file()
    assert not (tmp_path / "out" / "easy_vqa" / "predictions.jsonl").exists()
    assert main(["evaluate", "run", "easy_vqa", *flags]) == 1  # alone, it is the error
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_what_is_missing_is_told_before_the_model_is_loaded(
    flags: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is not there is never looked at."""
    flags = [*flags, "--model", "nowhere"]
    (root / "easy-vqa" / "test" / "images" / "1.png").unlink()
    assert main(["evaluate", "run", "easy_vqa", "blind", *flags]) == 1
    assert "easy_vqa: " in (said := capsys.readouterr().err) and "1 of 3 pictures are missing" in said
    (tmp_path / "out").write_text("a file")
    assert main(["evaluate", "run", "blind", *flags]) == 1
    assert "out: is no folder, so no answers can be written" in capsys.readouterr().err


def test_earlier_answers_of_other_data_are_refused_before_the_model_is_loaded(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "predict", "easy_vqa", *flags]) == 0
    assert main(["evaluate", "predict", "blind", *flags, "--model", "nowhere"]) == 1
    assert "holds answers made otherwise (benchmark.name was easy_vqa, is blind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["easy_vqa", "--limit", "0"], "--limit 0 must be at least 1"),
        (["easy_vqa", "--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["easy_vqa", "--top_p", "2"], "--top_p 2.0 must be"),
        (["easy_vqa", "--mode", "paper", "--batch_size", "4"], "--batch_size 4 is for --mode fast"),
        (["easy_vqa", "--concurrency", "4"], "--concurrency is for --endpoint"),
        (["easy_vqa", "--endpoint", "http://x/v1"], "--model is for a model loaded here; drop it or --endpoint"),
        (["easy_vqa", "all"], "all stands for every benchmark"),
        (["easy_vqa"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", *flags, "--model", "nowhere"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_somebody_must_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "easy_vqa"]) == 1
    assert "who is to answer? Give --model PATH or --endpoint URL" in capsys.readouterr().err


def test_an_unknown_benchmark_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    assert "easy_vqa" in BENCHMARKS
    assert main(["evaluate", "run", "easy_vqq", "--model", "nowhere"]) == 1
    assert "did you mean 'easy_vqa'" in capsys.readouterr().err


def test_default_folders(tmp_path: Path) -> None:
    assert default_folder("playground/tiny") == Path("runs/base-evaluation/tiny")
    (tmp_path / RUN_FILE).touch()
    assert default_folder(str(tmp_path)) == tmp_path / "evaluation"
