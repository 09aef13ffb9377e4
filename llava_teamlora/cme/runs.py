"""Run folders, or a sweep's folder -> what CME's tables are made of. Imports no torch.

In: ``[LABEL=]PATH``: a run folder; a folder of these, with ``sweep.json`` or without; or an untuned base's scores.
Out: :class:`Run`, one a training run and one an untuned base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_teamlora.cme.manifest import manifest_path, read_manifest
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.overview import is_partial, refuse_mixtures
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.reading import read_json_object, read_json_rows, take
from llava_teamlora.evaluation.score_files import SCORES, ScoreFile, read_scores
from llava_teamlora.run_card import RUN_FILE, RunCard, read_run_card

SWEEP_FILE, SWEEP_KEY, SWEEP_FORMAT = "sweep.json", "llava_teamlora_sweep", 1
"""What ``llava-teamlora sweep`` writes into its folder, and the entry that tells it from others' files of that name."""
UNTUNED = "untuned"
_EVALUATION = "evaluation"
_ADAPTER_CONFIG = "adapter_config.json"
_FIGURES = ("trainable_parameters", "train_seconds")
_OF_SEED = ("seed", "data_seed")
_OF_ADAPTER = ("num_experts", "train_interaction", "target_r")
_BESIDE = frozenset(
    "output_dir logging_dir run_name report_to data_path image_folder model_name_or_path validation_data_path "
    "logging_steps logging_first_step save_steps save_strategy save_total_limit eval_steps eval_strategy "
    "per_device_eval_batch_size per_device_train_batch_size gradient_accumulation_steps dataloader_num_workers "
    "dataloader_persistent_workers overwrite_output_dir routing_telemetry_steps check_data vision_cache "
    "disable_tqdm".split()
)
"""Arguments that a result does not depend on, or whose content is compared instead of their name."""


@dataclass(frozen=True)
class Run:
    """One training run, or an untuned base, with its scores.

    Attributes:
        path: its folder.
        label: as the user calls it; empty where they do not.
        card: its ``run.yaml``; None of an untuned base.
        adapter: its ``adapter_config.json``; empty where there is no adapter.
        files: scores by task.
        base: name of its base.
        base_fingerprint: the base's content; empty where nobody wrote it down.
    """

    path: Path
    label: str
    card: RunCard | None
    files: Mapping[str, ScoreFile]
    base: str
    base_fingerprint: str
    adapter: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> Mapping[str, Any]:
        """Figures of its training; empty of an untuned base."""
        return self.card.results if self.card else {}

    @property
    def seed(self) -> Any:
        """Of its training."""
        return self.card.arguments.get("seed", 42) if self.card else None  # 42 is transformers' own, and ours

    @property
    def rank(self) -> int | None:
        """r_B of TeamLoRA, r of others (AdaLoRA: at the start); None where there is none."""
        method = self.card.method if self.card else UNTUNED
        if method in ("prompt_tuning", "ia3"):
            return None
        return self.adapter.get("init_r" if method == "adalora" else "r")

    @property
    def scale(self) -> int | None:
        """Per cent of the mix it was trained on, by the manifest beside it; None where that is not there any more."""
        return self._made_from["scale"] if self._made_from else None

    @property
    def mix(self) -> str | None:
        """Digest of what that mix follows from beside its scale: a tenth of another mix is no tenth of this one."""
        if not self._made_from:
            return None
        states = self._made_from.get("files", {})
        # Wherever they lie, and without the time of their last change.
        files = sorted([Path(name).name, *state[:-1]] for name, state in states.items())
        content = {name: value for name, value in self._made_from.items() if name != "scale"} | {"files": files}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _made_from(self) -> Mapping[str, Any] | None:
        data = self.card.arguments.get("data_path") if self.card else None
        if self.card is None or not data or not manifest_path(Path(data)).is_file():
            return None
        manifest = read_manifest(Path(data))
        return manifest["made_from"] if manifest["sha256"] == self.card.identity.get("data_sha256") else None

    @property
    def missing(self) -> list[str]:
        """Tasks without scores, or with scores of a part of the questions."""
        return [name for name in ELEVEN if name not in self.files or is_partial(self.files[name])]

    def data_root(self) -> str:
        """`` --data_root DIR`` as its scores were made with; empty for the default."""
        root = next((file.content.get("data_root") for file in self.files.values()), None)
        return f" --data_root {root}" if root else ""

    def settings(self) -> dict[str, Any]:
        """All that its result depends on but the seed, as plain types; options that were not said are left out."""
        if self.card is None:
            return {"base": self.base_fingerprint}
        arguments, identity = self.card.arguments, self.card.identity
        said = {name: value for name, value in arguments.items() if name not in _BESIDE and name not in _OF_SEED}
        # As the adapter has them: defaults that were not said too, but not a rank that was chosen for its size.
        said |= {name: self.adapter[name] for name in _OF_ADAPTER if name in self.adapter}
        if not arguments.get("match_params"):
            said["r"] = self.rank
        batch = arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1)
        content = {
            "method": self.card.method,
            "base": self.base_fingerprint,
            "data": identity.get("data_sha256"),
            "data scale, %": self.scale,
            "batch size": batch * identity.get("processes", 1),
        }
        return {name: value for name, value in {**said, **content}.items() if value is not None}


@dataclass(frozen=True)
class Found:
    """What was read: runs, untuned bases, and what was left out."""

    runs: tuple[Run, ...]
    untuned: tuple[Run, ...]
    notes: tuple[str, ...]


def load_runs(arguments: Sequence[str]) -> Found:
    """Read what stands on the command line.

    Raises:
        UserError: a folder is given twice, holds no scores of CME's tasks, or scores that do not belong in one table.
    """
    notes: list[str] = []
    given: dict[Path, Run] = {}
    beside: list[Run] = []
    for argument in arguments:
        label, separator, rest = argument.partition("=")
        if not separator or Path(argument).exists():
            label, rest = "", argument
        for folder in _folders(Path(rest), notes):
            if folder.resolve() in given:
                raise UserError(f"{folder}: is given twice; a run is one row")
            run = _tuned(folder, label) if (folder / RUN_FILE).is_file() else _untuned(folder, label)
            given[folder.resolve()] = run
            if run.card is not None and (folder / _EVALUATION / UNTUNED).is_dir():
                beside.append(_untuned(folder / _EVALUATION / UNTUNED, ""))
    runs = tuple(run for run in given.values() if run.card is not None)
    untuned = _one_a_base([*(run for run in given.values() if run.card is None), *beside])
    refuse_mixtures([file for run in (*runs, *untuned) for file in run.files.values()])
    return Found(runs, untuned, tuple(notes))


def _folders(path: Path, notes: list[str]) -> list[Path]:
    """The runs that a folder stands for."""
    if not path.is_dir():
        raise UserError(f"{path}: {'is no folder' if path.exists() else 'no such folder'}; give run folders")
    if (path / RUN_FILE).is_file():
        return [path]
    if (path / SWEEP_FILE).is_file():
        return _of_sweep(path, notes)
    found = sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))
    return _evaluated(found, path, notes) if found else [path]


def _evaluated(folders: Sequence[Path], path: Path, notes: list[str]) -> list[Path]:
    """Those with scores of CME's tasks; the others (of LLaVA, say, or not evaluated yet) are told."""
    found = [folder for folder in folders if any((folder / _EVALUATION / n / SCORES).is_file() for n in ELEVEN)]
    others = [folder for folder in folders if folder not in found]
    command = "llava-teamlora evaluate run cme --model"
    if not found:
        raise UserError(f"{path}: none of its {len(folders)} runs has scores of CME's tasks; {command} {others[0]}")
    notes += [f"left out: {folder} has no scores of CME's tasks; {command} {folder} makes them" for folder in others]
    return found


def _of_sweep(path: Path, notes: list[str]) -> list[Path]:
    """Its finished cells; the others are told."""
    found, file = [], path / SWEEP_FILE
    if read_json_object(file).get(SWEEP_KEY) != SWEEP_FORMAT:
        raise UserError(
            f"{file}: was not written by this version of llava-teamlora sweep; give the run folders themselves"
        )
    for where, cell in read_json_rows(file, "cells"):
        status, folder, log = (take(cell, field, str, where) for field in ("status", "folder", "log"))
        if status == "done":
            found.append(path / folder)
        else:
            notes.append(f"left out: {path / folder} is {status} (see {log} there)")
    if not found:
        raise UserError(f"{path}: no cell of this sweep is done; run llava-teamlora sweep again")
    return found


def _tuned(folder: Path, label: str) -> Run:
    card = read_run_card(folder)
    path = folder / _ADAPTER_CONFIG
    adapter = read_json_object(path) if path.is_file() else {}
    files = _tasks(folder / _EVALUATION, folder)
    if not files:
        raise UserError(
            f"{folder}: none of CME's tasks was evaluated; llava-teamlora evaluate run cme --model {folder} does it"
        )
    if absent := [name for name in _FIGURES if name not in card.results]:
        raise UserError(f"{folder / RUN_FILE}: lacks {' and '.join(absent)}; was its training finished?")
    return Run(folder, label, card, files, Path(card.base.model).name, card.base_fingerprint, adapter)


def _untuned(folder: Path, label: str) -> Run:
    files = _tasks(folder / _EVALUATION if (folder / _EVALUATION).is_dir() else folder, folder)
    if not files:
        raise UserError(
            f"{folder}: is no run folder (it holds no {RUN_FILE}) and holds no scores of CME's tasks; "
            f"llava-teamlora evaluate run cme --model BASE --out {folder} puts those of an untuned base there"
        )
    models = [(file.content.get("manifest") or {}).get("model") or {} for file in files.values()]
    model = models[0]
    if any(each.get("kind") != "base" for each in models):
        raise UserError(
            f"{folder}: is no run folder (it holds no {RUN_FILE}), and its scores are not of an untuned base; "
            "give the run folder, whose evaluation/ holds the scores"
        )
    if len({each["base_fingerprint"] for each in models}) > 1:
        raise UserError(f"{folder}: holds scores of different bases; give each base a folder of its own")
    return Run(folder, label, None, files, Path(model["base"]["model"]).name, model["base_fingerprint"])


def _tasks(folder: Path, run: Path) -> dict[str, ScoreFile]:
    """Scores by task, in the paper's order, under the run's name."""
    found = {}
    for name in ELEVEN:
        path = folder / name / SCORES
        if not path.is_file():
            continue
        (file,) = read_scores([str(path)])
        if file.benchmark != name:
            raise UserError(f"{path}: holds scores of {file.benchmark}, not of {name}; put them into {file.benchmark}/")
        others = [remark for remark in file.remarks if not remark.startswith("partial")]
        if others:
            raise UserError(
                f"{path}: was answered by {', '.join(others)}, another protocol than CME's: generate, then match. The "
                "two are never mixed in one table; see llava-teamlora evaluate report"
            )
        found[name] = replace(file, label=str(run))
    return found


def _one_a_base(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Of several folders with one base's scores the fullest; what the user named comes before what lies in runs."""
    best: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run.base_fingerprint, run.label)
        if key not in best or len(run.missing) < len(best[key].missing):
            best[key] = run
    labelled = {run.base_fingerprint for run in best.values() if run.label}
    return tuple(run for run in best.values() if run.label or run.base_fingerprint not in labelled)
