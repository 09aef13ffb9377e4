"""``cme sources``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.cme.sources import MixSource

_SOURCES = """\
Name the sets of the training mix: how many records there are and are taken, the licence, why the set is in the mix
(the paper's list of 22 was never published), its files and what of them is there. Nothing is downloaded.
"""
_EXAMPLES = """\
examples:
  llava-teamlora cme sources
  llava-teamlora cme sources webqa belle --data_root /data/cme
  llava-teamlora cme sources --json
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "sources",
        help="Name the 22 sets of the mix, their licences and files, and what is there",
        description=_SOURCES,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="sets (default: all)")
    add("--data_root", type=Path, metavar="DIR", help="folder of the sets (default: playground/data/cme)")
    add("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_sources)


def _sources(arguments: argparse.Namespace) -> int:
    import json

    from llava_teamlora.cme.sources import SOURCES, get_source
    from llava_teamlora.cme.sources.source import DATA_ROOT

    root = arguments.data_root or DATA_ROOT
    sources = [get_source(name) for name in arguments.names or SOURCES]
    if arguments.json:
        print(json.dumps({source.name: plain(source, root) for source in sources}, indent=2, ensure_ascii=False))
        return 0
    for source in sources:
        print("\n".join(lines(source, root)))
    there = sum(not source.find(root)[1] for source in sources)
    print(f"{there} of {len(sources)} there; {sum(source.cap for source in sources):,} records taken of all by default")
    return 0


def plain(source: MixSource, root: Path) -> dict[str, Any]:
    """As JSON."""
    found, missing = source.find(root)
    return {
        "rows": source.rows,
        "cap": source.cap,
        "licence": source.licence,
        "basis": source.basis,
        "there": [str(path) for path, _ in found],
        "missing": [
            {"paths": [str(root / source.name / path) for path in file.paths], "what": file.what, "source": file.origin}
            for file in missing
        ],
    }


def lines(source: MixSource, root: Path) -> list[str]:
    """Name, facts, and a line for each file that is missing."""
    found, missing = source.find(root)
    state = "missing" if not found else "in part" if missing else "there"
    said = [
        f"{state:<7}  {source.name:<12}  up to {source.cap:>7,} of the set's {source.rows:,} records; {source.licence}",
        f"         {source.basis}",
    ]
    folder = root / source.name
    said += [f"         missing: {folder / file.paths[0]} ({file.what}); from {file.origin}" for file in missing]
    return said
