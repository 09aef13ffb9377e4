"""The bench's own sets: what it plants is what a build finds."""

from __future__ import annotations

import json
from pathlib import Path

import cme_build
import pytest

from llava_teamlora import cli


def test_all_that_is_planted_is_found(tmp_path: Path) -> None:
    planted = cme_build.write_sets(tmp_path, cme_build.Settings(rows=1000, asked=40, planted=25))
    assert cli.main(cme_build.command(tmp_path, "mix.jsonl")[3:]) == 0
    # 1,000 rows in stretches of 25, of which the first leaks and the last is a copy; and one row each of ANLI's R2, R3.
    assert cme_build.check(tmp_path, planted) == {"rows": 1002, "duplicates": 40, "leaks_dropped": 40, "kept": 922}


def test_a_leak_that_is_missed_is_seen(tmp_path: Path) -> None:
    planted = cme_build.write_sets(tmp_path, cme_build.Settings(rows=1000, asked=40, planted=25))
    assert cli.main(cme_build.command(tmp_path, "mix.jsonl")[3:]) == 0
    leaks = (tmp_path / "mix.leaks.jsonl").read_text(encoding="utf-8").splitlines()
    gone = json.loads(leaks[0])
    (tmp_path / "mix.leaks.jsonl").write_text("\n".join(leaks[1:]) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=rf"{gone['source']}: .*leaks differ at lines \[{gone['where'].split()[-1]}\]"):
        cme_build.check(tmp_path, planted)
