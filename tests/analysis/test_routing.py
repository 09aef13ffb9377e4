"""routing.jsonl read back: the writer's very fields, mistakes told with file and line, and the table."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.analysis import routing
from llava_teamlora.analysis.routing import RoutingRow, read_routing
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.training.telemetry import _line
from llava_teamlora.tuners.routed import GroupRouting, InteractionState, LayerRouting

GROUP = GroupRouting(8, (0.5, 0.75), (0.1, 0.2), (0.4, 0.6), 0.6, 0.9, (0.25, 0.75), ())
ROUTING = LayerRouting("model.layers.0.mlp.up_proj", "default", 2, InteractionState(0.125, 1.5), {"all": GROUP})


def write(folder: Path, *rows: str) -> Path:
    (folder / "routing.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lost = dataclasses.replace(GROUP, entropy=math.nan, participation_std=(math.inf, 0.1), dead=(1,))
    plain = LayerRouting("other", "b", 2, None, {"task/what color": lost})
    singular = dataclasses.replace(ROUTING, interaction=InteractionState(0.0, math.inf))
    run = write(tmp_path, _line(4, 4, ROUTING), _line(6, 2, plain), _line(6, 2, singular))
    first, second, third = read_routing(run)
    assert read_routing(run / "routing.jsonl")[0] == first
    assert dataclasses.asdict(first) == {"step": 4, "steps": 4, **dataclasses.asdict(ROUTING)}
    assert (second.step, second.steps, second.interaction) == (6, 2, None)
    group = second.groups["task/what color"]
    assert math.isnan(group.entropy) and math.isnan(group.participation_std[0]) and group.dead == (1,)
    assert third.interaction is not None and math.isnan(third.interaction.condition)
    assert "NaN" not in (run / "routing.jsonl").read_text()


def test_reader_and_writer_have_the_same_fields() -> None:
    for ours, theirs in (
        (routing.GroupStatistics, GroupRouting),
        (routing.InteractionStatistics, InteractionState),
        (RoutingRow, LayerRouting),
    ):
        names = [field.name for field in dataclasses.fields(ours)]
        assert names[-len(dataclasses.fields(theirs)) :] == [field.name for field in dataclasses.fields(theirs)]


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    line = _line(4, 4, ROUTING)
    assert len(read_routing(write(tmp_path, line, line[:40]))) == 1
    assert read_routing(write(tmp_path, line[:40])) == [] == read_routing(write(tmp_path))


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(_line(4, 4, ROUTING)), **values}) + "\n"


def with_group(**values: Any) -> str:
    group = {**dataclasses.asdict(GROUP), **values}
    return changed(groups={"all": {name: value for name, value in group.items() if value is not ...}})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{\n", "broken JSON"),
        ("[]\n", "expected an object, found list"),
        (changed(format=2), "'format' is 2, this program reads 1"),
        (changed(step="4"), "'step' must be of type int, found '4'"),
        (changed(k=0), "'k' must be at least 1, found 0"),
        (changed(interaction={"drift": 1.0}), "interaction: has no 'condition'"),
        (changed(groups=None), "'groups' must be of type dict"),
        (changed(groups={"all": 3}), "group 'all': expected an object"),
        (with_group(load=[1.0]), "group 'all': 'load' must hold 2 numbers, one an expert, found 1"),
        (with_group(load=[1.0, "x"]), "group 'all': 'load' must be of type float, found 'x'"),
        (with_group(dead=[2]), "group 'all': 'dead' must name experts from 0 to 1, found [2]"),
        (with_group(entropy=...), "group 'all': has no 'entropy'"),
        (with_group(count=True), "'count' must be of type int, found True"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    run = write(tmp_path, _line(4, 4, ROUTING), line)
    with pytest.raises(UserError) as caught:
        read_routing(run)
    assert str(caught.value).startswith(f"{run / 'routing.jsonl'}, line 2") and message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="routing.jsonl: no such file; a run writes it with --routing_telemetry_steps"):
        read_routing(tmp_path)
    (tmp_path / "routing.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_routing(tmp_path)


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = {"image": dataclasses.replace(GROUP, count=1234, load=(0.0, 1.0), dead=(0,))}
    other = LayerRouting("model.layers.11.mlp.up_proj", "default", 2, None, {"all": GROUP, **image})
    run = str(write(tmp_path, _line(4, 4, ROUTING), _line(6, 2, ROUTING), _line(6, 2, other)))
    assert main(["inspect", "routing", run]) == 0
    shown = capsys.readouterr().out
    assert "all: 8 positions of steps 5 to 6, layers model.layers.…" in shown
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "up_proj" in line]
    assert cells == [
        ["0.mlp.up_proj", "0.900", "25  75", "-", "0.1250", "1.50"],
        ["11.mlp.up_proj", "0.900", "25  75", "-", "-", "-"],
    ]
    assert main(["inspect", "routing", run, "--group", "image"]) == 0
    shown = capsys.readouterr().out
    assert "image: 1,234 positions" in shown and "0 100 │    0" in shown
    for flags, message in (
        (["--step", "5"], "no window ends with --step 5; do: 4, 6"),
        (["--group", "imag"], "no position of --group 'imag' in step 6; there are all, image; did you mean 'image'?"),
    ):
        assert main(["inspect", "routing", run, *flags]) == 1
        assert message in capsys.readouterr().err
    write(tmp_path)
    assert main(["inspect", "routing", run]) == 1
    assert "no window is finished yet" in capsys.readouterr().err


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    run = write(tmp_path, _line(4, 4, ROUTING))
    code = f"import sys; from llava_teamlora.cli import main; main(['inspect', 'routing', {str(run)!r}]); "
    code += "raise SystemExit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
