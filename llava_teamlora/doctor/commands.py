"""``llava-teamlora doctor``: the table, or JSON."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from llava_teamlora.doctor.findings import Finding

_DOCTOR = """\
Look at this machine: versions, GPUs, attention, DeepSpeed, CPU, memory, disks, the model hub. Each line says ok,
warning (a training runs, but slower or smaller than it might) or problem (it does not run), and what to do. The exit
status is 1 if there is a problem. With --config it also looks at that run: its memory, disk for its checkpoints.
"""
_EXAMPLES = """\
examples:
  llava-teamlora doctor
  llava-teamlora doctor --config runs/my-run/run.yaml --output_dir runs/next
"""

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def add_parser(subparsers: Any) -> None:
    """Mount ``doctor`` on the program's subparsers; it sets ``run``, arguments -> exit status."""
    parser = subparsers.add_parser(
        "doctor",
        help="what this machine has, and what a training would miss",
        description=_DOCTOR,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML of a run's flags, such as its run.yaml")
    parser.add_argument("--output_dir", "--output-dir", metavar="DIR", help="where a run would be written")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from llava_teamlora.doctor.facts import gather
    from llava_teamlora.doctor.findings import judge, stops

    facts = gather(arguments.output_dir)
    findings = judge(facts)
    result: dict[str, Any] = {}
    if arguments.config is not None and not facts.torch_problem:
        found, result["memory"] = _run(arguments.config, arguments.output_dir)
        findings += found
    if arguments.json:
        result = {
            "ok": not stops(findings),
            "findings": [asdict(f) for f in findings],
            "facts": asdict(facts),
            **result,
        }
        print(json.dumps(result))
    else:
        Console().print(as_table(findings))
    return int(stops(findings))


def _run(config: str, output_dir: str | None) -> tuple[list[Finding], dict[str, Any]]:
    from llava_teamlora.doctor.run_check import check_run
    from llava_teamlora.training.flags.command_line import parse_arguments

    elsewhere = ["--output_dir", output_dir] if output_dir else []
    findings, estimate = check_run(parse_arguments(["--config", config, *elsewhere]))
    return findings, estimate.to_dict()


def as_table(findings: list[Finding]) -> Table:
    """Findings as a table, and a line that sums them up."""
    from rich.table import Table
    from rich.text import Text

    counts = {status: sum(f.status == status for f in findings) for status in _STYLES}
    table = Table("", "what", "found", "remedy", caption_justify="left")
    for column in table.columns:
        column.overflow = "fold"  # a command is whole, or useless
    table.caption = ", ".join(f"{number} {status}" for status, number in counts.items())
    for finding in findings:
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(status, *(Text(part) for part in (finding.subject, finding.found, finding.remedy)))
    return table
