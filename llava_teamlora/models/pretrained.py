"""Folders and hub ids -> configs, models and tokenizers: whole, or refused in one line.

A missing, unexpected or misshapen weight is an error here; transformers only prints a report.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.models.outline import is_outlining, outline


def load_config(name: str) -> Any:
    """The config of a model folder or hub id.

    Raises:
        UserError: none there.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        hint = "; it is a run folder: name its base instead" if (path / "adapter_config.json").is_file() else ""
        hint = hint or _unfinished(path)
        raise UserError(f"{name}: holds no config.json{hint}")
    check_there(name)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if path.exists() else "neither a folder here nor a hub model in reach"
        raise UserError(f"{name}: {reason}") from error


def check_there(name: str) -> None:
    """Refuse the path of a folder that is not there, before a hub is asked for it.

    Raises:
        UserError: it cannot be anything else. OWNER/NAME is taken for a path where there is a folder OWNER.
    """
    path = Path(name)
    if path.exists() or path.parent == Path() or not (path.is_absolute() or path.parent.is_dir()):
        return
    near = nearest(path.name, (each.name for each in path.parent.iterdir())) if path.parent.is_dir() else ""
    raise UserError(f"{name}: no such folder{near}")


def _unfinished(path: Path) -> str:
    """A hint for the folder of a run that was interrupted."""
    steps = [int(each.name.rpartition("-")[2]) for each in path.glob("checkpoint-*") if each.name[11:].isdigit()]
    return f"; its run did not finish: use {path / f'checkpoint-{max(steps)}'}, or run it to its end" if steps else ""


def load(kind: Any, name: str, **kwargs: Any) -> Any:
    """``kind.from_pretrained(name)``, if it can be read.

    Raises:
        UserError: it cannot.
    """
    try:
        return kind.from_pretrained(name, **kwargs)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{name}: cannot be loaded ({first_line(error)})") from error


def load_whole(kind: Any, name: str, may_be_left: tuple[str, ...] = (), **kwargs: Any) -> Any:
    """``kind.from_pretrained(name)``, if it can be read and all its weights came along.

    Args:
        kind: class of the model.
        name: folder or hub id.
        may_be_left: beginnings of weights' names that the file may hold and the model need not.
        kwargs: for ``from_pretrained``.

    Raises:
        UserError: it cannot be read, or a weight is missing, unexpected or misshapen.
    """
    if is_outlining():
        return outline(kind, name, **kwargs)
    reports = logging.getLogger("transformers.modeling_utils")
    reports.addFilter(_is_no_report)  # what it lists is looked at below
    try:
        model, info = load(kind, name, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    finally:
        reports.removeFilter(_is_no_report)
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(key for key in info["unexpected_keys"] if not key.startswith(may_be_left or ("\0",))),
        "misshapen": sorted(str(key) for key in info["mismatched_keys"]),
    }
    found = {kind: keys for kind, keys in problems.items() if keys}
    if found:
        parts = (f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in found.items())
        raise UserError(f"{name}: its weights do not fit its config: {', '.join(parts)}")
    return model


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in str(record.msg)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Names and tensors of a ``.bin`` or ``.safetensors`` file.

    Both lie on the disk until they are used; only a ``.bin`` of before torch 1.6, which is no zip file, is read whole.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    try:
        if path.endswith(".safetensors"):
            weights = load_file(path)
        else:
            weights = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path}: is no file of weights ({first_line(error)})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: is no file of weights (expected names and tensors)")
    return weights


def gathered(parameters: list[Any]) -> AbstractContextManager[Any]:
    """Whole parameters, to be written to, where ZeRO-3 has split them."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed  # pyright: ignore[reportMissingImports]  an extra

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)


def first_line(error: Exception) -> str:
    """The first line of an error's text; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
