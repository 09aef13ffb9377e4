"""What every benchmark must keep, over its fixture. A new one is picked up by itself, and fails without a fixture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.building import build
from llava_teamlora.evaluation.checking import check
from llava_teamlora.evaluation.compare import compare
from llava_teamlora.evaluation.scoring import export, load_answered, rows_path, score
from llava_teamlora.evaluation.types import Benchmark, Sample, Score

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
FUZZ = (
    "", "\n", " ", "yes", "No", "NO", "Yes.", "yes, it is", "no!", "Not sure", "(B)", "A", "b", "A. cat", "A man is",
    "答案是A。", "The answer is B.", "Ａ．", "ＡＢＣ？，。", "…", "." * 40, "1,000.5", "a\tb\r\nc", "'s",
    "Unanswerable", "x " * 5000, "\u2028", "\x00", "😀", "<image>", "</s>", "E", "None", "nan", "-1",
)  # fmt: skip
GRADES = {
    "mmvet": "mm-vet/results/example_gpt-4-0613-grade-3runs.json",
    "llava_bench": "llava-bench-in-the-wild/reviews/example.jsonl",
}
every = pytest.mark.parametrize("name", BENCHMARKS)
Rows = list[dict[str, Any]]


@cache
def samples_of(name: str) -> list[Sample]:
    return BENCHMARKS[name].load(FIXTURES)


def is_ours(name: str) -> bool:
    """Scored here, without a judge."""
    return not (BENCHMARKS[name].server or BENCHMARKS[name].judged)


ours = pytest.mark.parametrize("name", [name for name in BENCHMARKS if is_ours(name)])


def best_answer(benchmark: Benchmark, sample: Sample) -> str:
    return max(sample.targets, key=lambda target: benchmark.judge(sample, target).score)


@cache
def perfect(name: str) -> tuple[str, ...]:
    """The best accepted answer to each question; where nobody here knows, something."""
    if not is_ours(name):
        return tuple(f"answer {i}" for i, _ in enumerate(samples_of(name)))
    return tuple(best_answer(BENCHMARKS[name], sample) for sample in samples_of(name))


def fuzzed(name: str, start: int = 0) -> list[str]:
    return [FUZZ[(start + i) % len(FUZZ)] for i, _ in enumerate(samples_of(name))]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """An answers file as our runner writes it; ``change`` may edit the rows first."""

    def answers(name: str, texts: Any, change: Callable[[Rows], object] = lambda rows: None, file: str = "a") -> Path:
        rows = [answer_row(sample, text, "m") for sample, text in zip(samples_of(name), texts, strict=True)]
        change(rows)
        path = tmp_path / f"{file}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return answers


Write = Callable[..., Path]


@every
def test_its_fixture_is_whole(name: str) -> None:
    checked = check(BENCHMARKS[name], FIXTURES)
    assert checked.ready, checked
    assert 2 <= checked.questions <= 100 and BENCHMARKS[name].needs(FIXTURES)


EMPTY = {
    "mmbench": {
        "mmbench/mmbench_dev_20230712.tsv": "index question hint A B C D image answer category l2-category".replace(
            " ", "\t"
        )
    },
    "pope": {
        "pope/llava_pope_test.jsonl": "",
        **{f"pope/coco/coco_pope_{category}.json": "" for category in ("random", "popular", "adversarial")},
    },
    "sqa": {
        "scienceqa/problems.json": "{}",
        "scienceqa/pid_splits.json": '{"test": []}',
        "scienceqa/llava_test_CQM-A.json": "[]",
    },
    "vizwiz_val": {"vizwiz/val.json": "[]"},
    "vqav2_val": {
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json": '{"questions": []}',
        "vqav2/v2_mscoco_val2014_annotations.json": '{"annotations": []}',
    },
    "mmvet": {"mm-vet/mm-vet.json": "{}", "mm-vet/llava-mm-vet.jsonl": ""},
    "llava_bench": {f"llava-bench-in-the-wild/{name}.jsonl": "" for name in ("questions", "answers_gpt4", "context")},
}


@pytest.mark.parametrize("name", EMPTY)
def test_files_without_questions_are_refused(name: str, tmp_path: Path) -> None:
    for path, content in EMPTY[name].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    checked = check(BENCHMARKS[name], tmp_path)
    assert not checked.ready and "hold no questions" in str(checked.error)
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(UserError, match="hold no questions"):
        load_answered(BENCHMARKS[name], tmp_path / "answers.jsonl", tmp_path)


@every
def test_what_is_made_names_what_it_is_made_from(name: str, tmp_path: Path) -> None:
    """Without any file, building says of each file it reads where that is to be had."""
    benchmark = BENCHMARKS[name]
    inputs = {i for need in benchmark.needs(tmp_path) for i in need.made_from}
    assert bool(inputs) == (type(benchmark).build is not Benchmark.build)
    if inputs:
        with pytest.raises(UserError, match="to build from is missing") as caught:
            build(benchmark, tmp_path)
        assert all(str(need.path) in str(caught.value) and need.source in str(caught.value) for need in inputs)
        assert all(i.path.exists() for need in benchmark.needs(FIXTURES) for i in need.made_from)


@every
def test_what_it_says_of_itself(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name and benchmark.version >= 1 and benchmark.max_new_tokens >= 1
    assert benchmark.summary and benchmark.metric and "\n" not in benchmark.summary
    assert not (benchmark.server and benchmark.judged)
    for need in benchmark.needs(FIXTURES):
        assert need.path.is_relative_to(FIXTURES) and need.what and need.source
    default = BENCHMARKS[name].needs()
    assert [need.what for need in default] == [need.what for need in benchmark.needs(FIXTURES)]


@every
def test_its_samples(name: str) -> None:
    samples, benchmark = samples_of(name), BENCHMARKS[name]
    assert len({sample.key for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.prompt.strip() and "<image>" not in sample.prompt
        assert sample.llava_prompt is None or sample.llava_prompt.strip()
        assert isinstance(sample.question_id, (int, str)) and not isinstance(sample.question_id, bool)
        assert isinstance(sample.targets, tuple) and all(isinstance(target, str) for target in sample.targets)
        assert bool(sample.targets) != bool(benchmark.server)
        assert all(isinstance(choice, str) for choice in sample.choices)
        assert json.loads(json.dumps(dict(sample.metadata))) == dict(sample.metadata)
        # Of a judged one an answer may count towards several groups.
        assert not sample.group or sample.group in benchmark.groups or benchmark.judged


@ours
def test_the_accepted_answers_are_the_best(name: str) -> None:
    """And where each is fully right, the total is the maximum, in all groups."""
    benchmark, samples = BENCHMARKS[name], samples_of(name)
    verdicts = [benchmark.judge(sample, text) for sample, text in zip(samples, perfect(name), strict=True)]
    for sample, verdict in zip(samples, verdicts, strict=True):
        assert all(benchmark.judge(sample, text).score <= verdict.score for text in FUZZ)
    scores = benchmark.aggregate(samples, verdicts)
    if all(verdict.score == 1 for verdict in verdicts):
        assert scores.total.value == pytest.approx(1)
        assert [score.value for score in scores.groups.values()] == pytest.approx([1.0] * len(scores.groups))
    else:  # People disagree: no answer agrees with all of them. LLaVA drops options, the true one among them.
        assert "VQA accuracy" in benchmark.metric or name.endswith("_llava")
        assert scores.total.value >= 0.5


@ours
@pytest.mark.parametrize("start", range(0, len(FUZZ), 5))
def test_any_answer_is_judged(name: str, start: int, write: Write, tmp_path: Path) -> None:
    benchmark, out = BENCHMARKS[name], tmp_path / "scores.json"
    content = score(benchmark, write(name, fuzzed(name, start)), out, data_root=FIXTURES)
    cells = [content["total"], *content["groups"].values(), *content["extra"].values()]
    assert all(0 <= cell["value"] <= 1 and cell["n"] > 0 and cell["maximum"] > 0 for cell in cells)
    assert all(cell["stderr"] is None or cell["stderr"] >= 0 for cell in cells)
    rows = [json.loads(line) for line in rows_path(out).read_text(encoding="utf-8").split("\n") if line]
    assert [row["text"] for row in rows] == fuzzed(name, start)
    assert len({tuple(row["extra"]) for row in rows}) == 1
    assert all(0 <= value <= 1 for row in rows for value in (row["score"], *row["extra"].values()))
    assert all(isinstance(row["parsed"], str) for row in rows)


def repeat(rows: Rows) -> None:
    rows.append(dict(rows[1]))


def drop(rows: Rows) -> None:
    del rows[1]


def shuffle(rows: Rows) -> None:
    """Each answer one question further down, its own prompt with it."""
    keys = [(row["key"], row["question_id"]) for row in rows]
    for row, (key, question) in zip(rows, [*keys[1:], keys[0]], strict=True):
        row["key"], row["question_id"] = key, question


def invent(rows: Rows) -> None:
    rows.append(rows[0] | {"key": "no such", "question_id": -5})


def without_keys(rows: Rows) -> None:
    for row in rows:
        del row["key"]


@every
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat, "1 duplicate"),
        (drop, "1 missing"),
        (shuffle, "prompts of other questions"),
        (invent, "1 unknown"),
    ],
)
@pytest.mark.parametrize("form", [lambda rows: None, without_keys], ids=["ours", "LLaVA's"])
def test_what_does_not_fit_is_refused(
    name: str, change: Callable[[Rows], object], message: str, form: Callable[[Rows], object], write: Write
) -> None:
    answers = write(name, perfect(name), lambda rows: (change(rows), form(rows)))
    with pytest.raises(UserError, match=message):
        load_answered(BENCHMARKS[name], answers, FIXTURES)


@every
def test_llavas_form_is_joined_alike(name: str, write: Write) -> None:
    texts = fuzzed(name)

    def llavas(rows: Rows) -> None:
        without_keys(rows)
        for row, sample in zip(rows, samples_of(name), strict=True):
            row |= {"prompt": sample.llava_prompt or sample.prompt, "metadata": {}}
        rows.reverse()

    found = load_answered(BENCHMARKS[name], write(name, texts, llavas), FIXTURES)
    assert [(sample.key, prediction.text) for sample, prediction in found.pairs] == [
        (sample.key, text) for sample, text in zip(samples_of(name), texts, strict=True)
    ]


@every
def test_its_export(name: str, write: Write, tmp_path: Path) -> None:
    answers = write(name, perfect(name))
    if not exports(name):
        with pytest.raises(UserError, match="no official tool takes"):
            export(BENCHMARKS[name], answers, tmp_path / "a", FIXTURES)
        return
    written = [export(BENCHMARKS[name], answers, tmp_path / folder, FIXTURES) for folder in "ab"]
    assert written[0] and all(path.is_relative_to(tmp_path / "a") for path in written[0])
    assert {p for p in (tmp_path / "a").rglob("*") if p.is_file()} == set(written[0])
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]
    with pytest.raises(UserError, match="1 missing"):
        export(BENCHMARKS[name], write(name, perfect(name), drop), tmp_path / "c", FIXTURES)
    assert not (tmp_path / "c").exists()


def exports(name: str) -> bool:
    return type(BENCHMARKS[name]).export is not Benchmark.export


@every
def test_its_question_files_are_built_as_they_are_there(name: str) -> None:
    if type(BENCHMARKS[name]).build is Benchmark.build:
        assert not any(need.built for need in BENCHMARKS[name].needs(FIXTURES))
        with pytest.raises(UserError, match="nothing to build"):
            build(BENCHMARKS[name], FIXTURES)
        return
    built = build(BENCHMARKS[name], FIXTURES)
    assert built and {one.state for one in built} == {"same as there"}
    assert {one.path for one in built} == {need.path for need in BENCHMARKS[name].needs(FIXTURES) if need.built}


@ours
def test_scoring_twice_gives_the_same_bytes(name: str, write: Write, tmp_path: Path) -> None:
    answers = write(name, fuzzed(name))
    for out in (tmp_path / "1.json", tmp_path / "2.json"):
        score(BENCHMARKS[name], answers, out, data_root=FIXTURES)
    for one, two in (("1.json", "2.json"), ("1.rows.jsonl", "2.rows.jsonl")):
        assert (tmp_path / one).read_bytes() == (tmp_path / two).read_bytes()


@ours
def test_a_part_can_be_scored(name: str, write: Write, tmp_path: Path) -> None:
    for limit in range(1, len(samples_of(name))):
        try:
            content = score(
                BENCHMARKS[name], write(name, perfect(name)), tmp_path / "s", limit=limit, data_root=FIXTURES
            )
        except UserError as error:  # the part holds nothing that counts
            assert limit < len(samples_of(name)) / 2 and "answered" in str(error)
            continue
        assert content["name"] == f"{name} [partial: {limit} of {len(samples_of(name))}]"
        assert 0 <= content["total"]["value"] <= 1


@ours
def test_its_baselines_answer_every_question(name: str) -> None:
    for baseline in BENCHMARKS[name].baselines(samples_of(name), FIXTURES).values():
        assert baseline.how
        assert set(baseline.answers) == {sample.key for sample in samples_of(name)}


@ours
def test_runs_can_be_compared(name: str, write: Write, tmp_path: Path) -> None:
    """From the rows alone: all that its ``aggregate`` reads of a sample is in the log."""
    benchmark = BENCHMARKS[name]
    for folder, texts in (("a", fuzzed(name)), ("b", perfect(name))):
        score(benchmark, write(name, texts, file=folder), tmp_path / f"{folder}.json", data_root=FIXTURES)
    (found,) = compare(str(tmp_path / "a.json"), [str(tmp_path / "b.json")])
    assert found.benchmark == name and found.lines[0].name == "total"
    assert found.lines[0].difference > 0 and not found.lines[0].losses  # None where the figure is no mean of rows
    for file in "ab":
        verdicts = json.loads((tmp_path / f"{file}.json").read_text())
        assert Score(**verdicts["total"]).n > 0


def test_a_judges_grades_score_the_answers_that_were_graded(tmp_path: Path) -> None:
    assert set(GRADES) == {name for name, benchmark in BENCHMARKS.items() if benchmark.judged}
    for name, path in GRADES.items():
        answers, out = graded_answers(name), tmp_path / f"{name}.json"
        with pytest.raises(UserError, match=f"evaluate grade {name}"):
            score(BENCHMARKS[name], answers, out, data_root=FIXTURES)
        content = score(BENCHMARKS[name], answers, out, data_root=FIXTURES, grades=FIXTURES / path)
        assert 0 < content["total"]["value"] <= 1 and "(" in content["metric"] and content["benchmark"] == name
        first = out.read_bytes(), rows_path(out).read_bytes()
        score(BENCHMARKS[name], answers, out, data_root=FIXTURES, grades=FIXTURES / path)
        assert (out.read_bytes(), rows_path(out).read_bytes()) == first
        (found,) = compare(str(out), [str(out)])
        assert all(line.difference == 0 and not line.wins and not line.losses for line in found.lines)


def graded_answers(name: str) -> Path:
    return FIXTURES / Path(GRADES[name]).parts[0] / "answers" / "example.jsonl"


def test_no_command_of_scoring_needs_torch(write: Write, tmp_path: Path) -> None:
    """Everything but predicting, in a process where torch and its like cannot be imported."""
    commands: list[list[str]] = [["check", "--data_root", str(FIXTURES)], ["list"]]
    for name in BENCHMARKS:
        answers = [name, "--answers", str(write(name, perfect(name), file=name)), "--data_root", str(FIXTURES)]
        out = str(tmp_path / f"{name}.json")
        if is_ours(name):
            commands += [["score", *answers, "--out", out], ["report", out], ["compare", out, out]]
        if name in GRADES:
            files = ["--answers", str(graded_answers(name)), "--grades", str(FIXTURES / GRADES[name])]
            commands.append(["score", name, *files, "--data_root", str(FIXTURES), "--out", out])
        if exports(name):
            commands.append(["export", *answers, "--out", str(tmp_path / name)])
    program = (
        "import json, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'peft', 'accelerate', 'pandas'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from llava_teamlora.cli import main\n"
        "for command in json.loads(sys.stdin.read()):\n"
        "    assert main(['evaluate', *command]) == 0, command\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(commands), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(BENCHMARKS)} of {len(BENCHMARKS)} ready" in done.stdout
