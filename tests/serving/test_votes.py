"""The log of votes: whole lines from many writers, and none of a vote that could not be written."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding
from llava_teamlora.serving.conversation import Conversation, Picture, Reply, Settings
from llava_teamlora.serving.votes import Vote, log_vote

SETTINGS = Settings("a-run", "v1", Decoding(seed=3))


def talk(*questions: str) -> Conversation:
    conversation = Conversation().show(Picture("red.png", Image.new("RGB", (4, 4), (255, 0, 0))))
    for question in questions:
        conversation = conversation.ask(question).answered(Reply(f"answer to {question}", "stop", SETTINGS))
    return conversation


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_vote_holds_the_conversation_up_to_it(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "votes.jsonl"
    log_vote(log, Vote("down", talk("one", "two", "three"), 1, {"model": "x", "base": {"a": 1}}, "wröng"))
    log_vote(log, Vote("up", talk("other"), 0, {"base": {"a": 1}, "model": "x"}))
    first, second = lines(log)
    assert (first["vote"], first["note"], first["model"], first["format"]) == ("down", "wröng", "a-run", 1)
    turns = first["conversation"]["turns"]
    assert [turn["text"] for turn in turns] == ["one", "answer to one", "two", "answer to two"]
    assert turns[3]["settings"]["decoding"]["seed"] == 3 and first["time"].endswith("+00:00")
    assert first["manifest_sha256"] == second["manifest_sha256"]  # of the same content in whatever order
    (stored,) = (tmp_path / "deep" / "votes.pictures").iterdir()  # the picture of both, once
    assert {row["conversation"]["turns"][0]["pictures"][0]["file"] for row in (first, second)} == {
        f"votes.pictures/{stored.name}"
    }
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == stored.stem
    with Image.open(stored) as image:
        assert image.size == (4, 4)


def test_only_complete_answers_are_voted_on() -> None:
    with pytest.raises(UserError, match="vote once it is"):
        Vote("up", talk("one").ask("two"), 1, {})
    with pytest.raises(ValueError, match="no exchange 2"):
        Vote("up", talk("one", "two"), 2, {})


_WRITER = """
import json, sys
from pathlib import Path
from llava_teamlora.serving.votes import _append
for number in range(50):
    row = {"who": sys.argv[2], "number": number, "long": "x" * 20_000}
    _append(Path(sys.argv[1]), json.dumps(row).encode() + b"\\n")
"""


def test_writers_at_once_write_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "votes.jsonl"

    def vote_often(writer: str) -> None:
        for number in range(20):
            log_vote(log, Vote("flag", talk(f"{writer}{number}"), 0, {}, "x" * 20_000))

    others = [subprocess.Popen([sys.executable, "-c", _WRITER, str(log), who]) for who in "ab"]
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(vote_often, "cde"))
        assert [other.wait(timeout=60) for other in others] == [0, 0]
    finally:
        for other in others:
            other.kill()
    rows = lines(log)
    foreign = sorted((row["who"], row["number"]) for row in rows if "who" in row)
    assert foreign == [(who, number) for who in "ab" for number in range(50)]
    own = sorted(row["conversation"]["turns"][0]["text"] for row in rows if "who" not in row)
    assert own == sorted(f"{who}{number}" for who in "cde" for number in range(20))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a full disk: what is written beyond is refused, after a part of it was taken."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    log = tmp_path / "votes.jsonl"
    log_vote(log, Vote("up", talk("one"), 0, {}))
    before = log.read_bytes()
    with no_file_above(len(before) + 100), pytest.raises(UserError, match=r"votes\.jsonl: the vote cannot be written"):
        log_vote(log, Vote("up", talk("two"), 0, {}))
    assert log.read_bytes() == before
    log_vote(log, Vote("up", talk("three"), 0, {}))
    assert len(lines(log)) == 2


def test_a_line_that_was_cut_short_stays_by_itself(tmp_path: Path) -> None:
    log = tmp_path / "votes.jsonl"
    log.write_text('{"vote": "u')
    log_vote(log, Vote("up", talk("one"), 0, {}))
    log_vote(log, Vote("up", talk("two"), 0, {}))
    half, *whole = log.read_text().splitlines()
    assert half == '{"vote": "u' and [json.loads(line)["vote"] for line in whole] == ["up", "up"]


def test_a_place_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(UserError, match="log: the vote cannot be written"):
        log_vote(tmp_path / "log", Vote("up", talk("one"), 0, {}))
