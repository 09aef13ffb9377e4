"""Predictions: format, resuming, refusals, and the commands around them, on the embedded base."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction.batches import make_batches
from llava_teamlora.evaluation.prediction.journal import locked
from llava_teamlora.evaluation.runner import ModelAnswerer, Plan, evaluate, predict
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.generation import Decoding, Generator
from llava_teamlora.machine import peak_memory_mib

BENCH = EasyVqa()
SHORT = Decoding(max_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture
def model(loaded: Loaded) -> ModelAnswerer:
    return ModelAnswerer(loaded)


@pytest.fixture
def plan(tmp_path: Path, root: Path) -> Plan:
    return Plan(tmp_path / "out", batch_size=3, data_root=root)


def read(plan: Plan, name: str = "predictions.jsonl") -> str:
    return (plan.out / name).read_text()


def test_predictions_are_llavas_answers_with_a_key(model: ModelAnswerer, plan: Plan) -> None:
    path = predict(BENCH, model, SHORT, plan)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"test/{i}" for i in range(8)]  # the benchmark's order
    assert list(rows[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata", "key"]
    assert len({row["answer_id"] for row in rows}) == 8
    assert sorted(file.name for file in plan.out.iterdir()) == ["manifest.json", "predictions.jsonl"]


def test_the_manifest_says_how_answers_were_made_and_what_they_cost(model: ModelAnswerer, plan: Plan) -> None:
    rows = [json.loads(line) for line in predict(BENCH, model, SHORT, plan).read_text().splitlines()]
    manifest = json.loads(read(plan, "manifest.json"))
    assert manifest["first_prompt"] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nwhat shape is it? ASSISTANT:"
    )
    assert manifest["decoding"] == {
        "mode": "fast", "answer_by": "generation", "max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0,
        "num_beams": 1, "seed": 0,
    }  # fmt: skip
    (leg,) = manifest["legs"]
    assert {name: leg[name] for name in ("batch_size", "processes", "device", "attn_implementation", "ended")} == {
        "batch_size": 3, "processes": 1, "device": "cpu", "attn_implementation": "sdpa", "ended": True,
    }  # fmt: skip
    assert not {"device", "attn_implementation"} & manifest["model"].keys()
    assert len(manifest["benchmark"]["data_sha256"]) == 64
    cost = manifest["cost"]
    tokens = [len(model.generator.tokenizer(row["text"], add_special_tokens=False).input_ids) for row in rows]
    assert cost["answered"] == 8 and cost["generated_tokens"] == sum(tokens)
    assert cost["cut_short"] == sum(count == 4 for count in tokens)
    assert cost["pictures_decoded"] == 5  # in batches of three questions: 2 2 1 | 1 1 0 | 0 0, so 2 + 2 + 1
    assert cost["predict_seconds"] > 0 and cost["questions_per_second"] > 0 and cost["tokens_per_second"] > 0
    assert 50 < cost["peak_mem_mib"] <= peak_memory_mib()


def test_batches_are_longest_first_with_a_pictures_questions_together(root: Path) -> None:
    samples = BENCH.load(root)
    blind = [replace(sample, key=f"blind/{i}", image=None) for i, sample in enumerate(samples[:2])]
    batches = make_batches([*blind, *samples], 3)
    assert [len(batch) for batch in batches] == [3, 3, 2, 2]
    assert [sample.key for sample in batches[3]] == ["blind/0", "blind/1"]  # never with those that have a picture
    pictured = [sample for batch in batches[:3] for sample in batch]
    assert pictured[0].key == "test/7"  # "is it not there at all?" is the longest question
    pictures = [sample.image for sample in pictured]
    assert sum(a != b for a, b in zip(pictures, pictures[1:], strict=False)) == 2  # side by side


def test_batched_predictions_equal_those_of_paper_mode(model: ModelAnswerer, plan: Plan, tmp_path: Path) -> None:
    paper = replace(plan, out=tmp_path / "paper", batch_size=None, mode="paper")
    theirs = replace(SHORT, max_new_tokens=BENCH.max_new_tokens)
    predict(BENCH, model, theirs, plan)
    predict(BENCH, model, theirs, paper)
    assert read(plan) == read(paper)
    manifest = json.loads(read(paper, "manifest.json"))
    assert (manifest["legs"][0]["batch_size"], manifest["decoding"]["mode"]) == (1, "paper")
    with pytest.raises(UserError, match="decoding.mode was paper, is fast"):
        predict(BENCH, model, theirs, replace(paper, mode="fast"))


@pytest.mark.parametrize(
    ("decoding", "changes", "message"),
    [
        (Decoding(5), {}, r"--max_new_tokens 5 is not what LLaVA allows easy_vqa \(16\)"),
        (Decoding(16, temperature=0.2), {}, "--mode paper is greedy"),
        (Decoding(16, num_beams=2), {}, "--mode paper is greedy"),
        (Decoding(16), {"batch_size": 3}, "--batch_size 3 is for --mode fast"),
    ],
)
def test_paper_mode_is_llavas_own_way(
    decoding: Decoding, changes: dict[str, Any], message: str, model: ModelAnswerer, plan: Plan
) -> None:
    with pytest.raises(UserError, match=message):
        predict(BENCH, model, decoding, replace(plan, **{"mode": "paper", "batch_size": None, **changes}))


@pytest.mark.parametrize("kept_bytes", [0, 1, 700, -1, -40])
def test_resume_after_a_kill_equals_the_straight_run(model: ModelAnswerer, plan: Plan, kept_bytes: int) -> None:
    """What a kill leaves: a process's own file, ending anywhere."""
    straight = predict(BENCH, model, SHORT, plan).read_bytes()
    path = plan.out / "predictions.jsonl"
    (plan.out / "predictions.rank-0.jsonl").write_bytes(straight[:kept_bytes])
    path.unlink()
    assert predict(BENCH, model, SHORT, plan).read_bytes() == straight


def test_a_kill_between_merging_and_clearing_up_does_no_harm(model: ModelAnswerer, plan: Plan) -> None:
    straight = predict(BENCH, model, SHORT, plan).read_bytes()
    (plan.out / "predictions.rank-0.jsonl").write_bytes(straight[:700])
    predict(BENCH, model, SHORT, plan)
    assert sorted(file.name for file in plan.out.iterdir()) == ["manifest.json", "predictions.jsonl"]
    assert (plan.out / "predictions.jsonl").read_bytes() == straight


def test_resume_after_an_interruption_goes_on(
    model: ModelAnswerer, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = model._answers
    calls: list[int] = []

    def second_fails(*arguments: Any) -> Any:
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answers(*arguments)

    monkeypatch.setattr(model, "_answers", second_fails)
    with pytest.raises(KeyboardInterrupt):
        predict(BENCH, model, SHORT, plan)
    assert read(plan, "predictions.rank-0.jsonl").count("\n") == 3
    assert json.loads(read(plan, "manifest.json"))["cost"]["answered"] == 3
    predict(BENCH, model, SHORT, plan)
    assert calls == [3, 3, 3, 2]  # the first batch is not answered again
    assert json.loads(read(plan, "manifest.json"))["cost"]["answered"] == 8
    monkeypatch.undo()
    before = read(plan)
    predict(BENCH, model, SHORT, replace(plan, overwrite=True))
    assert read(plan) == before


def test_overwritten_answers_leave_no_scores_behind(model: ModelAnswerer, plan: Plan) -> None:
    """A test server's or a judge's score would else stand beside the answers of another model."""
    evaluate(BENCH, model, SHORT, plan)
    predict(BENCH, model, SHORT, replace(plan, overwrite=True))
    assert sorted(path.name for path in plan.out.iterdir()) == ["manifest.json", "predictions.jsonl"]


def test_nothing_is_answered_twice(model: ModelAnswerer, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(BENCH, model, SHORT, plan)
    monkeypatch.setattr(Generator, "generate", None)
    evaluate(BENCH, model, SHORT, plan)


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
    predict(BENCH, ModelAnswerer(loaded), SHORT, plan)
    before = read(plan)
    other, decoding = change(loaded)
    with pytest.raises(UserError, match=f"holds answers made otherwise .*{re.escape(message)}.*--overwrite"):
        predict(BENCH, ModelAnswerer(other), decoding, plan)
    assert read(plan) == before
    predict(BENCH, ModelAnswerer(other), decoding, replace(plan, overwrite=True))


def test_a_moved_model_and_another_batch_size_are_continued(loaded: Loaded, plan: Plan) -> None:
    predict(BENCH, ModelAnswerer(loaded), SHORT, plan)
    moved = replace(loaded, manifest={**loaded.manifest, "model": "elsewhere", "device": "tpu"})
    predict(BENCH, ModelAnswerer(moved), SHORT, replace(plan, batch_size=2))


def test_other_data_is_not_continued(model: ModelAnswerer, plan: Plan, root: Path) -> None:
    predict(BENCH, model, SHORT, plan)
    questions = root / "easy-vqa" / "test" / "questions.json"
    questions.write_text(questions.read_text().replace("blue", "teal"))
    with pytest.raises(UserError, match="benchmark.data_sha256 was"):
        predict(BENCH, model, SHORT, plan)


def test_answers_of_unknown_origin_are_not_continued(model: ModelAnswerer, plan: Plan) -> None:
    plan.out.mkdir()
    (plan.out / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"no manifest\.json says whose"):
        predict(BENCH, model, SHORT, plan)


def test_a_limit_makes_partial_scores(model: ModelAnswerer, plan: Plan) -> None:
    content = evaluate(BENCH, model, SHORT, replace(plan, limit=4))
    assert content["name"] == "easy_vqa [partial: 4 of 8]" and content["manifest"]["cost"]["answered"] == 4
    assert {json.loads(line)["question_id"] for line in read(plan).splitlines()} == {0, 1, 2, 3}
    content = evaluate(BENCH, model, SHORT, plan)
    assert content["name"] == "easy_vqa" and content["manifest"]["cost"]["answered"] == 8


def test_a_smaller_limit_leaves_the_scores_of_all(model: ModelAnswerer, plan: Plan) -> None:
    evaluate(BENCH, model, SHORT, plan)
    before = {path.name: path.read_bytes() for path in plan.out.iterdir()}
    content = evaluate(BENCH, model, SHORT, replace(plan, limit=4))
    assert content["name"] == "easy_vqa [partial: 4 of 8]" and content["total"]["n"] == 4
    scored = [json.loads(line)["key"] for line in read(plan, "scores.limit-4.rows.jsonl").splitlines()]
    assert scored == ["test/0", "test/1", "test/2", "test/3"]
    after = {path.name: path.read_bytes() for path in plan.out.iterdir()}
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"scores.limit-4.json", "scores.limit-4.rows.jsonl"}
    predict(BENCH, model, SHORT, replace(plan, overwrite=True))
    assert sorted(path.name for path in plan.out.iterdir()) == ["manifest.json", "predictions.jsonl"]


def test_partial_scores_give_way_to_those_of_more_questions(model: ModelAnswerer, plan: Plan) -> None:
    for limit, name in ((2, "easy_vqa [partial: 2 of 8]"), (4, "easy_vqa [partial: 4 of 8]"), (None, "easy_vqa")):
        evaluate(BENCH, model, SHORT, replace(plan, limit=limit))
        assert json.loads(read(plan, "scores.json"))["name"] == name
    assert not list(plan.out.glob("scores.limit-*"))


def legs(plan: Plan) -> list[dict[str, Any]]:
    return json.loads(read(plan, "manifest.json"))["legs"]


def test_each_leg_says_how_it_was_made(loaded: Loaded, plan: Plan) -> None:
    predict(BENCH, ModelAnswerer(loaded), SHORT, replace(plan, limit=3))
    place = {"device": "tpu", "attn_implementation": "eager", "model": "elsewhere"}
    moved = ModelAnswerer(replace(loaded, manifest={**loaded.manifest, **place}))
    predict(BENCH, moved, SHORT, replace(plan, batch_size=2))
    first, second = legs(plan)
    names = ("batch_size", "device", "attn_implementation", "answered")
    assert [first[name] for name in names] == [3, "cpu", "sdpa", 3]
    assert [second[name] for name in names] == [2, "tpu", "eager", 5]
    manifest = json.loads(read(plan, "manifest.json"))
    assert manifest["model"]["model"] == loaded.manifest["model"]  # of those that were there first
    assert manifest["cost"]["answered"] == 8
    assert manifest["cost"]["generated_tokens"] == first["generated_tokens"] + second["generated_tokens"]


def test_a_restart_with_nothing_left_changes_nothing(loaded: Loaded, plan: Plan) -> None:
    predict(BENCH, ModelAnswerer(loaded), SHORT, plan)
    before = read(plan, "manifest.json")
    moved = ModelAnswerer(replace(loaded, manifest={**loaded.manifest, "device": "tpu"}))
    predict(BENCH, moved, SHORT, replace(plan, batch_size=1))
    assert read(plan, "manifest.json") == before


def test_what_was_answered_before_an_outright_kill_is_counted(model: ModelAnswerer, plan: Plan) -> None:
    """Three answers on the disk, of which the manifest knows one; then the rest."""
    predict(BENCH, model, SHORT, replace(plan, limit=3))
    path = plan.out / "manifest.json"
    manifest = json.loads(path.read_text())
    killed = {"answered": 1, "generated_tokens": 4, "seconds": 30.0, "ended": False}
    manifest["legs"] = [{**manifest["legs"][0], **killed}]
    path.write_text(json.dumps(manifest))
    predict(BENCH, model, SHORT, plan)
    first, second = legs(plan)
    assert (first["answered"], first["ended"], second["answered"]) == (3, False, 5)
    cost = json.loads(path.read_text())["cost"]
    assert cost["answered"] == 8 and cost["predict_seconds"] == round(30 + second["seconds"], 2)
    assert cost["questions_per_second"] == round(5 / second["seconds"], 2)  # the killed leg's seconds are not all known


def test_how_far_a_leg_is_is_noted_while_it_goes_on(
    model: ModelAnswerer, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_teamlora.evaluation.prediction.share._NOTE_EVERY_S", 0.0)
    answers, seen = model._answers, []

    def look(*arguments: Any) -> Any:
        seen.extend((leg["answered"], leg["ended"]) for leg in legs(plan))
        return answers(*arguments)

    monkeypatch.setattr(model, "_answers", look)
    predict(BENCH, model, SHORT, plan)
    assert seen == [(0, False), (3, False), (6, False)]


def test_answers_name_the_model_by_its_folder(loaded: Loaded, plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "my-run" / "checkpoint-20"
    folder.mkdir(parents=True)
    for path, name in (
        (str(folder), "my-run_checkpoint-20"),
        (f"{tmp_path}/other/../my-run/", "my-run"),
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        predict(BENCH, ModelAnswerer(replace(loaded, name=path)), SHORT, replace(plan, limit=1, overwrite=True))
        assert json.loads(read(plan).splitlines()[0])["model_id"] == name


def test_overwriting_spares_a_run_at_work(model: ModelAnswerer, plan: Plan) -> None:
    predict(BENCH, model, SHORT, plan)
    before = read(plan)
    with locked(plan.out), pytest.raises(UserError, match=r"out: another process is at work there; wait for it"):
        predict(BENCH, model, SHORT, replace(plan, overwrite=True))
    assert read(plan) == before
    predict(BENCH, model, SHORT, replace(plan, overwrite=True))


def break_manifest(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: {**manifest, **changes}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda manifest: {"name": "somebody's app", "version": 3}, "benchmark, model, decoding, legs"),
        (break_manifest(model="runs/x"), "model"),
        (break_manifest(decoding=None), "decoding"),
        (break_manifest(legs=None), "legs"),
        (break_manifest(legs=[{"answered": 8}]), "legs"),
        (lambda manifest: {**manifest, "legs": [{**manifest["legs"][0], "seconds": "9"}]}, "legs"),
    ],
)
def test_a_foreign_manifest_is_not_continued(
    change: Callable[[dict[str, Any]], dict[str, Any]], part: str, model: ModelAnswerer, plan: Plan
) -> None:
    predict(BENCH, model, SHORT, plan)
    path = plan.out / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = path.read_text()
    message = rf"^[^\n]*manifest\.json: is not a manifest of this version \({part} missing [^\n]*--overwrite[^\n]*$"
    with pytest.raises(UserError, match=message):
        predict(BENCH, model, SHORT, plan)
    assert path.read_text() == before
    predict(BENCH, model, SHORT, replace(plan, overwrite=True))


def test_answers_that_are_no_text_are_refused_and_kept(model: ModelAnswerer, plan: Plan) -> None:
    path = predict(BENCH, model, SHORT, plan)
    path.write_bytes(path.read_bytes() + b'{"key": "caf\xe9"}\ntorn')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 9: is not UTF-8 text \(.*\); use --overwrite"):
        predict(BENCH, model, SHORT, plan)
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 9: is not UTF-8 text \(.*\); save it as UTF-8"):
        score(BENCH, path, plan.out / "scores.json", data_root=plan.data_root)
    assert path.read_bytes() == before


def test_a_missing_picture_is_named(model: ModelAnswerer, plan: Plan, root: Path) -> None:
    (root / "easy-vqa" / "test" / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png: no such picture"):
        predict(BENCH, model, SHORT, plan)


def test_memory_that_does_not_suffice_is_told(
    model: ModelAnswerer, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(model.generator, "generate", full)
    with pytest.raises(UserError, match=r"--batch_size 3 does not fit into the device's memory \(CUDA .* 2 GiB\.\)"):
        predict(BENCH, model, SHORT, plan)


def test_memory_is_free_again_after_it_did_not_suffice(
    model: ModelAnswerer, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next benchmark runs after it in the same process: an error must not hold what the failed batch held."""
    held: list[weakref.ref[torch.Tensor]] = []

    def forward(activations: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def full(*_: object) -> None:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        forward(activations)

    monkeypatch.setattr(model.generator, "generate", full)
    gc.disable()  # what a cycle holds is held until the collector comes, perhaps long after the next batch
    try:
        with pytest.raises(UserError, match="--batch_size 3 does not fit") as caught:
            predict(BENCH, model, SHORT, plan)
        assert held[0]() is None  # though the error is there still
        error = weakref.ref(caught.value)
        del caught
        assert error() is None
    finally:
        gc.enable()


def test_what_is_answered_already_is_not_set_aside(
    model: ModelAnswerer, plan: Plan, root: Path, tmp_path: Path
) -> None:
    """The first batch is 7, 6 and 5; 5 was answered, and is asked again with them, though its picture is gone."""
    straight = predict(BENCH, model, SHORT, replace(plan, out=tmp_path / "straight")).read_bytes()
    images = root / "easy-vqa" / "test" / "images"
    pictures = {name: (images / name).read_bytes() for name in ("1.png", "2.png")}
    (images / "2.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"^2 of 8 questions could not be answered"):
        predict(BENCH, model, SHORT, plan)
    (images / "2.png").write_bytes(pictures["2.png"])
    (images / "1.png").write_bytes(b"damaged")
    assert predict(BENCH, model, SHORT, plan).read_bytes() == straight
