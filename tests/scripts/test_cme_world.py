"""The embedded CME's files: read by the eleven readers, the same bytes for the same plan, nothing shared by splits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cme_world import china
from cme_world.atlas import PEOPLE_FACTS, TOWN_FACTS
from cme_world.build import STAMP, Plan, build
from cme_world.splits import TASKS, splits
from embedded_cme import PLAN, task, training

from llava_teamlora.cme.leaks import Asked, LeakIndex
from llava_teamlora.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "cme_data.py"
# what always giving the commonest answer may reach at most (a share of 1)
MAJORITY = {
    "tldr": 0.55, "imdb": 0.5, "anli": 0.36, "qqp": 0.5, "rte": 0.5, "winogrande": 0.55, "arc": 0.36, "webqa": 0.1,
    "nq": 0.1, "triviaqa": 0.1, "mmlu": 0.36,
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_plan_same_bytes_and_nothing_done_twice(world: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "again", PLAN)
    assert contents(tmp_path / "again") == contents(world)
    assert not build(tmp_path / "again", PLAN)
    before = contents(tmp_path / "again")
    assert build(tmp_path / "again", Plan(seed=1, train=30, test=24))
    after = contents(tmp_path / "again")
    assert before["eval/nq/NQ-open.dev.jsonl"] != after["eval/nq/NQ-open.dev.jsonl"]
    assert len(after["train/tldr/train.jsonl"].splitlines()) == 30


def test_an_interrupted_or_foreign_folder_is_made_anew_and_neighbours_stay(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    build(out, Plan(train=24, test=12))
    (out / STAMP).unlink()  # as after a kill before the end
    (out / "train" / "nq" / "NQ-open.train.jsonl").write_text("half")
    (out / "mix.jsonl").write_text("mine")
    assert build(out, Plan(train=24, test=12))
    assert len((out / "train" / "nq" / "NQ-open.train.jsonl").read_text().splitlines()) == 24
    assert (out / "mix.jsonl").read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == ["eval", "mix.jsonl", "train", STAMP]


def test_two_chains_at_once_share_one_folder(tmp_path: Path) -> None:
    """The second waits, and finds all made; nothing of it is made twice, or read half."""
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "data"), "--train", "24", "--test", "12"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(out.strip().endswith("; already there") for out, _ in said) == [False, True]


def test_a_world_without_enough_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"webqa: the world has no 2000 different rows; ask for about \d+"):
        splits(0, 24, 2000)


@pytest.mark.parametrize("name", TASKS)
def test_readers_read_every_row_and_majority_is_low(world: Path, name: str) -> None:
    samples = task(name).load(world / "eval")
    assert len(samples) == PLAN.test
    assert len(training(world, name)) == PLAN.train
    if name == "tldr":
        pytest.importorskip("rouge_score")
    always = task(name).baselines(samples)["majority"].answers
    score = sum(task(name).judge(sample, always[sample.key]).score for sample in samples) / len(samples)
    assert 0 < score <= MAJORITY[name] + 1e-9


@pytest.mark.parametrize("seed", [0, 7])
def test_no_training_row_leaks_into_evaluation(seed: int, world: Path, tmp_path: Path) -> None:
    folder = world if seed == 0 else tmp_path / "other"
    build(folder, Plan(seed=seed))
    asked = []
    for name in TASKS:
        for path in (p for source in task(name).tests for p in source.find(folder / "eval" / name)):
            asked += [Asked(f"{name}/{item.key}", item.texts) for item in task(name).items(path)]
    assert len(asked) == 11 * PLAN.test
    index = LeakIndex(asked)
    for name in TASKS:
        assert not [leak for leak in index.check([item.texts for item in training(folder, name)]) if leak]
    assert all(index.check([item.texts for item in asked]))  # the check does find what is there


def test_half_of_the_facts_are_asked_in_tests_and_the_other_half_in_training(world: Path) -> None:
    for name, facts in (("nq", TOWN_FACTS), ("triviaqa", PEOPLE_FACTS), ("webqa", china.FACTS)):
        tested = {fact.entity for fact in facts if fact.tested}
        trained = {fact.entity for fact in facts if not fact.tested}
        assert not tested & trained and abs(len(tested) - len(trained)) <= 1
        for items, own, others in (
            ([sample.prompt for sample in task(name).load(world / "eval")], tested, trained),
            ([item.input for item in training(world, name)], trained, tested),
        ):
            for question in items:
                assert any(entity in question for entity in own), question
                assert not any(re.search(rf"(?<![A-Za-z]){entity}(?![a-z])", question) for entity in others)


def test_command_line_writes_teaches_and_refuses(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=tmp_path)

    made = run("--out", "data", "--train", "24", "--test", "12")
    assert made.returncode == 0 and "24 training and 12 test rows" in made.stdout, made.stderr
    assert "already there" in run("--out", "data", "--train", "24", "--test", "12").stdout
    assert run("--test", "3").returncode == 2
    refused = run("--out", "data", "--test", "3000")
    assert refused.returncode == 1 and "ask for about" in refused.stderr
