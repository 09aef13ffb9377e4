"""Questions that cannot be answered are set aside and told at the end; a server that hangs keeps nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Canned, Played, fails, play, says

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation import endpoint
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction import progress
from llava_teamlora.evaluation.prediction.answerers import LikelihoodAnswerer, ModelAnswerer
from llava_teamlora.evaluation.prediction.asking import EndpointAnswerer
from llava_teamlora.evaluation.prediction.responses import SetAside, unanswered
from llava_teamlora.evaluation.prediction.threads import side_by_side
from llava_teamlora.evaluation.runner import Plan, predict
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import Sample
from llava_teamlora.generation import Decoding

SHORT = Decoding(max_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture
def plan(tmp_path: Path, root: Path) -> Plan:
    return Plan(tmp_path / "out", batch_size=3, data_root=root)


def kept(plan: Plan) -> set[str]:
    """Keys of the answers of a run that is not complete."""
    assert not (plan.out / "predictions.jsonl").exists() and not (plan.out / "scores.json").exists()
    lines = (plan.out / "predictions.rank-0.jsonl").read_text().splitlines()
    return {json.loads(line)["key"] for line in lines}


def keys(*without: int) -> set[str]:
    return {f"test/{i}" for i in range(8) if i not in without}


# A model.


def test_a_damaged_picture_costs_its_own_questions_only(loaded: Loaded, plan: Plan, root: Path, tmp_path: Path) -> None:
    straight = predict(EasyVqa(), ModelAnswerer(loaded), SHORT, replace(plan, out=tmp_path / "straight")).read_bytes()
    picture = root / "easy-vqa" / "test" / "images" / "2.png"  # of test/6 and test/7: the first batch's, with test/5
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as caught:
        predict(EasyVqa(), ModelAnswerer(loaded), SHORT, plan)
    said = str(caught.value)
    assert said.startswith("2 of 8 questions could not be answered (test/7: ") and said.count("2.png: not a read") == 2
    assert "the same command asks only for what is missing" in said and "too long" not in said
    assert kept(plan) == keys(6, 7)
    assert "evaluate score --partial scores a predictions.rank-N.jsonl as it is" in said
    answers = plan.out / "predictions.rank-0.jsonl"
    content = score(EasyVqa(), answers, tmp_path / "scores.json", partial=True, data_root=root)
    assert content["name"] == "easy_vqa [partial: 6 of 8]" and content["manifest"]["benchmark"]["name"] == "easy_vqa"
    picture.write_bytes(whole)
    assert predict(EasyVqa(), ModelAnswerer(loaded), SHORT, plan).read_bytes() == straight


def test_prompts_too_long_cost_no_other_question(loaded: Loaded, plan: Plan, root: Path) -> None:
    questions = root / "easy-vqa" / "test" / "questions.json"
    questions.write_text(questions.read_text().replace("what color is it?", "what color is it " * 600))
    with pytest.raises(UserError) as caught:
        predict(EasyVqa(), ModelAnswerer(loaded), SHORT, plan)
    said = str(caught.value)
    assert said.startswith("2 of 8 questions could not be answered (test/")
    assert "too long for the model: 2 (the longest prompt has " in said and "conversation" not in said
    assert kept(plan) == keys(2, 6)


def test_what_is_said_of_many() -> None:
    aside = [SetAside(f"k/{i}", "no", tokens=10 * i) for i in range(5)]
    said = str(unanswered(aside, 9))
    assert said.startswith("5 of 9 questions could not be answered (k/0: no; k/1: no; k/2: no; and 2 more)")
    assert "too long for the model: 4 (the longest prompt has 40 tokens), for which take one with more pos" in said


class Choosing(EasyVqa):
    name = "choosing"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        found = []
        for number, sample in enumerate(super().load(data_root)):
            choices = ("red", "no " * 3000 if number == 4 else "no")
            found.append(replace(sample, choices=choices, metadata={"question": f"{sample.prompt} Say."}))
        return found


def test_an_option_too_long_is_named_with_its_question(loaded: Loaded, plan: Plan) -> None:
    with pytest.raises(UserError, match=r"^1 of 8 .*\(test/4: the prompt with the answer 'no no .* has \d+ tokens"):
        predict(Choosing(), LikelihoodAnswerer(loaded), SHORT, plan)
    assert kept(plan) == keys(4)
    rows = [json.loads(line) for line in (plan.out / "predictions.rank-0.jsonl").read_text().splitlines()]
    # The row names the benchmark's prompt, by which it is found again, and what was asked in its place.
    assert all(row["metadata"]["asked"] == f"{row['prompt']} Say." for row in rows)


# A server.


def asked(request: dict[str, Any]) -> str:
    return request["messages"][0]["content"][1]["text"]


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., int]:
    def start(server: Played, *flags: str) -> int:
        where = ["--data_root", str(root), "--out", str(tmp_path / "out")]
        return main(["evaluate", "run", "easy_vqa", "--endpoint", server.url, *where, *flags])

    return start


def test_a_question_that_a_server_refuses_is_set_aside(
    run: Callable[..., int], plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(request: dict[str, Any], count: int) -> Canned:
        return fails(400, "content_filter: blocked") if asked(request) == "is it red?" else says("no")

    with play(refuses) as server:  # test/1 and test/4
        assert run(server, "--concurrency", "2") == 1
        assert len(server.requests) == 8 and kept(plan) == keys(1, 4)
        said = capsys.readouterr().err
        assert "error: 2 of 8 questions could not be answered (test/" in said and "content_filter: blocked" in said
        assert run(server) == 1
        assert [asked(request) for request in server.requests[8:]] == ["is it red?"] * 2
    with play(lambda request, _: says("no")) as server:
        assert run(server) == 0 and len(server.requests) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_all_questions_meet_ends_it_at_once(
    status: int, run: Callable[..., int], plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with play(lambda _, count: says("no") if count < 3 else fails(status, "out")) as server:
        assert run(server, "--concurrency", "1") == 1
        assert len(server.requests) == 4 and len(kept(plan)) == 3
    said = capsys.readouterr().err
    assert f"status {status}: " in said and "could not be answered" not in said


@pytest.mark.parametrize(
    ("status", "limit", "requests"),
    [
        (400, "_PICTURES_REFUSED_IN_A_ROW", 3),  # 7 and 6 are about one picture, 5 about another
        (400, "_REFUSALS_IN_A_ROW", 2),  # a filter's verdict on one picture; but there is an end to it
        (503, "_TROUBLES_IN_A_ROW", 2 * 6),  # each is asked six times; time is lost on any question
        (400, "_TROUBLES_IN_A_ROW", 8),
    ],
)
def test_failures_in_a_row_end_it(
    status: int, limit: str, requests: int, run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(endpoint, limit, 2)
    with play(lambda _, count: fails(status, "no pictures here")) as server:
        assert run(server, "--concurrency", "1") == 1
        assert len(server.requests) == requests
    said = capsys.readouterr().err
    last = {2: "test/6", 3: "test/5", 8: "", 12: "test/6"}[requests]
    stopped = f"{3 if requests == 3 else 2} questions in a row failed, so no more are asked; the last, {last}: "
    assert "no pictures" in said and (stopped in said) is bool(last)


def test_answers_between_failures_are_a_sign_of_life(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PICTURES_REFUSED_IN_A_ROW", 2)
    with play(lambda request, count: says("no") if count % 2 else fails(400, "now and then")) as server:
        assert run(server, "--concurrency", "1") == 1
        assert len(server.requests) == 8  # never two in a row


def test_a_mistake_of_ours_is_not_set_aside(root: Path, plan: Plan) -> None:
    class Broken:
        model = "m"
        url = "http://x/v1"

        def chat(self, *_: Any, **__: Any) -> None:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        predict(EasyVqa(), EndpointAnswerer(Broken(), 2), SHORT, plan)  # type: ignore[arg-type]


# Threads and interruptions.


def test_side_by_side_takes_no_more_than_it_can_do() -> None:
    taken: list[int] = []
    barrier = threading.Barrier(3)  # nobody is done before three are at work

    def work(number: int) -> int:
        barrier.wait(10)
        if number == 4:
            raise ValueError(number)
        return number * number

    def items() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    results = side_by_side(work, items(), 3)
    first = next(results)
    assert taken == [0, 1, 2]
    found = dict([first, *results])
    assert isinstance(found.pop(4), ValueError) and found == {n: n * n for n in (0, 1, 2, 3, 5)}


@pytest.mark.parametrize("count", [1, 3])
def test_items_that_end_early_end_it(count: int) -> None:
    stop = False

    def items() -> Iterator[int]:
        number = 0
        while not stop:
            yield (number := number + 1)

    seen = []
    for item, _ in side_by_side(lambda item: item, items(), count):
        seen.append(item)
        stop = len(seen) >= 5
    assert 5 <= len(seen) < 5 + count


ANSWERS = Path(__file__).parents[2] / "eval" / "fixtures" / "mm-vet" / "answers" / "example.jsonl"


@pytest.mark.parametrize("command", ["run", "grade"])
def test_ctrl_c_does_not_wait_for_a_server_that_hangs(command: str, root: Path, tmp_path: Path) -> None:
    def hangs(_: dict[str, Any], count: int) -> Canned:
        return says("0.5") if count < 2 else replace(says("0.5"), wait_s=100)

    flags = ["easy_vqa", "--data_root", str(root), "--out", str(tmp_path / "out")]
    if command == "grade":
        flags = ["mmvet", "--answers", str(ANSWERS), "--data_root", str(ANSWERS.parents[2])]
        flags += ["--out", str(tmp_path / "grades.json")]
    with play(hangs) as server:
        argv = [sys.executable, "-m", "llava_teamlora.cli", "evaluate", command, *flags, "--endpoint", server.url]
        with subprocess.Popen([*argv, "--concurrency", "3"], stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while len(server.requests) < 5 and time.monotonic() < deadline:  # two answers, three that hang
                time.sleep(0.02)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("interrupted; 2 of "), said
    assert "2 of 8 answers are in" in said if command == "run" else "2 of 6 grades are kept in" in said
    assert "the same command goes on" in said and "Traceback" not in said


# How far it is, in a log file.


def test_a_log_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with progress.progress("bench", 100) as advance:
        for clock in (110.0, 130.0, 160.0, 170.0, 220.0, 225.0):  # noqa: B007 - the clock above
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    # After 60 s 30 of 100: 0.5/s, 70 / 0.5 = 140 s left. After 120 s 50: 50 / (50 / 120) = 120 s. The last at the end:
    # 60 in 125 s, 40 * 125 / 60 = 83 s.
    assert lines == [
        "bench: 30/100, 0.5/s, 0:01:00 gone, 0:02:20 left",
        "bench: 50/100, 0.4/s, 0:02:00 gone, 0:02:00 left",
        "bench: 60/100, 0.5/s, 0:02:05 gone, 0:01:23 left",
    ]
    with progress.progress("bench", 100, shown=False) as advance:
        advance(100)
    assert capsys.readouterr().err == ""
