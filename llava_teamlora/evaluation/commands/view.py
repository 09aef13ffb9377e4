"""``evaluate view``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_VIEW = """\
Write a page with every sample of a benchmark: picture, prompt, answer, how it was parsed, accepted answers, verdict.
Filter, search, sort, step with j and k, link to one sample; give two scores to see two models side by side, and what
one won or lost against the other. The page is a folder of plain files that opens from the disk, without a server.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate view runs/a/evaluation/pope --out pope-page
  llava-teamlora evaluate view LoRA=lora/scores.json TeamLoRA=team/scores.json --out page
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "view",
        help="A page of all samples with pictures and verdicts",
        description=_VIEW,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("scores", metavar="[LABEL=]SCORES", help="scores.json of a benchmark, its rows beside it")
    add("other", nargs="?", metavar="[LABEL=]OTHER", help="a second model's, of the same benchmark")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the page")
    add("--data_root", type=Path, metavar="DIR", help="the benchmark's files, if not where they were scored")
    add("--limit", type=int, metavar="N", help="only the first N samples")
    parser.set_defaults(run=_view)


def _view(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.viewer.site import build_site

    scores = [name for name in (arguments.scores, arguments.other) if name is not None]
    site = build_site(scores, arguments.out, data_root=arguments.data_root, limit=arguments.limit)
    missing = f", {site.missing} pictures missing" if site.missing else ""
    print(f"{site.samples} samples, {site.pictures} pictures{missing}\npage: {site.index}")
    return 0
