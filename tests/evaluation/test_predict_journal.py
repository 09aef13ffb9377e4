"""What lies on disk while a model answers: whole lines, torn ends, full disks, two at once, merging."""

from __future__ import annotations

import errno
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.prediction.journal import (
    answered,
    collect,
    journal_path,
    line_of,
    locked,
    merge,
    open_journal,
)
from llava_teamlora.evaluation.types import Sample

SAMPLES = [Sample(key=f"k{i}", question_id=i, prompt="q", targets=("a",)) for i in range(5)]


def row(number: int, text: str = "a") -> dict[str, str]:
    return {"key": f"k{number}", "text": text}


def lines(*numbers: int) -> bytes:
    return b"".join(line_of(row(number)) for number in numbers)


def test_a_torn_end_is_cut_off_when_its_process_goes_on(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 0)
    long = line_of(row(1, "x" * 200_000))
    path.write_bytes(lines(0) + long[:-1])
    assert list(collect(tmp_path)) == ["k0"]
    with open_journal(path) as journal:
        assert path.read_bytes() == lines(0)
        journal.append([row(1), row(2)])
        assert path.read_bytes() == lines(0, 1, 2)
    path.write_bytes(b'{"ke')
    with open_journal(path):
        assert path.read_bytes() == b""


def test_files_of_any_number_of_processes_become_one_in_the_benchmarks_order(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_bytes(lines(3))
    journal_path(tmp_path, 0).write_bytes(lines(4, 0))
    journal_path(tmp_path, 7).write_bytes(lines(2, 1) + b'{"key": "to')
    merge(tmp_path, SAMPLES, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert (tmp_path / "predictions.jsonl").read_bytes() == lines(0, 1, 2, 3, 4)


def test_nothing_is_merged_before_all_is_there(tmp_path: Path) -> None:
    journal_path(tmp_path, 0).write_bytes(lines(4, 0, 1))
    with pytest.raises(UserError, match=r"of 5 answers, 2 missing \(first: k2\); start it again to go on"):
        merge(tmp_path, SAMPLES, 5)
    merge(tmp_path, SAMPLES, 2)  # what was asked for is
    assert (tmp_path / "predictions.jsonl").read_bytes() == lines(0, 1, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(0) + line_of(row(0, "other")), r"rank-1\.jsonl, line 2: 'k0' has been answered before, and otherwise"),
        (b'{"text": "a"}\n', r"rank-1\.jsonl, line 1: has no 'key'"),
        (b'{"key": \n', r"rank-1\.jsonl, line 1: broken JSON"),
        (b"[1]\n", r"rank-1\.jsonl, line 1: expected an object"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    journal_path(tmp_path, 1).write_bytes(content)
    for read in (collect, answered):
        with pytest.raises(UserError, match=message):
            read(tmp_path)


def test_answers_to_unknown_questions_are_refused(tmp_path: Path) -> None:
    journal_path(tmp_path, 0).write_bytes(lines(0, 1, 2, 3, 4, 5))
    with pytest.raises(UserError, match=r"1 to questions the benchmark does not have \(first: k5\)"):
        merge(tmp_path, SAMPLES, 5)


def test_two_processes_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 0)
    with open_journal(path), pytest.raises(UserError, match="another process is at work there"), open_journal(path):
        pass
    with open_journal(path):  # it is free again
        pass


def test_a_folder_is_one_runs_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    with locked(folder):
        with pytest.raises(UserError, match="new: another process is at work there"), locked(folder):
            pass
        with pytest.raises(UserError, match="new: another process"), locked(folder):  # the refused one left it locked
            pass
    assert list(folder.iterdir()) == [] and capsys.readouterr().err == ""
    with locked(folder):
        pass


def test_a_lock_that_its_owner_has_just_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that open the old file and the new one must not both have the folder."""
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (tmp_path / ".predictions.lock").unlink())
    with pytest.raises(UserError, match="another process is at work there"), locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path), open_journal(journal_path(tmp_path, 0)) as journal:
        journal.append([row(0)])
    assert capsys.readouterr().err.count("its file system has no locks") == 1
    assert answered(tmp_path) == {"k0"}


def test_a_full_disk_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half a line, then nothing."""
    path = journal_path(tmp_path, 0)

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.full = file, False

        def write(self, content: memoryview) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.full = True
            return self.file.write(content[: len(content) // 2])

    with pytest.raises(UserError, match="No space left on device.*are kept: make room"), open_journal(path) as journal:
        journal.append([row(0)])
        monkeypatch.setattr(journal, "_file", Full(journal._file))
        journal.append([row(1)])
    assert path.read_bytes().startswith(lines(0)) and path.read_bytes() != lines(0)
    assert list(collect(tmp_path)) == ["k0"]


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    with open_journal(journal_path(tmp_path, 0)) as journal:
        journal.append([row(0, "\ud83d é")])
    assert json.loads(collect(tmp_path)["k0"])["text"] == "\ud83d é"
