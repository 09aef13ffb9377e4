"""Only the tests of an archive are written, and nothing of one that is not to be trusted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from peft_harness.sdist import fetch_sdist, unpack_tests

from llava_teamlora.errors import UserError

GOOD = {
    "peft-9.9/setup.py": b"raise SystemExit",
    "peft-9.9/tests/test_a.py": b"A = 1",
    "peft-9.9/tests/testing_utils.py": b"B = 2",
    "peft-9.9/tests/data/deep.py": b"C = 3",
    "peft-9.9/tests/picture.png": b"D",
}


def archive(folder: Path, files: dict[str, bytes], link: tarfile.TarInfo | None = None) -> Path:
    path = folder / "peft-9.9.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link is not None:
            tar.addfile(link)
    return path


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_test_modules_become_a_package(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert unpack_tests(archive(tmp_path, GOOD), "9.9", out) == out / "peft-9.9"
    assert written(out) == {
        "peft-9.9/tests/__init__.py": b"",
        "peft-9.9/tests/test_a.py": b"A = 1",
        "peft-9.9/tests/testing_utils.py": b"B = 2",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("peft-9.9/tests/../../../evil.py", "points outside"),
        ("/evil.py", "points outside"),
        ("peft-9.9\\tests\\evil.py", "points outside"),
        ("peft-9.8/tests/test_a.py", r"is not in peft-9\.9/"),
    ],
)
def test_a_strange_member_stops_everything(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        unpack_tests(archive(tmp_path, {**GOOD, name: b"evil"}), "9.9", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("evil.py"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_stop_everything(kind: bytes, tmp_path: Path) -> None:
    link = tarfile.TarInfo("peft-9.9/tests/test_b.py")
    link.type, link.linkname = kind, "/etc/hostname"
    with pytest.raises(UserError, match="neither a file nor a folder"):
        unpack_tests(archive(tmp_path, GOOD, link), "9.9", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_source_distribution_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no peft-9.9/tests"):
        unpack_tests(archive(tmp_path, {"peft-9.9/setup.py": b""}), "9.9", tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"PK\x03\x04 a wheel")
    with pytest.raises(UserError, match=r"x\.tar\.gz: cannot be read"):
        unpack_tests(tmp_path / "x.tar.gz", "9.9", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        unpack_tests(tmp_path / "absent.tar.gz", "9.9", tmp_path)


def test_what_was_fetched_before_is_used_again(tmp_path: Path) -> None:
    path = archive(tmp_path, GOOD)
    assert fetch_sdist("9.9", tmp_path) == path  # would ask the network for a version that does not exist
