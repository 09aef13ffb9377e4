"""The folder beside a mix in the making: what is finished of it, and what it is made from.

One build at a time may use it; others wait. A build that finds one made from something else refuses: its parts would
not fit.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import beside, write_atomically


class AtWork(UserError):
    """Another build has the folder."""


def work_path(out: Path) -> Path:
    """The folder's place."""
    return beside(out, ".building")


@contextmanager
def work_folder(out: Path, made_from: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """Take the folder, or make it; it stays until its owner removes it.

    Args:
        out: the mix.
        made_from: see ``Plan.made_from``.
        overwrite: begin anew where it was made from something else.

    Raises:
        AtWork: another build uses it.
        UserError: it was made from something else, or cannot be written.
    """
    folder = work_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AtWork(f"{folder}: another build of {out} is at work") from error
        except OSError:
            print(
                f"{folder}: its file system has no locks; see to it that no other build writes there", file=sys.stderr
            )
        if not (folder / "lock").exists():  # its owner was done just now, and took the folder away
            raise AtWork(f"{folder}: another build of {out} was at work")
        state = folder / "state.json"
        if state.exists() and (differing := differences(read_json_object(state), made_from)):
            if not overwrite:
                raise UserError(
                    f"{folder}: a build of {out} broke off that was made from something else ({differing}); run it as "
                    "it was, or --overwrite begins anew"
                )
            for path in folder.iterdir():
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not state.exists():
            write_atomically(state, json.dumps(made_from, indent=2, ensure_ascii=False))
        yield folder


def wait_for_other(out: Path) -> None:
    """Return once nobody has the folder of a mix."""
    with suppress(OSError), (work_path(out) / "lock").open() as lock:  # it is gone when its build is done
        fcntl.flock(lock, fcntl.LOCK_SH)


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first few fields that differ, in words; empty if none does."""
    old_flat, new_flat = _flat(old), _flat(new)
    names = [name for name in {**old_flat, **new_flat} if old_flat.get(name) != new_flat.get(name)]
    said = [f"{name}: {old_flat.get(name)!r} then, {new_flat.get(name)!r} now" for name in names[:3]]
    return "; ".join(said) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{name} {inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat
