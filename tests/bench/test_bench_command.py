"""``llava-teamlora bench`` end to end at its quick sizes; its flags; the files it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from llava_teamlora.bench.commands import BENCHES, add_parser, settings_of
from llava_teamlora.bench.measuring import Times
from llava_teamlora.bench.output import Check, Column, Found, Row, as_table, write
from llava_teamlora.bench.settings import DecodeSettings, Settings, StepSettings
from llava_teamlora.bench.timed import check, rows_of
from llava_teamlora.cli import main

VARIANTS = {
    "step": ("base", "moelora-loop", "teamlora-linear"),
    "mlp": ("moelora-loop", "teamlora-mlp"),
    "decode": ("moelora-loop", "teamlora-packed"),
    "trace": ("moelora-loop", "teamlora-linear", "teamlora-mlp"),
}


@pytest.mark.parametrize("bench", VARIANTS)
def test_a_bench_runs_and_writes(bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", bench, "--quick", "--rounds", "2", "--out", str(tmp_path), "--variants", *VARIANTS[bench]]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "teamlora" in shown and "--quick: sizes too small" in shown
    content = json.loads((tmp_path / f"{bench}.json").read_text())
    assert content["what"] == bench and content["settings"]["d_in"] == 64
    assert set(content["versions"]) >= {"torch", "peft"} and content["machine"]["threads"] >= 1
    rows = content["rows"]
    assert {row["variant"] for row in rows} == {"peft-lora", *VARIANTS[bench]}
    assert {row["k"] for row in rows if row["variant"].startswith("teamlora")} == {2}
    wanted = {"variant", "k", "r", "dtype"}
    wanted |= {"flops", "saved_bytes", "kernels"} if bench == "trace" else {"ratio", "q1", "q3", "twin", "y_error"}
    assert all(wanted <= set(row) for row in rows)
    if bench != "trace":
        assert {row["ratio"] for row in rows if row["variant"] == "peft-lora"} == {1.0}
        assert all(row["y_error"] < 1e-5 and row["q1"] <= row["ratio"] <= row["q3"] for row in rows)
    assert content["checks"] and {"what", "found", "limit", "holds"} <= set(content["checks"][0])
    assert (tmp_path / f"{bench}.png").read_bytes().startswith(b"\x89PNG")


def parsed(*line: str) -> Settings:
    parser = ArgumentParser()
    add_parser(parser.add_subparsers())
    return settings_of(parser.parse_args(["bench", *line]))


def test_given_flags_beat_quick_ones_and_quick_ones_the_defaults() -> None:
    assert parsed("step") == StepSettings()
    quick = parsed("step", "--quick", "--tokens", "7", "--k", "1", "8", "--total_rank", "16")
    assert isinstance(quick, StepSettings)
    assert (quick.tokens, quick.k, quick.total_rank, quick.rank(8)) == (7, (1, 8), 16, 2)
    assert (quick.d_in, quick.rounds, quick.dtype) == (64, 3, ("fp32",))
    decode = parsed("decode", "--dtype", "amp", "fp32")
    assert decode == DecodeSettings(dtype=("amp", "fp32"))


@pytest.mark.parametrize("bench", BENCHES)
def test_help_teaches_every_flag(bench: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", bench, "--help"])
    shown = capsys.readouterr().out
    assert "examples:" in shown and f"llava-teamlora bench {bench}" in shown
    assert all(f"--{field.name}" in shown for field in fields(BENCHES[bench].settings))


def test_a_wrong_rank_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "trace", "--total_rank", "10", "--k", "4"]) == 1
    assert "error: --total_rank 10 cannot be shared by 4 experts" in capsys.readouterr().err


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from llava_teamlora.cli import _parser; _parser().format_help(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestRowsAndVerdicts:
    settings = StepSettings(dtype=("fp32",))

    def times(self, ours: float, twin: float) -> tuple[Times, list]:
        from llava_teamlora.bench.cases import Case, with_twins

        peft = Case("peft-lora", 1, 128, "fp32")
        team = Case("teamlora-linear", 4, 32, "fp32")
        twins = with_twins([peft, team], "peft-lora")
        wobble = [0.98, 1.0, 1.02]
        seconds = {peft: [1.0] * 3, team: [ours] * 3, twins[peft]: [twin * one for one in wobble]}
        return Times(seconds, twins), [peft, team]

    def test_rows(self) -> None:
        times, cases = self.times(0.9, 1.01)
        rows = rows_of(cases, times, dict.fromkeys(cases), self.settings, checkpointing="checkpointing")
        assert rows[1].to_dict() == {
            "variant": "teamlora-linear", "k": 4, "r": 32, "dtype": "fp32", "checkpointing": False, "ratio": 0.9,
            "q1": 0.9, "q3": 0.9, "twin": 1.01, "ms": 900.0, "inconclusive": False,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("ours", "twin", "limit", "holds"),
        [(0.9, 1.0, 1.0, True), (1.005, 1.0, 1.0, True), (1.05, 1.0, 1.0, False), (0.9, 1.2, 1.0, None),
         (0.5, 1.0, 0.5, True), (0.505, 1.0, 0.5, False)],
    )  # fmt: skip
    def test_verdicts(self, ours: float, twin: float, limit: float, holds: bool | None) -> None:
        """Only of a limit of 1 the twins' band (here 1 %) is let go; where twins are off, nothing is said."""
        times, (peft, team) = self.times(ours, twin)
        found = check(times, "ours", team, peft, limit, self.settings)
        assert found is not None and found.holds is holds

    def test_what_was_not_measured_is_not_judged(self) -> None:
        times, (peft, team) = self.times(1.0, 1.0)
        assert check(times, "ours", team, peft.of("moelora-loop"), 1.0, self.settings) is None


def test_inconclusive_rows_are_marked_and_lines_are_drawn_over_k(tmp_path: Path) -> None:
    figures = {"ratio": 1.5, "q1": 1.4, "q3": 1.6, "inconclusive": True, "y_error": None}
    rows = [Row("moelora-loop", k, 2, dtype, figures) for dtype in ("bf16", "fp32") for k in (1, 2, 4)]
    columns = (Column("ratio", "ratio"), Column("y_error", "error"))
    found = Found("a title", rows, columns, [Check("what", 2.0, 1.0, None), Check.counted("that", 2.0, 1.0)])
    console = Console(width=80, record=True, file=open(tmp_path / "shown", "w"))  # noqa: SIM115
    console.print(as_table(found))
    console.file.close()
    shown = console.export_text()
    assert shown.count("1.500 (1.40–1.60) ?") == 6 and "bf16" in shown and "fp32" in shown
    assert "inconclusive" in shown and " no" in shown
    png, written = tmp_path / "it.png", write(tmp_path, "it", {"device": "cpu"}, found)
    assert written == [tmp_path / "it.json", png] and png.stat().st_size > 5000
    own = Found("a title", rows, columns, picture=lambda: b"drawn elsewhere")
    write(tmp_path, "it", {"device": "cpu"}, own)
    assert png.read_bytes() == b"drawn elsewhere"
