"""The quality benchmark: its data can't leak, its choices and statistics are right, and it runs end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import quality
import quality_cell
import quality_report
import quality_tasks
from quality_cell import Cell, Settings, answered, rate
from quality_tasks import TASKS, TEXT_TASKS, Amounts
from tokenizers import Tokenizer

from llava_teamlora.checkpoint import load_model
from llava_teamlora.data.images import load_image
from llava_teamlora.data.records import load_records
from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root
from llava_teamlora.files import write_atomically
from llava_teamlora.generation.generator import Generator
from llava_teamlora.generation.query import Decoding, Query

AMOUNTS = Amounts(pictures=6, conversations=6, turns=4, held_out=8)


def questions(path: Path) -> set[tuple[str | None, str]]:
    """(picture, question) of every turn of a data file."""
    return {
        (row.get("image"), turn["value"].removeprefix("<image>\n"))
        for row in json.loads(path.read_text())
        for turn in row["conversations"][::2]
    }


def result(out: Path, cell: Cell, mean: float) -> None:
    write_atomically(cell.folder(out) / "result.json", json.dumps({"mean": mean}))


# Data -------------------------------------------------------------------------------------------------------


def test_a_seeds_files_are_reproducible_and_disjoint(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for seed, split in ((0, "test"), (1000, "validation")):
            quality_tasks.write_seed(tmp_path / folder / str(seed), split, AMOUNTS, seed)
    for name in ("0/train.json", "0/test.json", "1000/train.json", "1000/validation.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not (tmp_path / "a/0/validation.json").exists() and not (tmp_path / "a/1000/test.json").exists()
    train = questions(tmp_path / "a/0/train.json") | questions(tmp_path / "a/1000/train.json")
    test, validation = questions(tmp_path / "a/0/test.json"), questions(tmp_path / "a/1000/validation.json")
    assert not train & test and not train & validation and not test & validation
    pictures = [{picture for picture, _ in split if picture} for split in (train, validation, test)]
    assert all(pictures) and not pictures[0] & pictures[1] and not pictures[2] & (pictures[0] | pictures[1])
    assert questions(tmp_path / "a/0/train.json") != questions(tmp_path / "a/1000/train.json")
    ids = [record.id.partition("#")[0] for record in load_records(tmp_path / "a/0/test.json")]
    assert {task: ids.count(task) for task in TASKS} == dict.fromkeys(TASKS, AMOUNTS.held_out)


def test_reordered_words_stay_in_their_split() -> None:
    assert quality_tasks.split_of("odd", ["red", "star", "teal"]) == quality_tasks.split_of(
        "odd", ["teal", "red", "star"]
    )
    shares = [quality_tasks.split_of("odd", [str(i)]) for i in range(3000)]
    assert [round(shares.count(split) / 3000, 1) for split in ("train", "validation", "test")] == [0.6, 0.2, 0.2]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_text_answers_follow_from_their_questions(task: str, tiny: str) -> None:
    known = Tokenizer.from_file(f"{tiny}/tokenizer.json").get_vocab()
    kinds = {word: kind for kind, words in enumerate(quality_tasks.KINDS) for word in words}
    for item in quality_tasks.text_items(task, "test", 150, seed=3):
        words = item.question.replace(",", " ").replace(".", " ").replace("?", " ").replace(":", " ").split()
        assert f"▁{item.answer}" in known  # one token that the base has learned
        if task == "odd":
            asked = [word for word in words if word in kinds]
            lone = [word for word in asked if [kinds[w] for w in asked].count(kinds[word]) == 1]
            assert len(asked) == 3 and lone == [item.answer]
        elif task == "total":
            numbers = [quality_tasks.NUMBERS.index(word) for word in words if word in quality_tasks.NUMBERS]
            assert item.answer == quality_tasks.NUMBERS[sum(numbers)]
        else:
            kind = quality_tasks.COLORS if "color" in words else quality_tasks.SHAPES
            told = [word for word in words if word in kind]
            assert told.index(item.answer) == (0 if "left" in words else 2 if "right" in words else 1)


# Choice and statistics ---------------------------------------------------------------------------------------


def test_rates_are_quarters_of_a_decade() -> None:
    assert [rate(index) for index in range(-14, -5)] == [3e-4, 5.6e-4, 1e-3, 1.8e-3, 3e-3, 5.6e-3, 1e-2, 1.8e-2, 3e-2]
    assert (rate(-1), rate(0), rate(2)) == (0.56, 1.0, 3.0)


def test_choice_extends_at_the_edge_refines_and_ignores_a_rate_with_a_failed_seed(tmp_path: Path) -> None:
    settings = Settings(lowest=-12, highest=-8, extensions=1, selection_seeds=(7, 8))

    def scored(index: int, *means: float) -> quality_report.Choice:
        for seed, mean in zip((7, 8), means, strict=True):
            result(tmp_path, Cell("lora", "validation", seed, index), mean)
        return quality_report.choose(tmp_path, settings, "lora")

    assert quality_report.choose(tmp_path, settings, "lora") == quality_report.Choice(
        (-12, -10, -8), {}, None, settled=False, at_edge=False
    )
    scored(-12, 10, 20)
    scored(-10, 50, 70)
    found = scored(-8, 80, 80)  # the best is the last: one more is tried
    assert found.tried == (-12, -10, -8, -6) and found.means == {-12: 15, -10: 60, -8: 80} and not found.settled
    bad = Cell("lora", "validation", 8, -6)
    result(tmp_path, Cell("lora", "validation", 7, -6), 99)
    quality_cell.record_failure(tmp_path, bad, "the loss is nan")
    found = quality_report.choose(tmp_path, settings, "lora")
    assert found.tried == (-12, -10, -9, -8, -7, -6) and not found.settled
    scored(-9, 70, 92)
    found = scored(-7, 60, 60)
    assert found.settled and found.index == -9 and not found.at_edge
    (bad.folder(tmp_path) / "error.txt").unlink()
    found = scored(-6, 99, 99)
    assert found.tried == (-12, -10, -8, -7, -6, -5) and not found.settled  # one extension is all it gets
    found = scored(-5, 99, 100)
    assert found.settled and found.index == -5 and found.at_edge


@pytest.mark.parametrize(("df", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (7, 2.3646), (9, 2.2622), (30, 2.0423)])
def test_t_quantiles_are_the_tables(df: int, t: float) -> None:
    assert quality_report.t_quantile(0.95, df) == pytest.approx(t, abs=1e-4)


def test_interval_and_paired_difference() -> None:
    interval = quality_report.Interval.of([1.0, 2.0, 3.0])
    assert interval.mean == 2 and interval.half == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert interval.difference() == "+2.0 [-0.5, +4.5]"
    # Methods that differ by the same in every seed differ for certain, however much the seeds differ.
    lora = {seed: fake(10.0 * seed) for seed in range(3)}
    other = {seed: fake(10.0 * seed + 1) for seed in range(4)}
    paired = quality_report._summary(other, lora, "teamlora")["minus lora"]["mean"]
    assert paired["mean"] == pytest.approx(1) and paired["half"] == pytest.approx(0) and paired["n"] == 3


def fake(score: float) -> dict:
    return {"mean": score, "scores": dict.fromkeys(TASKS, score), "train_seconds": 1.0, "trainable_parameters": 5}


# End to end -------------------------------------------------------------------------------------------------

SMALL = [
    "--methods", "lora", "--seeds", "2", "--steps", "2", "--pictures", "6", "--conversations", "6", "--held_out", "8",
    "--lowest", "-8", "--highest", "-8", "--extensions", "0", "--selection_seeds", "1000", "--workers", "1",
]  # fmt: skip


def test_runs_to_a_report_and_goes_on_where_it_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quality"
    assert quality.main(["run", "--out", str(out), *SMALL]) == 0
    paths = sorted(out.glob("cells/*/*/result.json"))
    assert len(paths) == 7  # three rates, two seeds, and the untuned base on both
    first = {path: json.loads(path.read_text()) for path in paths}

    # What is there stays; what is missing comes out the same although another process did other cells before it.
    index = first[next(path for path in paths if "test" in path.parent.name and path.parents[1].name == "lora")][
        "index"
    ]
    lost = Cell("lora", "test", 1, index)
    (lost.folder(out) / "result.json").unlink()
    quality_cell.record_failure(out, lost, "Traceback\nRuntimeError: the lights went out")
    assert quality.main(["report", "--out", str(out)]) == 0
    assert f"Missing: lora/test-lr{rate(index):g}-seed1: RuntimeError: the lights went out" in capfd.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/result.json")}
    assert quality.main(["run", "--out", str(out), *SMALL]) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    again = json.loads((lost.folder(out) / "result.json").read_text())
    for key in ("scores", "mean", "train_loss", "trainable_parameters"):
        assert again[key] == first[lost.folder(out) / "result.json"][key]

    target = tmp_path / "results.json"
    assert quality.main(["report", "--out", str(out), "--json", str(target)]) == 0
    assert "Missing" not in (shown := capfd.readouterr().out) and "| lora | 241,920 | " in shown
    content = json.loads(target.read_text())
    assert len(content["cells"]) == 7 and content["summary"]["lora"]["mean"]["n"] == 2 and not content["missing"]
    assert str(tmp_path) not in target.read_text()

    assert quality.main(["run", "--out", str(out), *SMALL, "--steps", "3"]) == 1
    assert "other settings" in capfd.readouterr().err
    assert_scores_are_the_generators(lost.folder(out) / "run", out / "data" / "seed1" / "test.json")


def assert_scores_are_the_generators(run: Path, path: Path) -> None:
    """Teacher forcing and generation agree, question by question, on the right and on the wrong ones."""
    generator = Generator(load_model(run, device="cpu"))
    records = load_records(path)
    queries = [
        Query(record.turns[:1], tuple(load_image(default_root() / name) for name in record.images))
        for record in records
    ]
    answers = generator.generate(queries, Decoding(max_new_tokens=16))
    generated: dict[str, list[bool]] = {}
    for record, answer in zip(records, answers, strict=True):
        hit = answer.text == record.turns[1].text and answer.finish == "stop"
        generated.setdefault(record.id.partition("#")[0], []).append(hit)
    assert generated == answered(run, path)
    hits = [hit for found in generated.values() for hit in found]
    assert 0 < sum(hits) < len(hits)


def test_a_dying_worker_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("lora", "test", 0, -8)
    worker = quality.Worker(tmp_path)
    monkeypatch.setattr(quality.sys, "executable", "/bin/false")
    worker.do(cell)
    worker.stop()
    worker.close()
    assert cell.failed(tmp_path) and "status 1" in (cell.folder(tmp_path) / "error.txt").read_text()


def test_mistakes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        (["run", "--out", str(tmp_path), "--methods", "teamlor"], "did you mean 'teamlora'?"),
        (["run", "--out", str(tmp_path), "--seeds", "1"], "--seeds must be at least 2"),
        (["report", "--out", str(tmp_path / "none")], "no such file"),
    ):
        assert quality.main(argv) == 1
        assert message in capsys.readouterr().err
