"""Predictions: format, resuming, refusals, and the commands around them, on the embedded base."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation import runner
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.commands.predict import default_out
from llava_teamlora.evaluation.runner import Plan, evaluate, predict
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.generation import Decoding, Generator
from llava_teamlora.machine import peak_memory_mib

BENCH = EasyVqa()
SHORT = Decoding(max_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture
def plan(tmp_path: Path, root: Path) -> Plan:
    return Plan(tmp_path / "out", batch_size=3, data_root=root)


def read(plan: Plan, name: str = "predictions.jsonl") -> str:
    return (plan.out / name).read_text()


def test_predictions_are_llavas_answers_with_a_key(loaded: Loaded, plan: Plan) -> None:
    path = predict(BENCH, loaded, SHORT, plan)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == 8
    assert list(rows[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata", "key"]
    assert len({row["answer_id"] for row in rows}) == 8
    lengths = [len(row["prompt"]) for row in rows]
    assert lengths[0] == max(lengths)
    pictures = [row["metadata"]["picture"] for row in rows]
    assert sum(a != b for a, b in zip(pictures, pictures[1:], strict=False)) == 2  # side by side
    manifest = json.loads(read(plan, "manifest.json"))
    assert manifest["cost"]["answered"] == 8 and manifest["cost"]["predict_seconds"] > 0
    assert 50 < manifest["cost"]["peak_mem_mib"] <= peak_memory_mib()
    assert manifest["decoding"]["max_new_tokens"] == 4 and len(manifest["benchmark"]["data_sha256"]) == 64


def test_batched_predictions_equal_single_ones(loaded: Loaded, plan: Plan, tmp_path: Path) -> None:
    single = replace(plan, out=tmp_path / "single", batch_size=1)
    predict(BENCH, loaded, SHORT, plan)
    predict(BENCH, loaded, SHORT, single)
    assert read(plan) == read(single)


@pytest.mark.parametrize("kept_bytes", [0, 1, 700, -1, -40])
def test_resume_after_a_kill_equals_the_straight_run(loaded: Loaded, plan: Plan, kept_bytes: int) -> None:
    straight = predict(BENCH, loaded, SHORT, plan).read_bytes()
    path = plan.out / "predictions.jsonl"
    path.write_bytes(straight[:kept_bytes])
    assert predict(BENCH, loaded, SHORT, plan).read_bytes() == straight


def test_resume_after_an_error_goes_on(loaded: Loaded, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = runner._answer
    calls: list[int] = []

    def second_fails(*arguments: Any) -> list[str]:
        calls.append(len(arguments[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(runner, "_answer", second_fails)
    with pytest.raises(KeyboardInterrupt):
        predict(BENCH, loaded, SHORT, plan)
    assert read(plan).count("\n") == 3
    assert json.loads(read(plan, "manifest.json"))["cost"]["answered"] == 3
    predict(BENCH, loaded, SHORT, plan)
    assert calls == [3, 3, 3, 2]  # the first batch is not answered again
    assert json.loads(read(plan, "manifest.json"))["cost"]["answered"] == 8
    monkeypatch.undo()
    before = read(plan)
    predict(BENCH, loaded, SHORT, replace(plan, overwrite=True))
    assert read(plan) == before


def test_nothing_is_answered_twice(loaded: Loaded, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(BENCH, loaded, SHORT, plan)
    monkeypatch.setattr(Generator, "generate", None)
    evaluate(BENCH, loaded, SHORT, plan)


def change_model(loaded: Loaded) -> tuple[Loaded, Decoding]:
    return replace(loaded, manifest={**loaded.manifest, "adapter_sha256": "0" * 64}), SHORT


def change_decoding(loaded: Loaded) -> tuple[Loaded, Decoding]:
    return loaded, replace(SHORT, max_new_tokens=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_model, "model.adapter_sha256 was None, is 00000"),
        (change_decoding, "decoding.max_new_tokens was 4, is 5"),
    ],
)
def test_another_run_is_not_continued(
    change: Callable[[Loaded], tuple[Loaded, Decoding]], message: str, loaded: Loaded, plan: Plan
) -> None:
    predict(BENCH, loaded, SHORT, plan)
    before = read(plan)
    model, decoding = change(loaded)
    with pytest.raises(UserError, match=f"holds answers made otherwise .*{re.escape(message)}.*--overwrite"):
        predict(BENCH, model, decoding, plan)
    assert read(plan) == before
    predict(BENCH, model, decoding, replace(plan, overwrite=True))


def test_a_moved_model_and_another_batch_size_are_continued(loaded: Loaded, plan: Plan) -> None:
    predict(BENCH, loaded, SHORT, plan)
    moved = replace(loaded, manifest={**loaded.manifest, "model": "elsewhere", "device": "tpu"})
    predict(BENCH, moved, SHORT, replace(plan, batch_size=2))


def test_other_data_is_not_continued(loaded: Loaded, plan: Plan, root: Path) -> None:
    predict(BENCH, loaded, SHORT, plan)
    questions = root / "test" / "questions.json"
    questions.write_text(questions.read_text().replace("blue", "teal"))
    with pytest.raises(UserError, match="benchmark.data_sha256 was"):
        predict(BENCH, loaded, SHORT, plan)


def test_answers_of_unknown_origin_are_not_continued(loaded: Loaded, plan: Plan) -> None:
    plan.out.mkdir()
    (plan.out / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"no manifest\.json says whose"):
        predict(BENCH, loaded, SHORT, plan)


def test_a_limit_makes_partial_scores(loaded: Loaded, plan: Plan) -> None:
    content = evaluate(BENCH, loaded, SHORT, replace(plan, limit=4))
    assert content["name"] == "easy_vqa [partial: 4 of 8]" and content["manifest"]["cost"]["answered"] == 4
    assert {json.loads(line)["question_id"] for line in read(plan).splitlines()} == {0, 1, 2, 3}
    content = evaluate(BENCH, loaded, SHORT, plan)
    assert content["name"] == "easy_vqa" and content["manifest"]["cost"]["answered"] == 8


def test_a_smaller_limit_scores_only_what_it_asks_for(loaded: Loaded, plan: Plan) -> None:
    evaluate(BENCH, loaded, SHORT, plan)
    before = read(plan)
    content = evaluate(BENCH, loaded, SHORT, replace(plan, limit=4))
    assert content["name"] == "easy_vqa [partial: 4 of 8]" and content["total"]["n"] == 4
    scored = [json.loads(line)["key"] for line in read(plan, "scores.rows.jsonl").splitlines()]
    assert scored == ["test/0", "test/1", "test/2", "test/3"]
    assert read(plan) == before
    evaluate(BENCH, loaded, SHORT, plan)
    assert json.loads(read(plan, "scores.json"))["name"] == "easy_vqa"


def break_manifest(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: {**manifest, **changes}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda manifest: {"name": "somebody's app", "version": 3}, "benchmark, model, decoding"),
        (break_manifest(model="runs/x"), "model"),
        (break_manifest(decoding=None), "decoding"),
        (break_manifest(cost=None), "cost"),
        (break_manifest(cost={"answered": 8}), "cost"),
        (break_manifest(cost={"answered": 8, "predict_seconds": "9", "peak_mem_mib": None}), "cost"),
    ],
)
def test_a_foreign_manifest_is_not_continued(
    change: Callable[[dict[str, Any]], dict[str, Any]], part: str, loaded: Loaded, plan: Plan
) -> None:
    predict(BENCH, loaded, SHORT, plan)
    path = plan.out / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = path.read_text()
    message = rf"^[^\n]*manifest\.json: is not a manifest of this version \({part} missing [^\n]*--overwrite[^\n]*$"
    with pytest.raises(UserError, match=message):
        predict(BENCH, loaded, SHORT, plan)
    assert path.read_text() == before
    predict(BENCH, loaded, SHORT, replace(plan, overwrite=True))


def test_answers_that_are_no_text_are_refused_and_kept(loaded: Loaded, plan: Plan) -> None:
    path = predict(BENCH, loaded, SHORT, plan)
    path.write_bytes(path.read_bytes() + b'{"key": "caf\xe9"}\ntorn')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"predictions\.jsonl: is not UTF-8 text \(.*\); use --overwrite"):
        predict(BENCH, loaded, SHORT, plan)
    with pytest.raises(UserError, match=r"predictions\.jsonl: is not UTF-8 text \(.*\); save it as UTF-8"):
        score(BENCH, path, plan.out / "scores.json", data_root=plan.data_root)
    assert path.read_bytes() == before


def test_a_missing_picture_is_named(loaded: Loaded, plan: Plan, root: Path) -> None:
    (root / "test" / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png: no such picture"):
        predict(BENCH, loaded, SHORT, plan)


def test_the_commands(tiny: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["easy_vqa", "--model", tiny, "--data_root", str(root), "--device", "cpu", "--out", str(out)]
    assert main(["evaluate", "run", *arguments, "--max_new_tokens", "4"]) == 0
    shown = capsys.readouterr()
    assert "question-only" in shown.out and "Loading weights" not in shown.err
    scores = (out / "scores.json").read_text()
    (out / "scores.json").unlink()
    answers = ["--answers", str(out / "predictions.jsonl"), "--data_root", str(root)]
    assert main(["evaluate", "score", "easy_vqa", *answers]) == 0
    assert (out / "scores.json").read_text() == scores
    assert main(["evaluate", "report", f"base={out / 'scores.json'}", "--format", "md"]) == 0
    assert "| base |" in capsys.readouterr().out
    assert main(["evaluate", "predict", *arguments, "--max_new_tokens", "5"]) == 1
    assert "decoding.max_new_tokens was 4, is 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["easy_vqq"], "did you mean 'easy_vqa'"),
        (["easy_vqa", "--limit", "0"], "--limit 0 must be at least 1"),
        (["easy_vqa", "--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["easy_vqa", "--top_p", "2"], "--top_p 2.0 must be"),
        (["easy_vqa"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", *flags, "--model", "nowhere"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_default_folders() -> None:
    assert default_out("run", "runs/x", "easy_vqa") == Path("runs/x/evaluation/easy_vqa")
    assert default_out("base", "playground/tiny", "easy_vqa") == Path("runs/base-evaluation/tiny/easy_vqa")
