"""Runs against each other: closed forms, a figure that only its benchmark can aggregate, refusals, the command."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import answer_row, append_rows
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.commands.compare import as_text, title
from llava_teamlora.evaluation.compare import Line, compare
from llava_teamlora.evaluation.metrics import clustered_stderr, grouped_mean, mcnemar
from llava_teamlora.evaluation.scoring import rows_path, score
from llava_teamlora.evaluation.types import Benchmark, Sample, Score, Scores, Verdict

ROWS = 120
FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"


class Pairs(Benchmark):
    """Two questions a picture; the total is the share of pictures with both right, of 200; the rest are means."""

    name = "pairs"
    summary = "for tests"
    metric = "pairs"
    version = 3
    max_new_tokens = 4
    groups = ("even", "odd")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        return [
            Sample(f"q{i}", i, f"question {i}", ("yes",), group=self.groups[i // 2 % 2], cluster=f"picture {i // 2}")
            for i in range(ROWS)
        ]

    def judge(self, sample: Sample, text: str) -> Verdict:
        return Verdict(text, float(text == "yes"), {"short": float(len(text) < 3)})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        means = grouped_mean(samples, verdicts, self.groups)
        return Scores(Score(both_right(samples, verdicts), None, len(samples), 200.0), means.groups, means.extra)


def both_right(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> float:
    worst: dict[str, float] = {}
    for sample, verdict in zip(samples, verdicts, strict=True):
        worst[sample.cluster] = min(verdict.score, worst.get(sample.cluster, 1.0))
    return sum(worst.values()) / len(worst)


BENCH = Pairs()
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Texts -> a folder with scores of them."""
    monkeypatch.setitem(BENCHMARKS, "pairs", BENCH)

    def scores(name: str, texts: Sequence[str], **options: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows = [answer_row(sample, text, name) for sample, text in zip(BENCH.load(), texts, strict=True)]
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        score(BENCH, folder / "a.jsonl", folder / "scores.json", **options)
        return folder

    return scores


def texts(seed: int, share: float) -> list[str]:
    rng = random.Random(seed)
    return ["yes" if rng.random() < share else "no" for _ in range(ROWS)]


BASE, OTHER = texts(0, 0.6), texts(1, 0.8)


def lines_of(base: Path, other: Path) -> dict[str, Line]:
    (found,) = compare(str(base), [str(other)])
    return {line.name: line for line in found.lines}


def test_a_mean_has_the_closed_form(write: Write) -> None:
    found = lines_of(write("a", BASE), write("b", OTHER))
    assert list(found) == ["total", "even", "odd", "short"]
    rows = [i for i in range(ROWS) if i // 2 % 2]
    differences = [(OTHER[i] == "yes") - (BASE[i] == "yes") for i in rows]
    line = found["odd"]
    assert line.difference == pytest.approx(100 * sum(differences) / len(rows))
    expected = 100 * (clustered_stderr(differences, [str(i // 2) for i in rows]) or 0)
    assert line.stderr == pytest.approx(expected)
    assert line.interval == pytest.approx(
        (line.difference - 1.959964 * expected, line.difference + 1.959964 * expected)
    )
    assert (line.wins, line.losses) == (differences.count(1), differences.count(-1))
    assert line.ties == differences.count(0)
    assert line.mcnemar_p == mcnemar(differences.count(1), differences.count(-1))
    # Answers of one letter less are what "short" counts.
    assert found["short"].difference == pytest.approx(100 * (OTHER.count("no") - BASE.count("no")) / ROWS)


def test_a_figure_that_is_no_mean_is_aggregated_anew(write: Write) -> None:
    """60 pictures: a block each, so that by hand it is the standard error of a mean over pictures."""
    line = lines_of(write("a", BASE), write("b", OTHER))["total"]
    of_picture = [
        min(OTHER[i : i + 2] == ["yes"] * 2, 1) - min(BASE[i : i + 2] == ["yes"] * 2, 1) for i in range(0, ROWS, 2)
    ]
    mean = sum(of_picture) / 60
    assert line.difference == pytest.approx(200 * mean)
    expected = 200 * math.sqrt(sum((x - mean) ** 2 for x in of_picture) / 59 / 60)
    assert line.stderr == pytest.approx(expected)
    # It counts no questions, so there are none to be won or lost.
    assert (line.wins, line.losses, line.ties, line.mcnemar_p) == (None, None, None, None)


def test_the_same_run_does_not_differ(write: Write) -> None:
    folder = write("a", BASE)
    total, *means = lines_of(folder, folder).values()
    assert (total.difference, total.stderr, total.wins) == (0, 0, None)
    for line in means:
        assert (line.difference, line.stderr, line.wins, line.losses, line.mcnemar_p) == (0, 0, 0, 0, 1.0)


def fixture_run(folder: Path, name: str, say: Callable[[Sample], str]) -> Path:
    """A folder with scores of a real benchmark's fixture."""
    benchmark = BENCHMARKS[name]
    folder.mkdir()
    path = folder / "predictions.jsonl"
    append_rows(path, [answer_row(sample, say(sample), "m") for sample in benchmark.load(FIXTURES)])
    score(benchmark, path, folder / "scores.json", data_root=FIXTURES)
    return folder


def truth(sample: Sample) -> str:
    return sample.targets[0]


def test_cognitions_answers_are_not_perceptions(tmp_path: Path) -> None:
    cognition = {"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"}
    base = fixture_run(tmp_path / "a", "mme", truth)
    other = fixture_run(tmp_path / "b", "mme", lambda s: "neither" if s.group in cognition else truth(s))
    lines = lines_of(base, other)
    assert (lines["total"].difference, lines["total"].stderr) == (0, 0)
    assert {lines[name].wins for name in ("total", *cognition)} == {None}
    assert {lines[name].mcnemar_p for name in ("total", *cognition)} == {None}


def test_questions_without_a_picture_are_not_those_with_one(tmp_path: Path) -> None:
    samples = BENCHMARKS["sqa"].load(FIXTURES)
    pictures = sum(sample.image is not None for sample in samples)
    base = fixture_run(tmp_path / "a", "sqa", truth)
    other = fixture_run(tmp_path / "b", "sqa", lambda s: truth(s) if s.image else "none of them")
    lines = lines_of(base, other)
    assert (lines["total"].wins, lines["total"].losses, lines["total"].ties) == (0, 0, pictures)
    assert (lines["all"].wins, lines["all"].losses) == (0, len(samples) - pictures) and lines["all"].losses


def test_rotations_are_counted_as_one_question(tmp_path: Path) -> None:
    """The first row of each question is wrong, which costs the whole question, once."""
    samples = BENCHMARKS["mmbench"].load(FIXTURES)
    first = {sample.cluster: sample.key for sample in reversed(samples)}
    assert len(first) < len(samples)
    base = fixture_run(tmp_path / "a", "mmbench", truth)
    other = fixture_run(tmp_path / "b", "mmbench", lambda s: "?" if first[s.cluster] == s.key else truth(s))
    lines = lines_of(base, other)
    total = lines["total"]
    assert (total.base, total.other) == (100, 0)
    assert (total.wins, total.losses, total.ties) == (0, len(first), 0)
    assert total.mcnemar_p == pytest.approx(2 * 0.5 ** len(first))
    assert (lines["plain"].losses, lines["plain"].ties) == (len(first), len(samples) - len(first))


def test_runs_that_were_not_measured_alike_say_so(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write("a", BASE), write("b", OTHER)
    edit(b, name="pairs [likelihood]")
    (found,) = compare(str(a), [str(b)])
    assert (found.benchmark, found.alike) == ("pairs against pairs [likelihood]", False)
    assert main(["evaluate", "compare", str(a), str(b)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("pairs against pairs [likelihood]: ") and "the runs were not measured alike" in shown
    (same,) = compare(str(b), [str(b)])
    assert (same.benchmark, same.alike) == ("pairs [likelihood]", True)


def test_rows_beside_scores_of_a_name_with_dots(write: Write, tmp_path: Path) -> None:
    """Two models' scores in one folder keep rows of their own."""
    a = write("a", BASE) / "a.jsonl"
    b = write("b", OTHER) / "a.jsonl"
    outs = [tmp_path / "llava-v1.5-7b", tmp_path / "llava-v1.5-13b"]
    for answers, out in zip((a, b), outs, strict=True):
        score(BENCH, answers, out)
    assert rows_path(outs[0]).name == "llava-v1.5-7b.rows.jsonl" and rows_path(outs[1]).is_file()
    assert lines_of(outs[0], outs[1])["short"].difference == pytest.approx(
        100 * (OTHER.count("no") - BASE.count("no")) / ROWS
    )
    assert lines_of(rows_path(outs[0]), outs[1]) == lines_of(*outs)


@pytest.mark.parametrize("width", [200, 80])
def test_names_and_figures_stay_whole(width: int, write: Write) -> None:
    (found,) = compare(str(write("a", BASE)), [str(write("b", OTHER))])
    name = "finegrained_perception (cross-instance)"
    long = replace(found, lines=(*found.lines, replace(found.lines[1], name=name)))
    lines = as_text(long, width).plain.splitlines()
    headings = title(long).count("\n") + 1  # paths, as long as they are; a terminal folds them
    assert max(map(len, lines[headings:])) <= width
    (place,) = [number for number, line in enumerate(lines) if line.startswith(name)]
    figures = lines[place].removeprefix(name) if width == 200 else lines[place + 1]
    line = found.lines[1]
    assert figures.split()[:3] == [f"{line.base:.2f}", f"{line.other:.2f}", f"{line.difference:+.2f}"]


def test_partial_scores_are_compared_over_the_same_questions(write: Write) -> None:
    a, b = write("a", BASE, limit=20), write("b", OTHER, limit=20)
    (found,) = compare(str(a), [str(b)])
    assert (found.benchmark, found.questions) == ("pairs [partial: 20 of 120]", 20)
    with pytest.raises(
        UserError, match=r"a/scores.json: lacks 100 questions that the other run has \(q100, q101, q102, …"
    ):
        compare(str(a), [str(write("c", OTHER))])


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, r"b/scores.json: has version 2, but .*a/scores.json 3; score both anew, alike"),
        ({"data_sha256": "0"}, "has data_sha256 '0'"),
        ({"metric": "pairs (another judge)"}, "has metric 'pairs .another judge.'"),
        ({"benchmark": "pope"}, "b: has pope, but .*a has pairs; give scores of the same benchmarks"),
        ({"answered": 5}, "has 120 rows, but .* is of 5; score anew"),
        (
            {"total": {"value": 0.5, "stderr": None, "n": ROWS, "maximum": 200}},
            "do not give the total .* score both anew",
        ),
    ],
)
def test_what_cannot_be_compared(write: Write, fields: dict[str, Any], message: str) -> None:
    a, b = write("a", BASE), write("b", OTHER)
    edit(b, **fields)
    with pytest.raises(UserError, match=message):
        compare(str(a), [str(b)])


def test_rows_must_be_there_and_whole(write: Write) -> None:
    a, b = write("a", BASE), write("b", OTHER)
    path = rows_path(b / "scores.json")
    rows = path.read_text()
    path.write_text(rows.replace('"score"', '"points"'))
    with pytest.raises(UserError, match="scores.rows.jsonl, line 1: has no field 'score'"):
        compare(str(a), [str(b)])
    path.unlink()
    with pytest.raises(UserError, match="scores.rows.jsonl: no such file; .* evaluate score writes"):
        compare(str(a), [str(b)])


def test_graded_runs_need_the_grades_they_were_scored_with(write: Write, tmp_path: Path) -> None:
    a, b = write("a", BASE), write("b", OTHER)
    edit(b, grades={"path": str(tmp_path / "grades.json"), "sha256": "0"})
    with pytest.raises(UserError, match=r"grades.json: the grades that .*b/scores.json was scored with are no longer"):
        compare(str(a), [str(b)])


def test_too_few_clusters_have_no_interval(write: Write) -> None:
    """Two pictures, one of each group: without either picture a group is empty, but the difference stands."""
    line = lines_of(write("a", BASE, limit=2), write("b", OTHER, limit=2))["total"]
    assert line.stderr is None and line.interval is None


def test_a_servers_figure_has_no_rows(write: Write) -> None:
    """It has no data digest and no questions either; the difference is all there is to say."""
    a, b = write("a", BASE), write("b", OTHER)
    total = {"value": 0.5, "stderr": None, "n": None, "maximum": 200.0}
    edit(b, server_score="EvalAI", data_sha256=None, total=total)
    for one, two in ((a, b), (b, a)):
        ((line,),) = [found.lines for found in compare(str(one), [str(two)])]
        assert line.stderr is None and (line.wins, line.losses, line.ties, line.mcnemar_p) == (None, None, None, None)
        assert 100.0 in (line.base, line.other)


def test_the_command(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = write("a", BASE), write("b", OTHER), write("c", BASE)
    rows = str(rows_path(a / "scores.json"))
    command = ["evaluate", "compare", f"base={rows}", f"good|one={b}", f"same={c / 'scores.json'}"]
    assert main([*command, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(c["base"], c["other"]) for c in content["comparisons"]] == [("base", "good|one"), ("base", "same")]
    line = content["comparisons"][0]["lines"][1]
    assert line["name"] == "even" and line["difference"] == pytest.approx(line["other"] - line["base"])
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "other: good|one" in shown and "2 comparisons are made" in shown and "0.025" in shown
    assert main([*command, "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    assert table[2].startswith("| total | ")


def test_two_sides_of_one_model_are_told_apart(write: Write) -> None:
    """As answers of one model in --mode fast and paper: the manifests call both by the same name."""
    manifest = {"model": {"model": "runs/x", "kind": "run", "method": "teamlora"}}
    fast, paper = write("fast", BASE), write("paper", OTHER)
    for folder in (fast, paper):
        content = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps({**content, "manifest": manifest}))
    (found,) = compare(str(fast), [str(paper)])
    assert (found.base, found.other) == (f"runs/x (teamlora), {fast}", f"runs/x (teamlora), {paper}")
    shown = as_text(found, 100).plain.split("\n")
    assert shown[1] == f"base: runs/x (teamlora), {fast}" and shown[2] == f"other: runs/x (teamlora), {paper}"
    (named,) = compare(str(fast), [f"paper={paper}"])
    assert (named.base, named.other) == ("runs/x (teamlora)", "paper")


def test_labels_of_rows_files(write: Write) -> None:
    ours, theirs = write("a", BASE), write("b", OTHER)
    (found,) = compare(f"base={ours / 'scores.rows.jsonl'}", [f"other={theirs / 'scores.rows.jsonl'}"])
    assert (found.base, found.other) == ("base", "other")


def test_an_equals_sign_in_a_path_is_no_label(write: Write) -> None:
    folders = [write("lr=1e-4", BASE), write("lr=2e-4", OTHER)]
    for out in ("scores.json", "llava-v1.5-7b"):  # with .json and without
        for folder in folders:
            score(BENCH, folder / "a.jsonl", folder / out)
        rows = [str(rows_path(folder / out)) for folder in folders]
        (found,) = compare(rows[0], [rows[1]])
        assert found.lines and "lr=1e-4" in found.base
        (found,) = compare(f"base={rows[0]}", [f"other={rows[1]}"])
        assert (found.base, found.other) == ("base", "other")
