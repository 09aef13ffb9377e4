"""A build that is killed, or whose disk is full, goes on and ends in the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mix_files import nq, plan, write_lines

from llava_teamlora.cme import parts
from llava_teamlora.cme.build import build
from llava_teamlora.cme.work import AtWork, work_folder
from llava_teamlora.errors import UserError

NAMES = ("nq", "openorca")


def beside_mix(root: Path, name: str) -> dict[str, str]:
    """Digest of each file of a mix."""
    endings = (".jsonl", ".manifest.json", ".leaks.jsonl", ".bad_rows.jsonl")
    return {ending: hashlib.sha256((root / f"{name}{ending}").read_bytes()).hexdigest() for ending in endings}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """3,000 rows of two sets, in parts of 100 rows."""
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    rng = random.Random(0)
    vocabulary = [f"word{number}" for number in range(500)]
    texts = [" ".join(rng.choices(vocabulary, k=30)) for _ in range(3000)]
    nq(tmp_path / "eval/nq/NQ-open.dev.jsonl", [(text, "x") for text in texts[:50]])
    nq(tmp_path / "train/nq/NQ-open.train.jsonl", [(text, "x") for text in texts[:1000]])
    rows = [{"system_prompt": "Be brief.", "question": text, "response": text[:9]} for text in texts[1000:]]
    write_lines(tmp_path / "train/openorca/1M-GPT4-Augmented.jsonl", rows)
    return tmp_path


class Killed(BaseException):
    """Stands for a kill: no handler in the program catches it."""


@pytest.mark.parametrize("writes", [1, 9, 30, 66, 68])
def test_killed_after_any_write_it_ends_in_the_same_bytes(
    root: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(plan(root, *NAMES, out=root / "whole.jsonl"))
    replace, left = os.replace, writes

    def dying(source: str, target: str) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            build(plan(root, *NAMES))
    assert not (root / "mix.manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (root / "mix.building").rglob("*") if path.is_file()}
    manifest, made = build(plan(root, *NAMES))
    assert made and manifest["total"]["leaks_dropped"] == 50
    assert beside_mix(root, "mix") == beside_mix(root, "whole")
    assert not (root / "mix.building").exists()
    assert len(finished) > writes / 3  # there was something to go on from


def test_finished_parts_are_not_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = parts.write_atomically

    def counted(path: Path, content: str | bytes | Iterable[str | bytes]) -> None:
        if len(written) == 21:
            raise Killed
        write(path, content)
        written.append(path.name)

    monkeypatch.setattr(parts, "write_atomically", counted)
    with pytest.raises(Killed):
        build(plan(root, *NAMES))
    assert written[-2:] == ["openorca-00000.jsonl", "openorca-00000.json"] or written[-1] == "openorca-00000.jsonl"
    first, written[:] = list(written), []
    monkeypatch.setattr(
        parts, "write_atomically", lambda path, content: (write(path, content), written.append(path.name))
    )
    build(plan(root, *NAMES))
    whole = set(first[:20])
    assert not whole & set(written)
    assert len(whole | set(written)) == 60  # 30 parts of two files


def test_kill_nine(root: Path) -> None:
    build(plan(root, *NAMES, out=root / "whole.jsonl"))
    code = (
        "import sys; from pathlib import Path; from llava_teamlora.cme import parts; from mix_files import plan;"
        "from llava_teamlora.cme.build import build; parts.PART_ROWS = 100;"
        "build(plan(Path(sys.argv[1]), 'nq', 'openorca'))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )
    folder = root / "mix.building/parts"
    while process.poll() is None and len(list(folder.glob("*.json"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    build(plan(root, *NAMES))
    assert beside_mix(root, "mix") == beside_mix(root, "whole")


def stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a build that was killed halfway."""
    with monkeypatch.context() as patched:
        patched.setattr(parts.Writer, "write", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            build(plan(root, *NAMES))


def test_other_arguments_or_files_do_not_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(root, monkeypatch)
    with pytest.raises(UserError, match="broke off that was made from something else .scale: 100 then, 50 now."):
        build(plan(root, *NAMES, scale=50))
    nq(root / "train/nq/NQ-open.train.jsonl", [("another", "x")])
    with pytest.raises(UserError, match=r"files .*NQ-open.train.jsonl: \[1, \d+, \d+\] then"):
        build(plan(root, *NAMES))
    manifest, _ = build(plan(root, *NAMES, overwrite=True))
    assert manifest["sets"]["nq"]["kept"] == 1


def test_files_that_change_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = parts.Writer.write

    def changing(self: parts.Writer, told: object) -> list[parts.Part]:
        nq(root / "train/nq/NQ-open.train.jsonl", [("another", "x")])
        return write(self, told)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(parts.Writer, "write", changing)
    with pytest.raises(UserError, match="NQ-open.train.jsonl: changed while the mix was built; .*--overwrite"):
        build(plan(root, *NAMES))
    assert not (root / "mix.jsonl").exists()


def test_a_full_disk_leaves_nothing_half_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(plan(root, *NAMES, out=root / "whole.jsonl"))
    sync, left = os.fsync, 12

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="cannot be written .No space left on device."):
            build(plan(root, *NAMES))
    assert sorted(path.name for path in root.glob("mix*")) == ["mix.building"]
    assert not list((root / "mix.building").rglob(".*"))
    build(plan(root, *NAMES))
    assert beside_mix(root, "mix") == beside_mix(root, "whole")


def test_one_build_at_a_time(root: Path) -> None:
    given = plan(root, *NAMES)
    with work_folder(given.options.out, given.made_from(), overwrite=False):
        with pytest.raises(AtWork, match="another build of .*mix.jsonl is at work"):
            with work_folder(given.options.out, given.made_from(), overwrite=True):
                pass


def test_a_second_build_waits_and_finds_the_mix(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = plan(root, *NAMES)
    with ThreadPoolExecutor() as pool:
        with work_folder(given.options.out, given.made_from(), overwrite=False) as folder:
            second = pool.submit(build, given)
            while "waiting for it to end" not in (said := capsys.readouterr().err):
                assert not second.done()
                time.sleep(0.01)
            build(plan(root, *NAMES, out=root / "whole.jsonl"))
            for ending in (".jsonl", ".manifest.json"):
                (root / f"whole{ending}").rename(root / f"mix{ending}")
            shutil.rmtree(folder)
        manifest, made = second.result(timeout=60)
    assert not made and manifest["records"] and said.count("waiting") == 1


def test_a_root_is_the_same_however_it_is_spelled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = build(plan(root, *NAMES))
    monkeypatch.chdir(root)
    given = plan(Path("."), *NAMES)
    assert build(given) == (manifest, False)
    (root / "train/nq/NQ-open.train.jsonl").touch()
    with pytest.raises(UserError, match=r"mix.jsonl: is there already \(files /.*NQ-open.train.jsonl: "):
        build(given)
