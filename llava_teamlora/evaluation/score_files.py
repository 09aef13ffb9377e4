"""``scores.json`` files as they are named on the command line: ``[LABEL=]FILE`` or ``[LABEL=]FOLDER``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object, stream_json_lines

SCORES = "scores.json"
_PARTS = ("name", "version", "metric", "total", "groups", "extra", "baselines")


@dataclass(frozen=True)
class ScoreFile:
    """One benchmark's scores of one set of answers.

    Attributes:
        path: of the file.
        label: whose answers they are.
        content: as ``scoring.score`` wrote it, checked.
    """

    path: Path
    label: str
    content: dict[str, Any]

    @property
    def benchmark(self) -> str:
        """Its name on the command line."""
        return self.content.get("benchmark") or self.content["name"].partition(" [")[0]

    @property
    def remarks(self) -> list[str]:
        """What the scores' name says beside the benchmark's: ``partial: 3 of 8``, ``likelihood``."""
        return [part.removesuffix("]") for part in self.content["name"].split(" [")[1:]]

    @property
    def data_sha256(self) -> str | None:
        """Digest of the questions; None where the file does not say."""
        manifest = self.content.get("manifest") or {}
        part = manifest.get("benchmark") if isinstance(manifest, dict) else None
        return self.content.get("data_sha256") or (part.get("data_sha256") if isinstance(part, dict) else None)

    @property
    def judged(self) -> bool:
        """Whether a judge graded the answers; the metric then names it."""
        return self.content.get("grades") is not None

    @property
    def server(self) -> str | None:
        """Where a test server's score was obtained; None for one that was computed here."""
        return self.content.get("server_score")

    @property
    def untied(self) -> str | None:
        """Why nobody knows that a judge's grades are of these answers; None where that is known, or none were given."""
        grades = self.content.get("grades")
        return grades.get("note") if isinstance(grades, dict) else None

    def __str__(self) -> str:
        return f"{self.content['name']} (version {self.content['version']})"


def read_scores(arguments: Sequence[str]) -> list[ScoreFile]:
    """Read files and folders given as ``PATH`` or ``LABEL=PATH``.

    A folder is one that holds ``scores.json``, one with a folder a benchmark, or a run, whose ``evaluation`` is such.

    Raises:
        UserError: there are none, or one is missing or malformed.
    """
    found = []
    for argument in arguments:
        label, separator, rest = argument.partition("=")
        if not separator or Path(argument).exists():
            label, rest = "", argument
        found += [_read(path, label, rest) for path in _files(Path(rest))]
    return found


def told_apart(files: Sequence[ScoreFile]) -> list[ScoreFile]:
    """The same files; those that go by one label, as one model's answers in two ways, get their folder or name too."""
    times = Counter(file.label for file in files)
    folders = Counter((file.label, file.path.parent) for file in files)

    def label(file: ScoreFile) -> str:
        if times[file.label] == 1:
            return file.label
        return f"{file.label}, {file.path.parent if folders[file.label, file.path.parent] == 1 else file.path}"

    return [replace(file, label=label(file)) for file in files]


def refuse_other_edition(file: ScoreFile, first: ScoreFile) -> None:
    """Raise UserError if two files of a benchmark are known to be about other questions."""
    if file.data_sha256 and first.data_sha256 and file.data_sha256 != first.data_sha256:
        raise UserError(
            f"{file.path}: its {file.benchmark} holds other questions than that of {first.path} (data_sha256 "
            f"{file.data_sha256[:12]}… and {first.data_sha256[:12]}…); score both on one edition of the data"
        )


def refuse_name_of_lines(out: Path) -> None:
    """Raise UserError if scores were to be named as answers and rows are, by which :func:`read_scores` refuses them."""
    if out.suffix == ".jsonl":
        raise UserError(f"--out {out}: scores are one JSON object, not JSON lines; name them {out.stem}.json")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [
        file for pattern in (SCORES, f"*/{SCORES}", f"evaluation/*/{SCORES}") for file in sorted(path.glob(pattern))
    ]
    if found:
        return found
    others = sorted(file.name for file in path.glob(f"*.{SCORES}"))
    remedy = f"name a file: {', '.join(others)}" if others else "make them with evaluate run"
    raise UserError(f"{path}: holds no {SCORES}, neither itself nor a folder a benchmark; {remedy}")


def _read(path: Path, label: str, argument: str) -> ScoreFile:
    if path.suffix == ".jsonl":
        raise _json_lines_instead(path)
    content = read_json_object(path)
    if "protocol" in content:
        raise UserError(
            f"{path}: is of the protocol {content['protocol']!r}, whose figures share no table with those of evaluate "
            "run; it stands by itself (evaluate lm_eval printed it)"
        )
    absent = [name for name in _PARTS if name not in content]
    if absent:
        raise UserError(f"{path}: holds no scores ({', '.join(absent)} missing); make it with evaluate score")
    malformed = _malformed(content)
    if malformed:
        raise UserError(f"{path}: holds malformed scores ({', '.join(malformed)}); make it anew with evaluate score")
    return ScoreFile(path, label or model_label(content) or argument, content)


def _json_lines_instead(path: Path) -> UserError:
    """What to do with a row log, or answers, that were given for scores."""
    _, row = next(stream_json_lines(path), ("", {}))
    if "targets" in row:
        return UserError(f"{path}: holds rows, one a question; give the scores beside it")
    if "text" in row:
        return UserError(f"{path}: looks like answers; score them first: evaluate score BENCH --answers {path}")
    return UserError(f"{path}: is no {SCORES}; make one with evaluate score")


def _malformed(scores: dict[str, Any]) -> list[str]:
    """Names of the parts that are not what ``scoring.score`` writes, beyond being there."""
    found = [name for name in ("name", "metric") if not isinstance(scores[name], str)]
    if not isinstance(scores["version"], int):
        found.append("version")
    optional = ("benchmark", "data_sha256", "server_score")
    found += [name for name in optional if not isinstance(scores.get(name), (str, type(None)))]
    found += _malformed_cells(scores, "")
    baselines = scores["baselines"]
    if not isinstance(baselines, dict):
        return [*found, "baselines"]
    for name, baseline in baselines.items():
        found += _malformed_cells(baseline, f"baselines.{name}.")
    return found


def _malformed_cells(part: Any, prefix: str) -> list[str]:
    """The same of ``total``, ``groups`` and ``extra``, of a model or a baseline."""
    if not isinstance(part, dict):
        return [prefix.removesuffix(".")]
    # A test server does not say how many rows it scored.
    counted = (int, type(None)) if isinstance(part.get("server_score"), str) else int
    found = [] if _is_cell(part.get("total"), counted) else [f"{prefix}total"]
    for name in ("groups", "extra"):
        cells = part.get(name)
        if not isinstance(cells, dict):
            found.append(prefix + name)
        else:
            found += [f"{prefix}{name}.{key}" for key, cell in cells.items() if not _is_cell(cell)]
    return found


def _is_cell(cell: Any, counted: Any = int) -> bool:
    """Whether it is a ``types.Score`` as JSON; ``maximum`` is younger than the other fields."""
    if not isinstance(cell, dict) or not {"value", "stderr", "n"} <= cell.keys():
        return False
    number = (int, float)
    kinds = {"value": number, "stderr": (*number, type(None)), "n": counted, "maximum": number}
    return all(isinstance({"maximum": 100.0, **cell}[name], kind) for name, kind in kinds.items())


def model_label(scores: dict[str, Any]) -> str | None:
    """``runs/x (teamlora)`` or ``playground/tiny (untuned)``; None where no manifest of ours says whose they are."""
    manifest = scores.get("manifest")
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict) or not {"model", "kind", "method"} <= model.keys():
        return None
    return f"{model['model']} ({'untuned' if model['kind'] == 'base' else model['method']})"
