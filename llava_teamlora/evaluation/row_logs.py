"""``scores.rows.jsonl`` read back: samples and verdicts as far as a comparison needs them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import stream_json_lines, take
from llava_teamlora.evaluation.score_files import ScoreFile
from llava_teamlora.evaluation.scoring import rows_path
from llava_teamlora.evaluation.types import Sample, Verdict


@dataclass(frozen=True)
class Run:
    """Scores and rows of one run.

    Attributes:
        file: its scores.
        samples: what was asked, as far as the log knows: a picture is only a name.
        verdicts: on the answers, in the same order.
    """

    file: ScoreFile
    samples: list[Sample]
    verdicts: list[Verdict]


def read_run(file: ScoreFile) -> Run:
    """The run of a file of scores.

    Raises:
        UserError: there are no rows beside it, or not those of these scores.
    """
    samples, verdicts = [], []
    for where, row in _rows_of(file):
        samples.append(_sample(row, where))
        verdicts.append(_verdict(row, where))
    _check_complete(file, len(verdicts))
    return Run(file, samples, verdicts)


def read_run_like(base: Run, file: ScoreFile) -> Run:
    """Another run, in the base's order and with its samples.

    Raises:
        UserError: the runs are not of the same questions, or not scored alike.
    """
    for field in ("benchmark", "version", "metric", "data_sha256"):
        ours, theirs = base.file.content.get(field), file.content.get(field)
        if ours != theirs:
            raise UserError(
                f"{file.path}: has {field} {theirs!r}, but {base.file.path} {ours!r}; score both anew, alike"
            )
    verdicts = {take(row, "key", str, where): _verdict(row, where) for where, row in _rows_of(file)}
    _check_complete(file, len(verdicts))
    keys = {sample.key for sample in base.samples}
    for lacks, keys_lacking in ((file, keys - verdicts.keys()), (base.file, verdicts.keys() - keys)):
        if keys_lacking:
            first = ", ".join(sorted(keys_lacking)[:3]) + (", …" if len(keys_lacking) > 3 else "")
            raise UserError(
                f"{lacks.path}: lacks {len(keys_lacking)} questions that the other run has ({first}; {len(keys)} in "
                f"the base, {len(verdicts)} in the other); answer them, or score both with the same --limit"
            )
    return Run(file, base.samples, [verdicts[sample.key] for sample in base.samples])


def _rows_of(file: ScoreFile) -> Iterator[tuple[str, dict[str, Any]]]:
    path = rows_path(file.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; rows are compared, which evaluate score writes beside scores.json")
    return stream_json_lines(path)


def _check_complete(file: ScoreFile, rows: int) -> None:
    answered = file.content.get("answered")
    if rows != answered:
        raise UserError(f"{rows_path(file.path)}: has {rows} rows, but {file.path} is of {answered}; score anew")


def _verdict(row: dict[str, Any], where: str) -> Verdict:
    extra = {name: float(value) for name, value in take(row, "extra", dict, where).items()}
    return Verdict(take(row, "parsed", str, where), float(take(row, "score", (int, float), where)), extra)


def _sample(row: dict[str, Any], where: str) -> Sample:
    """As its benchmark's ``aggregate`` needs it. A picture is only a name here: nobody opens it."""
    key, image = take(row, "key", str, where), take(row, "image", (str, type(None)), where)
    return Sample(
        key=key,
        question_id=take(row, "question_id", (int, str), where),
        prompt=take(row, "prompt", str, where),
        targets=tuple(take(row, "targets", list, where)),
        image=Path(image) if image else None,
        group=take(row, "group", str, where),
        cluster=take(row, "cluster", str, where) or key,
        choices=tuple(take(row, "choices", list, where)),
        metadata=take(row, "metadata", dict, where),
    )
