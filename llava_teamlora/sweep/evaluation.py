"""``evaluate:`` of a grid: flags of ``llava-teamlora evaluate run``, checked by its own parser, and what has been done.

Imports no torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.evaluation.benchmarks import get_benchmark, spelled_out
from llava_teamlora.evaluation.prediction.conclusion import EXPORT
from llava_teamlora.evaluation.prediction.journal import PREDICTIONS
from llava_teamlora.evaluation.score_files import SCORES, ScoreFile, read_scores

EVALUATION = "evaluation"
_OURS = ("model", "out", "endpoint", "endpoint_model", "concurrency", "api_key_file", "overwrite", "run", "scored")


@dataclass(frozen=True)
class Evaluation:
    """What every cell is evaluated on.

    Attributes:
        benchmarks: their names.
        flags: further words of ``evaluate run``.
        settings: the same, by name, as GRID.yaml has them.
        data_root: folder of the benchmarks; None is their usual one.
        limit: questions of each; None is all.
    """

    benchmarks: tuple[str, ...]
    flags: tuple[str, ...]
    settings: Mapping[str, Any]
    data_root: Path | None
    limit: int | None

    def words(self, model: str, out: Path, benchmarks: list[str], version: str | None = None) -> list[str]:
        """What follows ``llava-teamlora``: one folder a benchmark in ``out``."""
        # Of a single benchmark, --out is its own folder.
        folder = out if len(benchmarks) > 1 else out / benchmarks[0]
        told = ("--version", version) if version is not None and "version" not in self.settings else ()
        return ["evaluate", "run", *benchmarks, "--model", model, "--out", str(folder), *told, *self.flags]

    def refuse_missing_files(self) -> None:
        """See that the benchmarks' files are there, before a day of training.

        Raises:
            UserError: with those that are not.
        """
        lines = []
        for name in self.benchmarks:
            absent = [need for need in get_benchmark(name).needs(self.data_root) if not need.path.exists()]
            lines += [f"  {name}: {need.path} ({need.what}; from {need.source})" for need in absent]
        if lines:
            root = f" --data_root {self.data_root}" if self.data_root else ""
            raise UserError(
                "files of the benchmarks are missing, so nothing is trained\n" + "\n".join(lines) + "\n"
                f"llava-teamlora evaluate check {' '.join(self.benchmarks)}{root} says more"
            )

    def missing(self, out: Path) -> list[str]:
        """The benchmarks that have not been evaluated in that folder."""
        return [name for name in self.benchmarks if not self._is_done(name, out / name)]

    def _is_done(self, name: str, folder: Path) -> bool:
        benchmark = get_benchmark(name)
        if not benchmark.server and not benchmark.judged:
            return (folder / SCORES).is_file()
        if self.limit is not None:  # answered, and nothing is exported of a part
            return (folder / PREDICTIONS).is_file()
        return (folder / EXPORT).is_dir()

    def scores(self, out: Path) -> dict[str, ScoreFile]:
        """The scores in that folder, of those benchmarks that can be scored here.

        Raises:
            UserError: a file is malformed.
        """
        paths = {name: out / name / SCORES for name in self.benchmarks}
        return {name: read_scores([f"{name}={path}"])[0] for name, path in paths.items() if path.is_file()}


def read_evaluation(said: Mapping[str, Any], where: str) -> Evaluation:
    """Check ``evaluate:`` of a grid.

    Raises:
        UserError: an unknown benchmark or flag, or a value that is refused.
    """
    names = said.get("benchmarks")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: benchmarks is not given; name some, as benchmarks: [mme, pope] (evaluate list)")
    benchmarks = _benchmarks(names, where)
    settings = {key.replace("-", "_"): value for key, value in said.items() if key != "benchmarks"}
    parser = _parser(where)
    known = vars(parser.parse_args(["run", *benchmarks])).keys() - {"benchmarks", *_OURS}
    flags: list[str] = []
    for key, value in settings.items():
        if key not in known:
            there = ", ".join(["benchmarks", "untuned", *sorted(known)])
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}; there are {there}")
        if value is not None and value is not False:
            flags += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    parsed = parser.parse_args(["run", *benchmarks, *flags])
    return Evaluation(benchmarks, tuple(flags), settings, parsed.data_root, parsed.limit)


def _benchmarks(names: list[str], where: str) -> tuple[str, ...]:
    if "all" in names:
        raise UserError(f"{where}, benchmarks: all is whatever is there at the time; a sweep needs their names")
    found = spelled_out(names)
    for name in found:
        try:
            get_benchmark(name)
        except UserError as error:
            raise UserError(f"{where}, benchmarks: {error}") from error
    return tuple(found)


def _parser(where: str) -> argparse.ArgumentParser:
    from llava_teamlora.evaluation.commands import predict

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{where}: {message} (llava-teamlora evaluate run --help)")

    parser = Parser(add_help=False)
    predict.add(parser.add_subparsers())
    return parser
