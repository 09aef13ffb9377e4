"""``cme build``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError

_BUILD = """\
Put the training mix together: records {instruction, input, output, task} from the public sets that lie under
--data_root, each in a folder of its name, as they are published. What is missing is listed at once, with where to get
it. Rows are streamed: memory does not grow with their texts. Kill it at any time and run it again: it goes on where it
was and ends in the same bytes.

Which rows are chosen, and in which words a task's instruction is put, follows from --seed and the rows themselves,
not from their order. A smaller --cap or --scale takes a part of what a larger one takes.

Beside the mix: .manifest.json (what it is made of: files, licences, counts, what was compared), .leaks.jsonl (every row
that evaluation items share: where, why, with which), .bad_rows.jsonl.
"""
_EXAMPLES = """\
examples:
  llava-teamlora cme build --out mix.jsonl                                  all 22 sets, about 2.5 million records
  llava-teamlora cme build --out mix-10.jsonl --scale 10                    a tenth of it (Figure 3b)
  llava-teamlora cme build --out tasks.jsonl --only tldr imdb anli qqp rte winogrande arc webqa nq triviaqa mmlu
  llava-teamlora cme build --out mix.jsonl --skip_missing --on_bad_row skip --cap openorca=100000 --cap belle=50000
  llava-teamlora cme build --out mix.jsonl --leak_reasons item 13-gram      premises that two questions share may stay

leaks, the first reason that holds: item (a row's texts, or one of them, are an evaluation item), text (one text of 13
words or more is one of an item's), 13-gram (13 words in a row are; of Chinese, characters). See docs/cme_mix.md.
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "build",
        help="Make the training mix out of public sets",
        description=_BUILD,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_files(parser)
    _add_choice(parser)
    _add_leaks(parser)
    parser.set_defaults(run=_build)


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the mix: .jsonl, or .json for one list")
    add("--data_root", type=Path, metavar="DIR", help="folder of the sets (default: playground/data/cme)")
    add("--eval_root", type=Path, metavar="DIR", help="folder of the evaluation files (default: playground/data/eval)")
    add("--skip_missing", action="store_true", help="build without sets and files that are not there")
    add("--skip_missing_eval", action="store_true", help="compare with those evaluation files only that are there")
    add("--overwrite", action="store_true", help="replace a mix, or a broken-off build, that was made otherwise")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("choice").add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help="sets of the mix (default: all; see cme sources)")
    add("--cap", action="append", default=[], metavar="NAME=N", help="the most records of a set; may be repeated")
    add("--scale", type=int, default=100, metavar="PERCENT", help="share of every set, 1 to 100 (default: 100)")
    add("--seed", type=int, default=0, help="of the choice of rows and instructions (default: 0)")
    add(
        "--paraphrases",
        choices=("all", "one"),
        default="all",
        help="draw a task's instruction from all its paraphrases, or use the one that evaluation asks with",
    )
    add(
        "--dedup",
        choices=("record", "question", "off"),
        default="record",
        help="a duplicate has the same texts and answer (record, the default), or the same texts; instructions of a "
        "task do not count",
    )
    add(
        "--on_bad_row",
        choices=("refuse", "skip"),
        default="refuse",
        help="a row that makes no record (an empty answer, a field is missing) ends the build, or is left out and "
        "listed; WebQA's questions without any answer are left out and listed in any case",
    )


def _add_leaks(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("leaks").add_argument
    add(
        "--leaks",
        choices=("drop", "keep", "refuse"),
        default="drop",
        help="what becomes of rows that share text with evaluation items; they are listed in any case (default: drop)",
    )
    add(
        "--leak_reasons",
        nargs="+",
        choices=("item", "text", "13-gram"),
        default=["item", "text", "13-gram"],
        help="what makes a leak; rows of other reasons stay, listed (default: all three)",
    )


def _build(arguments: argparse.Namespace) -> int:
    from llava_teamlora.cme.build import build
    from llava_teamlora.cme.plan import Options, make_plan
    from llava_teamlora.cme.sources import SOURCES, TASKS, get_source
    from llava_teamlora.cme.sources.source import DATA_ROOT
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.cme.task import TextTask
    from llava_teamlora.evaluation.reading import EVAL_ROOT

    names = [get_source(name).name for name in arguments.only]
    sources = [source for name, source in SOURCES.items() if not names or name in names]
    if not 1 <= arguments.scale <= 100:
        raise UserError(f"--scale {arguments.scale}: must be 1 to 100, in percent")
    tasks = [task for task in (get_benchmark(source.name) for source in TASKS) if isinstance(task, TextTask)]
    options = Options(
        out=arguments.out,
        data_root=arguments.data_root or DATA_ROOT,
        eval_root=arguments.eval_root or EVAL_ROOT,
        leak_reasons=tuple(sorted(set(arguments.leak_reasons))),
        **{
            name: getattr(arguments, name)
            for name in ("scale", "seed", "paraphrases", "dedup", "leaks", "on_bad_row")
            + ("skip_missing", "skip_missing_eval", "overwrite")
        },
    )
    manifest, made = build(make_plan(options, sources, parse_caps(arguments.cap, list(names or SOURCES)), tasks))
    print("\n".join(lines(manifest, str(arguments.out), made=made)))
    return 0


def parse_caps(texts: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """``NAME=N`` -> caps by set.

    Raises:
        UserError: of another form, for a set that is not in the mix, or a second one for a set.
    """
    from llava_teamlora.errors import nearest

    caps = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"--cap {text}: write NAME=N, with N of 1 or more (--only leaves sets out)")
        if name not in names:
            raise UserError(f"--cap {text}: {name!r} is no set of this mix{nearest(name, names)}")
        if name in caps:
            raise UserError(f"--cap {text}: {name} has a cap of {caps[name]} already; give each set one")
        caps[name] = int(count)
    return caps


def lines(manifest: dict[str, Any], out: str, *, made: bool) -> list[str]:
    """What a build says at its end."""
    head = ("set", "read", "bad", "duplicate", "over cap", "beyond scale", "leaks", "kept")
    columns = ("rows", "bad_rows", "duplicates", "over_cap", "beyond_scale", "leaks_dropped", "kept")
    table: list[tuple[str, ...]] = [head]
    for name, counts in [*manifest["sets"].items(), ("in all", manifest["total"])]:
        both = {**counts, "duplicates": counts["duplicates"] + counts["duplicates_of_others"]}
        table.append((name, *(f"{both[column]:,}" for column in columns)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    said = [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in table
    ]
    leaks = manifest["leaks"]
    found = ", ".join(f"{count:,} by {reason}" for reason, count in leaks["found"].items()) or "none"
    said += ["", f"leaks found: {found}; compared with {leaks['evaluation_items']:,} evaluation items"]
    said += [f"not compared with {what}" for what in leaks["not_compared_with"]]
    said += [f"without {what} ({name})" for name, one in manifest["sets"].items() for what in one["missing"]]
    state = "written" if made else "same as there"
    return [*said, f"{state}: {out} ({manifest['records']:,} records, sha256 {manifest['sha256'][:12]})"]
