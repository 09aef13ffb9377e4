#!/usr/bin/env python
"""Run peft's own tests over this project's tuners.

peft tests all of its methods with the same matrices: custom models, decoder models and configurations. Those tests
come with peft's source distribution. This script fetches the one of the installed version, puts our methods into the
matrices in place of peft's, runs them offline on the CPU, and prints how many tests ended how:

  passed               as it stands in peft's file
  refused as designed  a test that merges, for a method whose update depends on the input: it must end in that refusal
  skipped              by peft's own conditions, or with a reason of ours; all reasons are printed with their counts
  failed               anything else; the exit status is then 1

Models that the tests load from the hub are replaced by random ones of the same architecture. docs/peft_suites.md has
the figures, and says what is left out. All four methods take about six minutes on one core.

examples:
  python scripts/peft_suites.py
  python scripts/peft_suites.py --method teamlora --suite config --suite custom --report report.json
  python scripts/peft_suites.py --sdist peft-0.21.2.tar.gz -k test_save_pretrained    # no network; some tests only
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from peft_harness.cases import METHODS, MethodCases, choose_methods
from peft_harness.report import as_json, count, problems, skip_reasons, table
from peft_harness.rules import SUITES
from peft_harness.sdist import fetch_sdist, unpack_tests

from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically

if TYPE_CHECKING:
    from peft_harness.plugin import Injection

_REPOSITORY = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status: 0 if all is well, 1 for failed tests, 2 for mistakes."""
    arguments = _parser().parse_args(argv)
    try:
        methods = choose_methods(arguments.method)
        suites = [suite for suite in SUITES if suite in (arguments.suite or SUITES)]
        work = _work_folder(arguments.work)
        installed = version("peft")
        archive = arguments.sdist or fetch_sdist(installed, work)
        root = unpack_tests(archive, installed, work)
        plugin = _run(methods, suites, root, work, arguments.k)
        return _tell(plugin, methods, suites, arguments.report, whole=arguments.k is None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--method", action="append", default=[], metavar="NAME", help=f"{', '.join(METHODS)}; repeat it (default: all)"
    )
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="repeat it for several (default: all)")
    parser.add_argument(
        "--sdist",
        type=Path,
        metavar="FILE",
        help="peft's source distribution (default: fetched by pip into --work)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-teamlora" / "peft_suites",
        metavar="DIR",
        help="for peft's tests and the stand-in models, outside of this repository (default: %(default)s)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write all counts, reasons and versions there")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests of these names, as pytest's -k")
    return parser


def _work_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if folder.is_relative_to(_REPOSITORY):
        raise UserError(f"--work {folder}: lies in this repository, where peft's files do not belong: choose another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(methods: Sequence[MethodCases], suites: Sequence[str], root: Path, work: Path, only: str | None) -> Injection:
    """Run the suites and return the plugin that saw them."""
    # Before anything imports the hub's client or torch, which read these at import.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(work / "hub"), HF_HUB_CACHE=str(work / "hub"))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the suites' tolerances are for one device; the CPU is everywhere
    import pytest
    from peft_harness.plugin import Injection, load_helpers
    from peft_harness.stand_ins import ADAPTERS, MODELS, write_stand_ins

    write_stand_ins(work / "hub", [*MODELS, *ADAPTERS])
    load_helpers(root)
    plugin = Injection(methods, work / "hub")
    settings = root / "pytest.ini"
    settings.write_text("[pytest]\n")  # this repository's own settings are not for these tests
    options = ["-q", "--tb=short", "--disable-warnings", "-p", "no:cacheprovider", "-c", str(settings)]
    chosen = ["-k", only] if only else []
    files = [str(root / "tests" / f"{SUITES[suite]}.py") for suite in suites]
    status = pytest.main([*options, "--rootdir", str(root), *chosen, *files], plugins=[plugin])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise UserError(f"pytest ended with {status!s} before the tests were through: see its output above")
    return plugin


def _tell(
    plugin: Injection, methods: Sequence[MethodCases], suites: Sequence[str], report: Path | None, *, whole: bool
) -> int:
    """Print and write what was found; return the exit status."""
    outcomes = list(plugin.outcomes.values())
    rows = count(outcomes, [method.name for method in methods], suites)
    print(f"\npeft {version('peft')}, torch {version('torch')}, transformers {version('transformers')}\n")
    print(table(rows))
    print("\nskipped, and why:")
    for reason, number in skip_reasons(outcomes).most_common():
        print(f"{number:6d}  {reason}")
    for name in plugin.unrepresented:
        print(f"no stand-in, so nothing ran on it: {name}")
    if report is not None:
        content = as_json(rows, outcomes, plugin.left_out, plugin.unrepresented)
        write_atomically(report, json.dumps(content, indent=2) + "\n")
    wrong = problems(rows, whole=whole)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
