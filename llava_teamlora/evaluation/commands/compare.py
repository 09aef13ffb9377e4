"""``evaluate compare``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from llava_teamlora.evaluation.compare import Comparison, Line

_COMPARE = """\
Is the other run better than the base, or is it chance? Both answered the same questions, so they are compared
question by question, from the scores.rows.jsonl that evaluate score and run write. No model, no data is loaded.

  difference    other - base ± half of its 95 % interval: paired, and clustered by picture (or what the benchmark's
                questions share). Where it is more than the ± the difference is significant at 5 %, and bold.
  won lost same questions on which the other run scores higher, lower, alike; only those that the figure is the mean
                of, and in MMBench questions in all rotations. "-" where a figure is no such mean (POPE's F1, MME)
  p             McNemar's exact test of won against lost, where an answer is either right or wrong; it takes the
                questions as independent, the interval does not

Figures that are no such mean are computed anew 100 times without a part of the pictures (block jackknife): a second
to half a minute.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate compare lora=runs/lora/evaluation/pope teamlora=runs/teamlora/evaluation/pope
  llava-teamlora evaluate compare runs/lora runs/teamlora runs/moelora --format md     all benchmarks of the runs
  llava-teamlora evaluate compare a/scores.rows.jsonl b/scores.rows.jsonl --format json
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "compare",
        help="Differences between runs, with intervals and tests",
        description=_COMPARE,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    path = "[LABEL=]PATH"
    parser.add_argument("base", metavar=f"BASE {path}", help="scores.json, its rows, or a folder that holds them")
    parser.add_argument("others", nargs="+", metavar=f"OTHER {path}", help="of the same benchmarks and questions")
    parser.add_argument("--format", choices=("table", "md", "json"), default="table", help="default: table")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from llava_teamlora.evaluation.compare import compare

    found = compare(arguments.base, arguments.others)
    if arguments.format == "json":
        content = [
            asdict(c) | {"lines": [asdict(line) | {"difference": line.difference} for line in c.lines]} for c in found
        ]
        print(json.dumps({"comparisons": content, "notes": notes(found)}, indent=2, ensure_ascii=False))
        return 0
    if arguments.format == "md":
        print("\n".join([*map(as_markdown, found), *(f"- {note}" for note in notes(found))]))
        return 0
    console = Console()
    for comparison in found:
        console.print(as_text(comparison, console.width))
    for note in notes(found):
        console.print(note, style="dim", highlight=False)
    return 0


_HEADS = ("", "base", "other", "difference ± 95 %", "won", "lost", "same", "p")


def notes(found: list[Comparison]) -> list[str]:
    """What a reader must know to take the figures for what they are."""
    noted = ["±: 95 % interval, paired, clustered, normal; p: McNemar's exact test of won against lost, two-sided"]
    if any(line.interval is None for comparison in found for line in comparison.lines):
        noted.append("no ±: too few clusters, leaving some out empties a group, or a server gave the score")
    noted += [
        f"{comparison.benchmark}: the runs were not measured alike, and part of a difference may come from that"
        for comparison in found
        if not comparison.alike
    ]
    if len(found) > 1:
        noted.append(
            f"{len(found)} comparisons are made, each at its own 5 %: the more there are, the likelier a difference by "
            f"chance; p < {0.05 / len(found):.2g} holds for all at once (Bonferroni)"
        )
    return noted


def title(comparison: Comparison) -> str:
    """Of the table."""
    return (
        f"{comparison.benchmark}: {comparison.metric}, {comparison.questions} questions\n"
        f"base: {comparison.base}\nother: {comparison.other}"
    )


def _cells(line: Line) -> list[str]:
    difference = f"{line.difference:+.2f}"
    if line.interval is not None:
        difference += f" ± {(line.interval[1] - line.interval[0]) / 2:.2f}"
    counts = ["-" if count is None else str(count) for count in (line.wins, line.losses, line.ties)]
    p = "-" if line.mcnemar_p is None else "< 0.0001" if line.mcnemar_p < 0.0001 else f"{line.mcnemar_p:.4f}"
    return [line.name, f"{line.base:.2f}", f"{line.other:.2f}", difference, *counts, p]


def as_text(comparison: Comparison, width: int) -> Text:
    """For a terminal; an interval without 0 stands out. In a narrow one each name stands above its figures."""
    from rich.cells import cell_len
    from rich.text import Text

    rows = [list(_HEADS), *map(_cells, comparison.lines)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    figures = ["  ".join(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)) for row in rows]
    fits = widths[0] + 2 + len(figures[0]) <= width
    lines = [Text(title(comparison), "italic"), Text(" " * (widths[0] + 2 if fits else 2) + figures[0], "dim")]
    for line, row, figure in zip(comparison.lines, rows[1:], figures[1:], strict=True):
        clear = line.interval is not None and not line.interval[0] <= 0 <= line.interval[1]
        name = row[0] + " " * (widths[0] - cell_len(row[0]) + 2) if fits else f"{row[0]}\n  "
        lines.append(Text(name + figure, "bold" if clear else ""))
    return Text("\n").join(lines).append("\n")


def as_markdown(comparison: Comparison) -> str:
    """For a page."""
    lines = [
        title(comparison).replace("\n", "  \n") + "\n",
        "| " + " | ".join(_HEADS) + " |",
        "|---" + "|---:" * 7 + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(line)) + " |" for line in comparison.lines]
    return "\n".join(lines) + "\n"
