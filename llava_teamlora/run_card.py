"""``run.yaml``: what a run folder is and how it came to be, written and read. Reading it imports no torch."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llava_teamlora import __version__
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically
from llava_teamlora.models.spec import BaseSpec

RUN_FILE = "run.yaml"
ADAPTER_FILE = "adapter_model.safetensors"
FULL_FINETUNING = "full"
"""Method whose run folder holds a whole model instead of an adapter."""
_FORMAT = 1


@dataclass(frozen=True)
class RunCard:
    """``run.yaml``: what a run folder is and how it came to be.

    Attributes:
        method: name in METHODS.
        base: what was adapted.
        base_fingerprint: content of ``base.model`` (and of the tower, when there is one).
        version: conversation template.
        image_aspect_ratio: ``pad`` or ``square``.
        arguments: the resolved command line.
        identity: what else makes a run this run: digests of its data, number of processes.
        versions: of Python and the libraries that matter.
        results: figures of the run so far (parameters, seconds) or, when it is finished, all (losses, memory).
    """

    method: str
    base: BaseSpec
    base_fingerprint: str
    version: str
    image_aspect_ratio: str
    arguments: dict[str, Any]
    identity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


def library_versions() -> dict[str, str]:
    """Versions of Python, this package (with its commit, in a checkout) and the libraries that matter."""
    import accelerate
    import peft
    import torch
    import transformers

    found = {
        "python": platform.python_version(),
        "llava_teamlora": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }
    commit = _commit()
    return {**found, "commit": commit} if commit else found


def _commit() -> str | None:
    """Commit of the checkout this package lies in; None outside of one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_run_card(folder: str | Path, card: RunCard) -> None:
    """Write ``run.yaml`` into a folder."""
    content = {"llava_teamlora_run": _FORMAT, **asdict(card)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(Path(folder) / RUN_FILE, text)


def read_run_card(folder: str | Path) -> RunCard:
    """Read ``run.yaml`` of a folder.

    Raises:
        UserError: not there, broken, or of another format.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise UserError(f"{folder}: is not a run folder (it holds no {RUN_FILE})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content.pop("llava_teamlora_run") != _FORMAT:
            raise UserError(f"{path}: was written by another version of this program; format {_FORMAT} is read")
        return RunCard(**{**content, "base": BaseSpec(**content["base"])})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is broken ({error})") from error
