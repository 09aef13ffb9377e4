"""peft's source distribution: fetched, looked through and unpacked, tests only.

In: nothing (the distribution of the installed version is downloaded) or a .tar.gz. Out: a folder with peft's ``tests``
as a package. peft's wheel carries no tests, its source distribution does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

from llava_teamlora.errors import UserError

_LIMIT_MIB = 64
_TEST_FILE = re.compile(r"[A-Za-z0-9_]+\.py")


def fetch_sdist(version: str, work: Path) -> Path:
    """Return peft's source distribution in `work`, downloaded by pip unless it is already there.

    Raises:
        UserError: if pip cannot download it.
    """
    target = work / f"peft-{version}.tar.gz"
    if not target.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "peft", f"peft=={version}"]
        done = subprocess.run([*command, "--dest", str(work)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not target.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise UserError(
                f"pip could not download the source distribution of peft {version} ({said}): download it where there "
                f"is a network with '{' '.join(command[1:])}', and give it as --sdist FILE"
            )
    return target


def unpack_tests(archive: Path, version: str, into: Path) -> Path:
    """Write the archive's test modules to ``into/peft-<version>/tests`` and return ``into/peft-<version>``.

    Nothing else of it is written: no setup script, no sub-folder, no link. ``__init__.py`` is added, for the tests
    import each other as parts of a package.

    Raises:
        UserError: if it cannot be read, is of another version than `version`, holds a member that points outside of its
            own folder, or has no tests.
    """
    root = f"peft-{version}"
    modules: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _check_member(member, archive, root)
                folder, name = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
                if member.isfile() and str(folder) == f"{root}/tests" and _TEST_FILE.fullmatch(name):
                    opened = tar.extractfile(member)
                    assert opened is not None  # a regular file
                    modules[name] = opened.read()
                    if sum(map(len, modules.values())) > _LIMIT_MIB << 20:
                        raise UserError(f"{archive}: its tests hold more than {_LIMIT_MIB} MiB: this is not peft's")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive}: cannot be read as a .tar.gz ({error}): give peft's source distribution") from error
    if not modules:
        raise UserError(f"{archive}: no {root}/tests/*.py in it: give peft's source distribution, not its wheel")
    tests = into / root / "tests"
    tests.mkdir(parents=True, exist_ok=True)
    for name, content in {**modules, "__init__.py": b""}.items():
        (tests / name).write_bytes(content)
    return into / root


def _check_member(member: tarfile.TarInfo, archive: Path, root: str) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise UserError(
            f"{archive}: member {member.name!r} points outside of the archive's folder: nothing was unpacked"
        )
    if not (member.isfile() or member.isdir()):
        raise UserError(f"{archive}: member {member.name!r} is neither a file nor a folder: nothing was unpacked")
    if path.parts[:1] != (root,):
        raise UserError(
            f"{archive}: member {member.name!r} is not in {root}/: give the source distribution of the peft that is "
            f"installed ({root.removeprefix('peft-')}), or install the one it belongs to"
        )
