"""Run folders -> the paper's tables. Scores are made up; what cells must show is worked out beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scored_runs import BASE, FLAT, make_run, make_scores, make_untuned, trained_on, write_scores

from llava_teamlora.cli import main
from llava_teamlora.cme.report import build_tables, draw_tables, notes_of
from llava_teamlora.cme.rows import METHOD_NAMES
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.report import print_report
from llava_teamlora.run_card import read_run_card, write_run_card
from llava_teamlora.tuners import METHODS


def rows(arguments: list[str], table: str = "2", published: bool = False) -> dict[str, list[str]]:
    """Cells by label of the Markdown table."""
    text = draw_tables(build_tables(arguments, table, published=published), "md")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def notes(arguments: list[str], table: str = "2", published: bool = False) -> str:
    return "\n".join(build_tables(arguments, table, published=published).reports[table].notes)


def test_every_method_has_a_name() -> None:
    assert set(METHOD_NAMES) == set(METHODS)


def test_table_2(tmp_path: Path) -> None:
    """The intervals: 1.96 * 1 % = 2.0; of an average sqrt(11) * 1 / 11 * 1.96 = 0.59."""
    make_run(tmp_path / "t", {**FLAT, "nq": 0.61}, parameters=271, seconds=5400)
    make_run(tmp_path / "l", method="lora", adapter={"r": 34, "rank_pattern": {"a": 35}}, parameters=68)
    make_run(tmp_path / "p", method="prompt_tuning", adapter={"num_virtual_tokens": 20}, seconds=59.4)
    make_run(tmp_path / "a", method="adalora", adapter={"r": 8, "init_r": 12, "target_r": 8})
    make_untuned(tmp_path / "t" / "evaluation" / "untuned", dict.fromkeys(ELEVEN, 0.1))
    shown = rows([str(tmp_path / name) for name in "tlpa"])
    heads = ["MoE", "Rank", "Time", "Params %", "OAI-Sum", "IMDB", "ANLI", "QQP", "RTE", "WinG", "ARC", "WQA", "NQ"]
    assert shown["method"] == [*heads, "TQA", "MMLU", "Avg."]
    # The paper's order, whatever the command line's.
    assert list(shown)[1:] == ["Prompt-Tuning", "LoRA", "AdaLoRA", "TeamLoRA", "untuned base", "majority"]
    assert shown["TeamLoRA"][:4] == ["✓ k=4", "8", "1.5 h", "2.71"]
    assert shown["LoRA"][:4] == ["✗", "34-35", "1.5 min", "0.68"]
    assert shown["Prompt-Tuning"][:3] == ["✗", "-", "59 s"] and shown["AdaLoRA"][1] == "12→8"
    # (10 * 50 + 61) / 11 = 51; the best is bold, three equal seconds are underlined.
    assert shown["TeamLoRA"][12] == "**61.0** ± 2.0" and shown["TeamLoRA"][-1] == "**51.00** ± 0.59"
    assert shown["LoRA"][12] == "<u>50.0</u> ± 2.0" and shown["LoRA"][-1] == "<u>50.00</u> ± 0.59"
    assert shown["untuned base"] == ["", "", "", "", *["10.0 ± 2.0"] * 11, "10.00 ± 0.59"]
    assert shown["majority"][4:] == [*["25.0 ± 2.0"] * 11, "25.00 ± 0.59"]


def test_the_papers_rows_stand_apart_with_marks_of_their_own(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "run"))
    shown = rows([run], published=True)
    assert shown["TeamLoRA"][4:] == [*["50.0 ± 2.0"] * 11, "50.00 ± 0.59"]
    assert shown["Prompt-Tuning (paper)"][:5] == ["✗", "-", "23 h", "0.02", "25.3"]
    tables = build_tables([run])
    last = tables.reports["2"].published[-1]
    assert (
        last.facts == ("✓", "32", "29 h", "2.71")
        and last.cells[-1]
        and (last.cells[-1].value, 1)
        == (
            60.29,
            last.cells[-1].rank,
        )
    )
    assert len(tables.reports["2"].published) == 10
    assert "on Chinese-LLaMA-2-7B, its authors' data; our base: tiny_text" in notes([run], published=True)
    assert "published" not in notes([run]) and "MoELoRA (paper)" not in rows([run])


def test_seeds_become_one_row_with_a_t_interval(tmp_path: Path) -> None:
    """NQ 50, 56, 62: mean 56, s = 6, stderr 6 / sqrt(3) = 3.4641, t(2) = 4.3027: 14.9. Average: 550 / 11 and so on:

    50, 50.5455, 51.0909: mean 50.5455, stderr 0.5455 / sqrt(3) = 0.3149, 1.355.
    """
    runs = [str(make_run(tmp_path / f"s{s}", {**FLAT, "nq": 0.5 + 0.06 * s}, seed=s, seconds=60 + s)) for s in range(3)]
    other = str(make_run(tmp_path / "other", seed=0, learning_rate=0.01))
    shown = rows([*runs, other])
    assert shown["method"][4] == "Seeds" and shown["TeamLoRA (learning_rate 0.003)"][4] == "3"
    assert shown["TeamLoRA (learning_rate 0.003)"][13] == "**56.0** ± 14.9"
    assert shown["TeamLoRA (learning_rate 0.003)"][-1] == "**50.55** ± 1.35"
    assert shown["TeamLoRA (learning_rate 0.003)"][2] == "1.0 min"
    assert shown["TeamLoRA (learning_rate 0.01)"][-1] == "50.00 ± 0.59"
    said = notes([*runs, other])
    assert "rows differ: learning_rate is 0.003, but 0.01 of TeamLoRA (learning_rate 0.01) 8" in said
    content = json.loads(draw_tables(build_tables([*runs, other]), "json"))
    assert [run["seed"] for run in content["rows"][0]["runs"]] == [0, 1, 2]
    low, high = content["tables"]["2"]["runs"][0]["intervals"][8]
    assert (low, high) == pytest.approx((56 - 14.905, 56 + 14.905), abs=1e-3)
    # By name they are rows of their own.
    assert set(rows([f"a={runs[0]}", f"b={runs[1]}"])) == {"method", "a", "b", "majority"}


def test_a_seed_without_all_tasks_gives_no_average(tmp_path: Path) -> None:
    short = {name: share for name, share in FLAT.items() if name not in ("nq", "mmlu")}
    runs = [str(make_run(tmp_path / "0")), str(make_run(tmp_path / "1", short, seed=1))]
    shown = rows(runs)["TeamLoRA"]
    assert shown[13] == "50.0<sup>a</sup>" and shown[-1] == "-"  # one value has no spread
    said = notes(runs)
    assert f"no average of {runs[1]}: NQ, MMLU missing; llava-teamlora evaluate run nq mmlu --model {runs[1]}" in said
    write_scores(tmp_path / "1" / "evaluation", "tldr", 0.5, {}, data_root="data/eval")
    assert f"--model {runs[1]} --data_root data/eval" in notes(runs)
    assert "1 of 2 seeds" in draw_tables(build_tables(runs), "md")


def test_partial_scores_are_marked_unranked_and_not_averaged(tmp_path: Path) -> None:
    whole, part = make_run(tmp_path / "whole", method="lora"), make_run(tmp_path / "part")
    write_scores(part / "evaluation", "arc", 0.99, {}, name="arc [partial: 20 of 3548]")
    shown = rows([str(whole), str(part)])
    assert shown["TeamLoRA"][10] == "99.0<sup>a</sup> ± 2.0" and shown["TeamLoRA"][-1] == "-"
    assert "no average of" in notes([str(part)]) and "ARC partial; llava-teamlora evaluate run arc" in notes(
        [str(part)]
    )
    for name in ELEVEN:
        write_scores(part / "evaluation", name, 0.5, {}, name=f"{name} [partial: 2 of 9]")
    assert f"no average of {part}: all tasks partial; llava-teamlora evaluate run cme --model {part}" in notes(
        [str(part)]
    )
    # Majority comes from the scores of all questions, where there are such.
    assert "sup" not in rows([str(part), str(whole)])["majority"][10] and rows([str(part)])["majority"][-1] == "-"


def test_table_3_ranks_within_blocks_of_a_size(tmp_path: Path) -> None:
    """Blocks: 100 and 104 parameters; 200."""
    make_run(tmp_path / "a", {**FLAT, "nq": 0.6}, parameters=100)
    make_run(tmp_path / "b", {**FLAT, "nq": 0.7}, "lora", {"r": 32}, parameters=104)
    make_run(tmp_path / "c", {**FLAT, "nq": 0.1}, adapter={"r": 16, "num_experts": 4}, parameters=200)
    make_run(tmp_path / "d", method="ia3", adapter={})
    tables = build_tables([str(tmp_path)], "3", published=True)
    report = tables.reports["3"]
    assert [column.head for column in report.columns] == ["OAI-Sum", "IMDB", "QQP", "WinG", "NQ", "TQA"]
    nq = [(row.label, row.facts, row.cells[4] and (row.cells[4].value, row.cells[4].rank)) for row in report.runs]
    assert nq == [
        ("TeamLoRA", ("✓ k=4", "8", "1.00"), (60.0, 0)),
        ("LoRA", ("✗", "32", "1.04"), (70.0, 1)),
        ("TeamLoRA", ("✓ k=4", "16", "2.00"), (10.0, 0)),
    ]
    theirs = [(row.label, row.facts[1], row.cells[4] and row.cells[4].rank) for row in report.published]
    assert theirs[:3] == [("LoRA (paper)", "32", 2), ("MoELoRA (paper)", "8", 0), ("TeamLoRA (paper)", "8", 1)]
    with pytest.raises(UserError, match="none of these runs has a rank"):
        build_tables([str(tmp_path / "d")], "3")


def test_table_4_is_the_two_switches_by_rank(tmp_path: Path) -> None:
    def run(name: str, method: str, learned: bool, rank: int, share: float) -> None:
        adapter = {"r": rank, "num_experts": 4, "train_interaction": learned}
        make_run(tmp_path / name, dict.fromkeys(ELEVEN, share), method, adapter, r=rank)

    run("a", "moelora", False, 8, 0.1)
    run("b", "moelora", True, 8, 0.2)
    run("c", "teamlora", False, 8, 0.3)
    run("d", "teamlora", True, 8, 0.4)
    run("e", "teamlora", True, 2, 0.5)
    shown = rows([str(tmp_path)], "4")
    assert shown["method"] == ["Cop", "Col", "Avg. r=2", "Avg. r=8"]
    assert shown["MoELoRA"] == ["-", "-", "-", "10.00 ± 0.59"]
    assert shown["MoELoRA + competition"] == ["✓", "-", "-", "20.00 ± 0.59"]
    assert shown["TeamLoRA - competition"] == ["-", "✓", "-", "<u>30.00</u> ± 0.59"]
    assert shown["TeamLoRA"] == ["✓", "✓", "50.00 ± 0.59", "**40.00** ± 0.59"]
    assert rows([str(tmp_path)], "4", published=True)["TeamLoRA (paper)"] == (
        ["✓", "✓", "-", "**58.31**", "**59.95**", "**60.29**", "<u>58.94</u>"]
    )
    assert "not another function (docs/methods.md)" in notes([str(tmp_path)], "4")
    run("f", "teamlora", True, 4, 0.5)
    make_run(tmp_path / "g", adapter={"r": 4, "num_experts": 4, "train_interaction": True}, r=4, learning_rate=0.1)
    with pytest.raises(UserError, match=r"have one place in Table 4; they differ in learning_rate"):
        build_tables([str(tmp_path)], "4")


def test_table_5_sets_bases_apart_and_table_2_does_not(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="lora")
    make_run(tmp_path / "b", {**FLAT, "nq": 0.61})
    make_run(tmp_path / "c", dict.fromkeys(ELEVEN, 0.9), base="other")
    report = build_tables([str(tmp_path)], "5").reports["5"]
    averages = [(row.label, row.facts, row.cells[-1] and row.cells[-1].rank) for row in report.runs]
    assert averages == [
        ("LoRA", ("tiny_text", "8"), 0),
        ("TeamLoRA", ("tiny_text", "8"), 1),
        ("TeamLoRA", ("other", "8"), 0),
    ]
    assert [row.facts for row in report.published] == [("Llama-3-8B", "32"), ("Llama-3-8B", "8"), ("Llama-3-8B", "8")]
    assert "on Llama-3-8B, its authors' data; our base: tiny_text, other" in "\n".join(report.notes)
    with pytest.raises(UserError, match=r"the rows are of 2 bases: tiny_text \(.*\), other \(.*\); --table 5"):
        build_tables([str(tmp_path)], "2")
    tables = build_tables([str(tmp_path)], "all")
    assert list(tables.reports) == ["5"]
    assert [note.partition(":")[0] for note in notes_of(tables)] == ["no table 2", "no table 3", "no table 4"]


def test_a_sweeps_unfinished_cells_are_told(tmp_path: Path) -> None:
    make_run(tmp_path / "method=lora", method="lora")
    make_untuned(tmp_path / "untuned" / "evaluation")
    cells = [
        {"folder": name, "status": status, "log": f"{name}/log.txt"}
        for name, status in (("untuned", "done"), ("method=lora", "done"), ("method=ia3", "failed"))
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"llava_teamlora_sweep": 1, "cells": cells}))
    assert list(rows([str(tmp_path)])) == ["method", "LoRA", "untuned base", "majority"]
    (told,) = notes_of(build_tables([str(tmp_path)]))
    assert told.endswith("method=ia3 is failed (see method=ia3/log.txt there)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"best": 3}, "was not written by this version of llava-teamlora sweep; give the run folders themselves"),
        ({"llava_teamlora_sweep": 1, "cells": [{"folder": "a"}]}, r"sweep.json, cells\[0\]: has no field 'status'"),
    ],
)
def test_others_sweep_files_are_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        build_tables([str(tmp_path)])


def test_runs_of_a_folder_without_scores_are_left_out_and_told(tmp_path: Path) -> None:
    make_run(tmp_path / "text")
    make_run(tmp_path / "llava", {}, method="lora")
    write_scores(tmp_path / "llava" / "evaluation", "mme", 0.7, {})
    assert list(rows([str(tmp_path)])) == ["method", "TeamLoRA", "majority"]
    (told,) = notes_of(build_tables([str(tmp_path)]))
    assert told.startswith(f"left out: {tmp_path / 'llava'} has no scores of CME's tasks; llava-teamlora evaluate run")
    make_run(tmp_path / "none" / "a", {})
    with pytest.raises(UserError, match=r"none of its 1 runs has scores of CME's tasks; .* --model .*none/a"):
        build_tables([str(tmp_path / "none")])


def test_one_name_for_runs_of_several_methods(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", method="lora")
    make_run(tmp_path / "runs" / "b", method="moslora")
    assert list(rows([f"mine={tmp_path / 'runs'}"]))[1:3] == ["mine: LoRA", "mine: MoSLoRA"]
    make_run(tmp_path / "seeds" / "a")
    make_run(tmp_path / "seeds" / "b", seed=1)
    assert list(rows([f"mine={tmp_path / 'seeds'}"]))[1] == "mine"


def test_a_run_whose_training_broke_off_is_no_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    card = read_run_card(run)
    write_run_card(run, replace(card, results={"trainable_parameters": 100}))
    with pytest.raises(UserError, match=r"run.yaml: lacks train_seconds; was its training finished\?"):
        build_tables([str(run)])


def test_other_data_is_told(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", method="lora"), make_run(tmp_path / "b", seed=1)
    trained_on(b, "abcdef012345".ljust(64, "0"))
    assert "rows differ: data is 33333333…, but abcdef01… of TeamLoRA 8" in notes([str(a), str(b)])


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    other = make_run(tmp_path / "other", method="lora")
    with pytest.raises(UserError, match="is given twice"):
        build_tables([str(run), f"x={run}"])
    with pytest.raises(UserError, match=r"same settings and the same seed \(0\) as .*run"):
        build_tables([str(run), str(make_run(tmp_path / "again"))])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        build_tables(["nowhere"])
    bare = make_run(tmp_path / "bare", {})
    with pytest.raises(UserError, match=r"none of CME's tasks was evaluated; llava-teamlora evaluate run cme --model"):
        build_tables([str(bare)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: is no run folder.*evaluate run cme --model BASE --out .*empty"):
        build_tables([str(tmp_path / "empty")])
    make_scores(tmp_path / "loose", FLAT, {"kind": "run", "base_fingerprint": BASE})
    with pytest.raises(UserError, match=r"loose: is no run folder.*not of an untuned base; give the run folder"):
        build_tables([str(tmp_path / "loose")])
    with pytest.raises(UserError, match="nothing to lay out but an untuned base"):
        build_tables([str(make_untuned(tmp_path / "untuned"))])
    write_scores(other / "evaluation", "arc", 0.5, {}, data_sha256="9" * 64)
    with pytest.raises(UserError, match="its arc holds other questions"):
        build_tables([str(run), str(other)])
    write_scores(other / "evaluation", "arc", 0.5, {}, name="arc [likelihood]")
    with pytest.raises(UserError, match=r"arc.*was answered by likelihood, another protocol than CME's"):
        build_tables([str(other)])


@pytest.mark.parametrize("width", [240, 150, 80])
def test_any_terminal_shows_all(width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "run", {**FLAT, "nq": 0.61}))
    print_report(build_tables([run]).reports["2"], console=Console(width=width))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for figure in ("61.0", "51.00", "60.29", "✓ k=4", "1.5 min", "29 h"):
        assert figure in shown


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "run"))
    assert main(["cme", "report", run, "--format", "csv", "--no_paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("label,kind,source,MoE,Rank,Time,Params %,tldr,tldr_stderr,imdb,")
    assert lines[1].startswith("TeamLoRA,run,,✓ k=4,8,1.5 min,1.00,50.0,1.0,50.0,1.0,")
    out = tmp_path / "out"
    assert main(["cme", "report", run, "--table", "all", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "cme_report.json",
        *(f"table{number}.{form}" for number in "2345" for form in ("csv", "md")),
    ]
    assert main(["cme", "report", run]) == 0 and "60.29" in capsys.readouterr().out
    assert main(["cme", "report", run, "--plots"]) == 1
    assert main(["cme", "report", run, "--plots", "--out", str(out)]) == 1
    assert "no figure 3a: no two rows" in capsys.readouterr().err


def test_no_torch_is_needed(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "run"))
    code = (
        "import sys; from llava_teamlora.cli import main; from llava_teamlora.cme.commands import report; "
        "import llava_teamlora.cme.report, llava_teamlora.cme.plots; "
        f"from llava_teamlora.cme.report import build_tables; build_tables([{run!r}]); "
        "print([name for name in ('torch', 'transformers', 'peft', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
