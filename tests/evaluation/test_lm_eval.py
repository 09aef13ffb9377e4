"""lm-eval's protocol: its tasks over local files, and our model as it asks models. Half needs the extra lm-eval."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from made_bases import make_language_model

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.commands.lm_eval import _lines
from llava_teamlora.evaluation.lm_eval.documents import HARNESSED, harnessed, write_documents
from llava_teamlora.evaluation.lm_eval.run import Settings, chosen
from llava_teamlora.evaluation.report import build_report

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "eval" / "fixtures"
TINY = str(ROOT / "playground" / "tiny")


def documents(name: str, folder: Path, root: Path = FIXTURES) -> list[dict[str, Any]]:
    write_documents(harnessed([name]), root, "test", folder)
    return [json.loads(line) for line in (folder / f"{name}.test.jsonl").read_text(encoding="utf-8").splitlines()]


# --- Documents: no lm-eval needed


def test_names_of_both_kinds() -> None:
    assert [one.name for one in harnessed(["anli", "arc_easy"])] == ["anli_r1", "anli_r2", "anli_r3", "arc_easy"]
    assert len(harnessed(["mmlu"])) == 57 and len(harnessed(["cme"])) == len(HARNESSED) == 67
    with pytest.raises(UserError, match="'tldr': lm-eval has no task for it; this protocol has anli, qqp, rte"):
        harnessed(["tldr"])
    with pytest.raises(UserError, match="did you mean 'winogrande'"):
        harnessed(["winogrand"])


def test_documents_are_the_hubs(tmp_path: Path) -> None:
    """Fields, and labels' numbers, as lm-eval's task files use them."""
    (first, *_) = documents("anli_r1", tmp_path)
    assert first["hypothesis"] == "The mill's wheel is younger than the mill." and first["label"] == 0  # entailment
    assert {row["label"] for row in documents("rte", tmp_path)} <= {0, 1}
    first = documents("qqp", tmp_path)[0]
    assert first["question1"] == "How do I oil a wooden spoon?" and first["label"] == 1  # duplicate
    first = documents("winogrande", tmp_path)[0]
    assert set(first) == {"sentence", "option1", "option2", "answer"} and first["answer"] in ("1", "2")
    first = documents("arc_easy", tmp_path)[0]
    assert first["choices"] == {"text": ["a cork", "a coin", "a brick", "a nail"], "label": ["A", "B", "C", "D"]}
    assert first["answerKey"] == "A"
    assert documents("nq_open", tmp_path)[1]["answer"] == ["14 May 1931", "May 1931"]
    # Aliases as they are written, not in normal form as the items of evaluate run have them.
    assert documents("triviaqa", tmp_path)[0]["answer"] == {"aliases": ["River Winn", "The Winn", "Winn (river)"]}


def test_mmlus_subjects_come_apart(tmp_path: Path) -> None:
    wanted = chosen(["mmlu"], FIXTURES)
    listed = (FIXTURES / "mmlu" / "subjects.txt").read_text(encoding="utf-8").split()
    assert sorted(one.group for one in wanted) == sorted(listed)
    counts = write_documents(wanted, FIXTURES, "test", tmp_path)
    assert sum(counts.values()) == sum(len(path.read_text().splitlines()) for path in tmp_path.iterdir()) >= 2
    row = json.loads((tmp_path / f"{wanted[0].name}.test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert len(row["choices"]) == 4 and row["answer"] in range(4)
    with pytest.raises(UserError, match=r"hold nothing for 1 tasks \(mmlu_virology\)"):
        write_documents(chosen(["mmlu_virology"], FIXTURES), FIXTURES, "test", tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nq.NQ-open.dev.jsonl: no such file .*evaluate check nq"):
        write_documents(harnessed(["nq"]), tmp_path, "test", tmp_path)
    with pytest.raises(UserError, match=r"NQ-open.train.jsonl: no such file \(--num_fewshot takes its examples"):
        write_documents(harnessed(["nq"]), FIXTURES, "shots", tmp_path)
    with pytest.raises(UserError, match="--num_fewshot -1 must be at least 0"):
        Settings(num_fewshot=-1)


def test_no_table_takes_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "lm_eval.json"
    path.write_text(json.dumps({"protocol": "lm-eval", "tasks": {}}))
    with pytest.raises(UserError, match="of the protocol 'lm-eval', whose figures share no table"):
        build_report([str(path)])
    with pytest.raises(UserError, match="holds no scores.json"):
        build_report([str(tmp_path)])


def test_a_line_a_task() -> None:
    cell = {"acc": {"value": 0.25, "stderr": 0.125}, "f1": {"value": 0.5, "stderr": None}}
    task = {"benchmark": "qqp", "n": 4, "of": 8, "metrics": cell}
    subject = {"benchmark": "mmlu", "n": 1, "of": 1, "metrics": cell}
    content = {
        "lm_eval": "0", "model": "m", "note": "n", "contexts_cut": 3, "tasks": {"qqp": task, "mmlu_x": subject},
        "groups": {"mmlu": {"metrics": cell}},
    }  # fmt: skip
    _, qqp, mmlu, cut = _lines(content)
    assert qqp.split() == ["qqp", "acc", "25.0", "±", "12.5", "f1", "50.0", "4", "of", "8"]
    assert mmlu.split()[:2] == ["mmlu", "acc"] and cut.startswith("3 contexts")


# --- The rest needs lm-eval, which warns of this and that.

quiet = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_language_model(tmp_path_factory.mktemp("llama"), TINY, max_position_embeddings=64)


def instance(kind: Any, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.fixture
def both(base: str) -> tuple[Any, Any]:
    """Our model and lm-eval's own wrapper, over the same weights."""
    pytest.importorskip("lm_eval")
    from llava_teamlora.evaluation.lm_eval.run import require_lm_eval

    require_lm_eval()
    from lm_eval.models.huggingface import HFLM

    from llava_teamlora.checkpoint import load_model
    from llava_teamlora.evaluation.lm_eval.model import HarnessedModel

    loaded = load_model(base, device="cpu", dtype="float32")
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=3, device="cpu", max_length=64)
    return HarnessedModel(loaded, batch_size=3), theirs


LONG = "what color is the shape in the picture? " * 12  # more than 64 positions


@quiet
def test_log_likelihoods_are_lm_evals_own(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    pairs = [
        ("what color is it?", " red"), ("what color is it?", " blue"), ("what color is it?", " a red circle"),
        ("is it a circle? ", "yes"), ("", "yes it is"), ("", " no"), ("<s>what shape?", " circle"), (LONG, " yes"),
        (LONG, " it is a circle, not a triangle"), ("a", " b"), ("yes", "\nno"), (f"{LONG}!", " yes"),
    ]  # fmt: skip
    requests = [instance("loglikelihood", *pair) for pair in pairs]
    found, expected = ours.loglikelihood(requests, disable_tqdm=True), theirs.loglikelihood(requests, disable_tqdm=True)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.cut == 3
    # What the model itself writes is greedy.
    written = ours.generate_until([instance("generate_until", "is it", {"until": [], "max_gen_toks": 1})], True)
    ((_, greedy),) = ours.loglikelihood([instance("loglikelihood", "is it", written[0])], disable_tqdm=True)
    assert isinstance(greedy, bool)


@quiet
def test_rolling_log_likelihoods_are_lm_evals_own(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    requests = [instance("loglikelihood_rolling", text) for text in ("what color is it?", LONG * 3, "a")]
    found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), rel=1e-5, abs=2e-4)


@quiet
def test_what_is_written_is_lm_evals_own(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    plain = {"until": ["\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 12}
    letter = {"until": ["e", "a"], "max_gen_toks": 20}
    asked = [("what color is it?", plain), ("is it a circle?", letter), (LONG, plain), ("yes", letter), ("no", plain)]
    requests = [instance("generate_until", text, dict(settings)) for text, settings in asked]
    found = ours.generate_until(requests, disable_tqdm=True)
    assert found == theirs.generate_until(requests, disable_tqdm=True)
    assert not any(mark in found[1] for mark in "ea") and ours.cut == 1
    with pytest.raises(UserError, match="decodes greedily"):
        ours.generate_until([instance("generate_until", "x", {"do_sample": True, "temperature": 1.0})])
    with pytest.raises(UserError, match="has 64 positions, which leaves none for a question beside 256 tokens"):
        ours.generate_until([instance("generate_until", "x", {})])


@quiet
def test_tasks_run_over_local_files_without_a_net(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    from llava_teamlora.checkpoint import load_model
    from llava_teamlora.evaluation.lm_eval.run import require_lm_eval, run_lm_eval

    require_lm_eval()

    def refuse(*_: Any) -> None:
        raise AssertionError("the net was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = load_model(make_language_model(tmp_path / "llama", TINY), device="cpu", dtype="float32")
    wanted = chosen(["rte", "arc_easy", "winogrande", "nq"], FIXTURES)
    content = run_lm_eval(loaded, wanted, Settings(batch_size=2, limit=2), tmp_path / "out", FIXTURES)
    written = json.loads((tmp_path / "out" / "lm_eval.json").read_text(encoding="utf-8"))
    assert written["tasks"] == content["tasks"] and written["manifest"]["kind"] == "base"
    assert content["protocol"] == "lm-eval" and list(content["tasks"]) == ["rte", "arc_easy", "winogrande", "nq_open"]
    metrics = {name: set(one["metrics"]) for name, one in content["tasks"].items()}
    assert metrics["arc_easy"] == {"acc", "acc_norm"} and metrics["nq_open"] == {"exact_match"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "lm_eval.rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and rows[0]["prompt"].endswith("True or False?\nAnswer:")
    for name, one in content["tasks"].items():
        mine = [row for row in rows if row["task"] == name]
        metric = "exact_match" if name == "nq_open" else "acc"
        assert one["n"] == len(mine) == 2 and one["of"] > 2
        assert one["metrics"][metric]["value"] == pytest.approx(sum(row[metric] for row in mine) / 2)
    assert not list((tmp_path / "out").glob("*/scores.json")) and not (tmp_path / "out" / "scores.json").exists()


@quiet
def test_examples_come_from_the_training_split(base: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from llava_teamlora.checkpoint import load_model
    from llava_teamlora.evaluation.lm_eval.run import run_lm_eval

    shutil.copytree(FIXTURES / "nq", tmp_path / "nq")
    row = {"question": "what is the example", "answer": ["this"]}
    (tmp_path / "nq" / "NQ-open.train.jsonl").write_text(json.dumps(row) + "\n")
    loaded = load_model(make_language_model(tmp_path / "llama", TINY), device="cpu", dtype="float32")
    run_lm_eval(loaded, chosen(["nq"], tmp_path), Settings(num_fewshot=1), tmp_path / "out", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / "lm_eval.rows.jsonl").read_text().splitlines()]
    assert all("Q: what is the example?\nA: this\nQ: " in row["prompt"] for row in rows) and len(rows) == 4
