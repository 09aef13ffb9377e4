"""Several processes: the shares of one file, an error on one of them, another number of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction import manifest, processes, setup
from llava_teamlora.evaluation.prediction.journal import journal_path, locked, open_journal
from llava_teamlora.evaluation.prediction.plan import Plan, make_job
from llava_teamlora.evaluation.prediction.processes import ALONE, Processes, joined
from llava_teamlora.evaluation.prediction.responses import Response
from llava_teamlora.evaluation.runner import answer_job
from llava_teamlora.generation import Decoding

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


class Talking(Processes):
    """Processes that are threads: everybody's value, by rank, once all have come."""

    room: dict[int, Any]
    barrier: threading.Barrier

    def __init__(self, rank: int, count: int, room: dict[int, Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, count)
        object.__setattr__(self, "room", room)
        object.__setattr__(self, "barrier", barrier)

    def gather(self, value: Any) -> list[Any]:
        self.room[self.rank] = value
        self.barrier.wait(10)
        found = [self.room[rank] for rank in range(self.count)]
        self.barrier.wait(10)
        return found


class Parrot:
    """Answers with the question; dies where it is told to."""

    whole_batches = True
    name = "parrot"
    manifest = {"kind": "base", "model": "parrot", "method": "none"}

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.asked: list[str] = []

    def decoding(self, decoding: Decoding) -> dict[str, Any]:
        return {"answer_by": "parrot"}

    def check(self, samples: Any) -> None:
        pass

    def shown(self, sample: Any) -> None:
        return None

    def answer(self, batches: Any, decoding: Decoding) -> Iterator[list[Response]]:
        for batch in batches:
            if self.fails_at in [sample.key for sample in batch]:
                raise UserError(f"{self.fails_at}: cannot be answered")
            self.asked += [sample.key for sample in batch]
            yield [Response(sample, f"{sample.key}: {sample.prompt}", tokens=2) for sample in batch]


def together(plan: Plan, parrots: list[Parrot]) -> list[str]:
    """Answer with as many processes as parrots; what each ended in."""
    room: dict[int, Any] = {}
    barrier = threading.Barrier(len(parrots))
    ended = ["never"] * len(parrots)

    def work(rank: int) -> None:
        job = make_job(EasyVqa(), Decoding(4), plan)
        try:
            answer_job(job, parrots[rank], Talking(rank, len(parrots), room, barrier))
            ended[rank] = ""
        except UserError as error:
            ended[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parrots))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ended


@pytest.fixture
def plan(tmp_path: Path, root: Path) -> Plan:
    return Plan(tmp_path / "out", batch_size=1, data_root=root)


def test_shares_are_disjoint_and_become_the_file_of_one_process(plan: Plan, tmp_path: Path) -> None:
    parrots = [Parrot(), Parrot(), Parrot()]
    assert together(plan, parrots) == ["", "", ""]
    assert sorted(sum((parrot.asked for parrot in parrots), [])) == [f"test/{i}" for i in range(8)]
    assert [len(parrot.asked) for parrot in parrots] == [3, 3, 2]
    manifest = json.loads((plan.out / "manifest.json").read_text())
    (leg,) = manifest["legs"]
    assert (leg["batch_size"], leg["processes"], leg["answered"], leg["ended"]) == (1, 3, 8, True)
    assert manifest["cost"]["answered"] == 8 and manifest["cost"]["generated_tokens"] == 16
    whole = (plan.out / "predictions.jsonl").read_bytes()
    alone = Plan(tmp_path / "alone", data_root=plan.data_root)
    answer_job(make_job(EasyVqa(), Decoding(4), alone), Parrot(), ALONE)
    assert (alone.out / "predictions.jsonl").read_bytes() == whole


def test_an_error_on_one_ends_all_and_another_number_of_processes_goes_on(plan: Plan) -> None:
    # Longest first, a picture's together: 7 6 | 5 3 4 | 0 2 1. The second of three has 6, 4 and 1.
    first = [Parrot(), Parrot("test/4"), Parrot()]
    ended = together(plan, first)
    assert ended == ["process 1: test/4: cannot be answered"] * 3
    written = sum((parrot.asked for parrot in first), [])
    assert len(written) == 3 + 1 + 2 and not (plan.out / "predictions.jsonl").exists()
    assert json.loads((plan.out / "manifest.json").read_text())["cost"]["answered"] == len(written)
    second = [Parrot(), Parrot()]
    assert together(plan, second) == ["", ""]
    again = sum((parrot.asked for parrot in second), [])
    assert sorted(written + again) == [f"test/{i}" for i in range(8)]  # nothing twice
    assert sorted(path.name for path in plan.out.iterdir()) == ["manifest.json", "predictions.jsonl"]


def test_a_failure_of_one_is_told_at_once(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """The others stand still until it has been."""
    told = threading.Event()

    class Waiting(Parrot):
        def answer(self, batches: Any, decoding: Decoding) -> Iterator[list[Response]]:
            for _ in range(200):
                if "process 1: test/6: cannot be answered; the others go on" in "".join(said):
                    told.set()
                    break
                time.sleep(0.02)
                said.append(capsys.readouterr().err)
            yield from super().answer(batches, decoding)

    said: list[str] = []
    assert together(plan, [Waiting(), Parrot("test/6")]) == ["process 1: test/6: cannot be answered"] * 2
    assert told.is_set()


def test_nobody_answers_before_everybody_can(plan: Plan) -> None:
    """Another run has the folder; or an orphan of one that was killed still writes where the second process would."""
    parrots = [Parrot(), Parrot(), Parrot()]
    with locked(plan.out):
        (refusal,) = set(together(plan, parrots))
    assert refusal.endswith("out: another process is at work there; wait for it, or choose another --out")
    assert together(plan, [Parrot("test/7"), Parrot("test/6"), Parrot("test/5")])[0].endswith("cannot be answered")
    with open_journal(journal_path(plan.out, 1)):
        (refusal,) = set(together(plan, parrots))
    assert "process 1: " in refusal and "rank-1.jsonl: another process is at work there" in refusal
    assert [parrot.asked for parrot in parrots] == [[], [], []]
    assert together(plan, parrots) == ["", "", ""]


def test_a_refusal_by_the_first_reaches_all(plan: Plan) -> None:
    plan.out.mkdir()
    (plan.out / "predictions.rank-1.jsonl").write_text("{}\n")
    ended = together(plan, [Parrot(), Parrot()])
    assert len(set(ended)) == 1 and "no manifest.json says whose" in ended[0]


def test_a_manifest_that_the_first_cannot_write_stops_all(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others would else go on to what comes next without it, and wait for ever."""
    write = manifest.write_json

    def full(path: Path, content: dict[str, Any]) -> None:
        if content["legs"] and content["legs"][-1]["ended"]:
            raise UserError(f"{path.name}: No space left on device")
        write(path, content)

    monkeypatch.setattr(manifest, "write_json", full)
    parrots = [Parrot(), Parrot()]
    assert together(plan, parrots) == ["manifest.json: No space left on device"] * 2
    monkeypatch.undo()
    assert together(plan, parrots) == ["", ""]
    assert sum(len(parrot.asked) for parrot in parrots) == 8  # nothing twice
    assert json.loads((plan.out / "manifest.json").read_text())["cost"]["answered"] == 8


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_error_is_told_where_the_manifest_fails_too(
    count: int, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unplugged(Parrot):
        def answer(self, batches: Any, decoding: Decoding) -> Iterator[list[Response]]:
            monkeypatch.setattr(manifest, "write_json", full)
            raise UserError("journal: No space left on device")
            yield []

    def full(path: Path, content: dict[str, Any]) -> None:
        raise UserError(f"{path.name}: No space left on device")

    ended = together(plan, [Unplugged() for _ in range(count)])
    assert ended == ["journal: No space left on device"] * count
    assert capsys.readouterr().err.count("manifest.json: No space left on device\n") == 1


@pytest.mark.parametrize(("other", "message"), [("rows", "for easy_vqa, twin;"), ("none", "for twin;")])
def test_machines_with_other_files_are_refused_before_a_model_is_loaded(
    other: str, message: str, root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of ``all`` each would begin with another benchmark, and wait there for the others."""

    class Twin(EasyVqa):
        name = "twin"

    names = [["easy_vqa", "twin"], ["easy_vqa", "twin"] if other == "rows" else ["easy_vqa"]]
    roots = [root, shutil.copytree(root, tmp_path / "copy")]
    if other == "rows":
        questions = roots[1] / "easy-vqa" / "test" / "questions.json"
        questions.write_text(questions.read_text().replace("is it red?", "is it blue?"))
    room: dict[int, Any] = {}
    barrier, statuses, here = threading.Barrier(2), [0, 0], threading.local()

    @contextmanager
    def launched() -> Iterator[Processes]:
        yield Talking(here.rank, 2, room, barrier)

    def work(rank: int) -> None:
        here.rank = rank
        where = ["--data_root", str(roots[rank]), "--out", str(tmp_path / "out")]
        statuses[rank] = main(["evaluate", "run", "all", "--model", "nowhere", *where])

    monkeypatch.setattr(processes, "joined", launched)
    monkeypatch.setattr(setup, "ready", lambda *_: (names[here.rank], {}))
    monkeypatch.setattr(setup, "get_benchmark", {"easy_vqa": EasyVqa(), "twin": Twin()}.__getitem__)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    said = capsys.readouterr().err
    assert statuses == [1, 1] and "nowhere" not in said
    assert f"process 1 finds other files than process 0 {message}" in said


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes:
        assert processes == ALONE and processes.first and processes.gather("x") == ["x"]
    with pytest.raises(UserError, match="^why$"):
        ALONE.agree(UserError("why"))


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path

from llava_teamlora.cli import main
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.prediction import setup


class Damaged(EasyVqa):
    name = "damaged"

    def load(self, data_root=None):
        samples = super().load(data_root)
        return [replace(s, image=Path(sys.argv[1])) if s.key == "test/4" else s for s in samples]


setup.get_benchmark = {"damaged": Damaged(), "easy_vqa": EasyVqa()}.__getitem__
sys.exit(main(sys.argv[2:]))
"""


def test_two_real_processes_give_the_file_of_one(tiny: str, root: Path, tmp_path: Path) -> None:
    """Under torchrun: a benchmark with a damaged picture, and then a whole one."""
    flags = ["--model", tiny, "--device", "cpu", "--max_new_tokens", "4", "--batch_size", "2"]
    flags += ["--data_root", str(root)]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["evaluate", "run", "easy_vqa", *flags, "--out", str(one)]) == 0
    script, damaged = tmp_path / "program.py", tmp_path / "damaged.png"
    script.write_text(PROGRAM)
    damaged.write_bytes(b"no picture")
    command = [
        *LAUNCHER,
        str(script),
        str(damaged),
        "evaluate",
        "run",
        "damaged",
        "easy_vqa",
        *flags,
        "--out",
        str(two),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode != 0, ended.stderr
    assert ended.stderr.count("failed: damaged: ") == 2  # the first process speaks, and then the launcher's summary
    said = [line for line in ended.stderr.splitlines() if line.strip("=- ")]
    assert "damaged.png: not a readable picture" in said[-1]
    assert "failed: damaged: " in ended.stderr and not (two / "damaged" / "predictions.jsonl").exists()
    assert ended.stdout.count("8 questions in") == 1
    assert (one / "predictions.jsonl").read_bytes() == (two / "easy_vqa" / "predictions.jsonl").read_bytes()
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, two / "easy_vqa")]
    assert [[leg["processes"] for leg in manifest["legs"]] for manifest in manifests] == [[1], [2]]
    assert manifests[0]["cost"]["generated_tokens"] == manifests[1]["cost"]["generated_tokens"]
