"""lm-eval's tasks over local files, answered by a loaded model -> ``lm_eval.json``.

lm-eval's own task files stay what they are, prompts, metrics and versions; only their documents come from elsewhere:
``dataset_path: json`` over files that are written for the time of the run. Nothing is asked of any server.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import line_of, write_json
from llava_teamlora.evaluation.lm_eval.documents import Harnessed, harnessed, task_of, write_documents
from llava_teamlora.files import write_atomically

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded

RESULTS = "lm_eval.json"
ROWS = "lm_eval.rows.jsonl"
PROTOCOL = "lm-eval"
NOTE = (
    "lm-eval's prompts and log-likelihoods; not comparable with scores.json of evaluate run, where the model writes "
    "its answer to CME's prompt"
)
_BOOTSTRAPS = 100
"""Draws for the standard error of a metric that is no mean, as QQP's F1; lm-eval's 100,000 take hours there."""
_ALL_OF_MMLU = 57
_FOLDERS = {
    "anli": "anli", "qqp": "glue", "rte": "glue", "winogrande": "winogrande", "arc": "arc", "nq": "nq_open",
    "triviaqa": "triviaqa", "mmlu": "mmlu/default",
}  # fmt: skip
"""Where lm-eval keeps its task files. To look through all of its 13,000 takes half a minute."""


@dataclass(frozen=True)
class Settings:
    """How it is asked.

    Attributes:
        batch_size: contexts at once.
        num_fewshot: examples before each question; None for each task's own number.
        limit: only the first so many documents of a task; None for all.
    """

    batch_size: int = 16
    num_fewshot: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_fewshot", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value} must be at least {least}")


def chosen(names: Sequence[str], data_root: Path | None) -> list[Harnessed]:
    """lm-eval's tasks by name; of MMLU those whose subjects are there.

    Raises:
        UserError: an unknown name; or MMLU's files lack subjects.
    """
    wanted = harnessed(list(names))
    if not any(one.task == "mmlu" for one in wanted):
        return wanted
    there = {sample.group for sample in task_of("mmlu").load(data_root)}
    asked = {one.name for one in wanted if one.name in names}
    return [one for one in wanted if one.task != "mmlu" or one.group in there or one.name in asked]


def require_lm_eval() -> None:
    """Make sure that lm-eval is there and that it, and what it loads data with, stays off the net.

    Raises:
        UserError: it is not installed.
    """
    # Read when the libraries are first imported. Loading a local file would else be counted on the hub.
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"
    os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
    try:
        import datasets  # pyright: ignore[reportMissingImports]  an extra
        import lm_eval  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"lm-eval is not installed ({error}); pip install 'llava-teamlora[lm-eval]'") from error
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()


def run_lm_eval(
    loaded: Loaded, wanted: Sequence[Harnessed], settings: Settings, out: Path, data_root: Path | None = None
) -> dict[str, Any]:
    """Answer, score, and write ``lm_eval.json`` and, a document a line, ``lm_eval.rows.jsonl``.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        wanted: see :func:`chosen`.
        settings: how it is asked.
        out: folder.
        data_root: folder of the benchmarks; None for the default.

    Returns:
        The content of ``lm_eval.json``.

    Raises:
        UserError: lm-eval is not installed, or files are missing or broken.
    """
    require_lm_eval()
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]

    from llava_teamlora.evaluation.lm_eval.model import HarnessedModel

    started = time.monotonic()
    model = HarnessedModel(loaded, settings.batch_size)
    with _local_tasks(wanted, settings, data_root) as (manager, names, digests):
        found: Any = simple_evaluate(
            model=model,
            tasks=names,
            task_manager=manager,
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            bootstrap_iters=_BOOTSTRAPS,
            log_samples=True,
        )
    content = {
        "protocol": PROTOCOL,
        "note": NOTE,
        "lm_eval": version("lm-eval"),
        "model": loaded.name,
        "manifest": loaded.manifest,
        "settings": {**vars(settings), "bootstraps": _BOOTSTRAPS},
        "contexts_cut": model.cut,
        "seconds": round(time.monotonic() - started, 1),
        "groups": {name: {"metrics": _metrics(each)} for name, each in found.get("groups", {}).items()},
        "tasks": {one.name: _task(one, found, digests) for one in wanted},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / ROWS, map(line_of, _rows(found["samples"])))
    write_json(out / RESULTS, content)
    return content


@contextmanager
def _local_tasks(
    wanted: Sequence[Harnessed], settings: Settings, data_root: Path | None
) -> Iterator[tuple[Any, list[str], Mapping[str, str]]]:
    """A task manager that knows the tasks over local files, the names to ask it for, and digests of the documents."""
    import lm_eval.tasks  # pyright: ignore[reportMissingImports]

    home = Path(lm_eval.tasks.__file__).parent
    folders = [str(home / place) for place in dict.fromkeys(_FOLDERS[one.task] for one in wanted)]

    def manager(*more: str) -> Any:
        return lm_eval.tasks.TaskManager(include_path=[*folders, *more], include_defaults=False)

    original = manager().task_index
    if absent := [one.name for one in wanted if one.name not in original]:
        raise UserError(f"lm-eval {version('lm-eval')}: has no task {absent[0]}; this was made for 0.4.13")
    with TemporaryDirectory(prefix="lm-eval-") as name:
        folder = Path(name)
        write_documents(wanted, data_root, "test", folder)
        if settings.num_fewshot:
            write_documents(wanted, data_root, "shots", folder)
        for one in wanted:
            task = _task_file(one, original[one.name].yaml_path, folder, bool(settings.num_fewshot))
            # JSON is YAML.
            (folder / f"{one.name}.yaml").write_text(json.dumps(task), encoding="utf-8")
        digests = {one.name: sha256((folder / f"{one.name}.test.jsonl").read_bytes()).hexdigest() for one in wanted}
        subjects = [one.name for one in wanted if one.task == "mmlu"]
        # lm-eval's group of all 57 gives the mean over questions and over its four categories.
        whole = ["mmlu"] if len(subjects) == _ALL_OF_MMLU else subjects
        names = [*(one.name for one in wanted if one.task != "mmlu"), *whole]
        yield manager(name), names, digests


def _task_file(one: Harnessed, original: Path, folder: Path, shots: bool) -> dict[str, Any]:
    files = {"test": str(folder / f"{one.name}.test.jsonl")}
    if shots:
        files["shots"] = str(folder / f"{one.name}.shots.jsonl")
    return {
        "include": str(original),
        "task": one.name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "shots" if shots else None,
    }


def _task(one: Harnessed, found: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "benchmark": one.task,
        "version": found["versions"].get(one.name),
        "num_fewshot": found["n-shot"].get(one.name),
        "n": found["n-samples"][one.name]["effective"],
        "of": found["n-samples"][one.name]["original"],
        "metrics": _metrics(found["results"][one.name]),
        "data_sha256": digests[one.name],
    }


def _metrics(result: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """``acc,none`` and ``acc_stderr,none`` -> ``{"acc": {"value", "stderr"}}``, shares of 1."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in result.items():
        name, comma, filtered = key.partition(",")
        if comma and not name.endswith("_stderr"):
            found[name] = {"value": float(value), "stderr": _known(result.get(f"{name}_stderr,{filtered}"))}
    return found


def _known(stderr: Any) -> float | None:
    """lm-eval says "N/A", or nan, where one document has no standard error."""
    return float(stderr) if isinstance(stderr, int | float) and not math.isnan(stderr) else None


def _rows(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for task, rows in samples.items():
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            measured = {name: row[name] for name in row.get("metrics", ()) if isinstance(row.get(name), int | float)}
            yield {
                "task": task,
                "doc_id": row["doc_id"],
                "prompt": _first(row["arguments"]),
                "target": row["target"],
                "answers": row["filtered_resps"],
                **measured,
            }


def _first(arguments: Any) -> str:
    """The context of a document's first request."""
    while isinstance(arguments, list | tuple | dict):
        arguments = next(iter(arguments.values() if isinstance(arguments, dict) else arguments))
    return str(arguments)
