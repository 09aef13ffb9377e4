"""The log of votes: what people thought of answers, a line of JSON each. docs/chat.md shows the format.

A line holds the conversation up to the answer and what it was made with. Pictures lie beside the log, each of them
once, in a folder of the log's name. Several processes may write to one log: a line is written whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.errors import UserError
from llava_teamlora.files import beside, encoded, write_atomically
from llava_teamlora.serving.conversation import Conversation, Picture, now
from llava_teamlora.serving.conversation_file import FORMAT, conversation_fields

Kind = Literal["up", "down", "flag"]


@dataclass(frozen=True)
class Vote:
    """What somebody thought of an answer.

    Attributes:
        kind: good, bad, or in need of a look.
        conversation: in which it stands.
        exchange: the number of its question there, from 0.
        manifest: of the model, as ``checkpoint.Loaded`` has it.
        note: why, in the voter's words.
    """

    kind: Kind
    conversation: Conversation
    exchange: int
    manifest: Mapping[str, Any]
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.exchange < len(self.conversation.exchanges):
            raise ValueError(f"there is no exchange {self.exchange}")
        if self.conversation.exchanges[self.exchange].reply is None:
            raise UserError("the answer is not complete; vote once it is")


def log_vote(path: Path, vote: Vote) -> None:
    """Put a vote at the end of a log, on the disk when this returns.

    Args:
        path: the log; it and its folder are made.
        vote: what to write.

    Raises:
        UserError: it cannot be written, as on a full disk; then nothing of it is in the log.
    """
    folder = beside(path, ".pictures")
    up_to = replace(vote.conversation, exchanges=vote.conversation.exchanges[: vote.exchange + 1], waiting=())
    reply = up_to.exchanges[-1].reply
    assert reply is not None  # see Vote
    manifest = json.dumps(vote.manifest, sort_keys=True, default=str)
    row = {
        "format": FORMAT,
        "time": now(),
        "vote": vote.kind,
        "note": vote.note,
        "model": reply.settings.model,
        "manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest(),
        "manifest": vote.manifest,
        "conversation": conversation_fields(up_to, lambda picture: _kept(picture, folder)),
    }
    _append(path, encoded(json.dumps(row, ensure_ascii=False, default=str) + "\n"))


def _kept(picture: Picture, folder: Path) -> dict[str, str]:
    """Put a picture in the folder, named by its content, unless it is there already."""
    file = io.BytesIO()
    picture.image.save(file, "PNG")
    target = folder / f"{hashlib.sha256(file.getvalue()).hexdigest()}.png"
    if not target.is_file():
        write_atomically(target, file.getvalue())
    return {"name": picture.name, "file": f"{folder.name}/{target.name}"}


def _append(path: Path, line: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            with suppress(OSError):  # a file system without locks: to append is then all that keeps lines apart
                fcntl.flock(file, fcntl.LOCK_EX)
            before = file.seek(0, os.SEEK_END)
            if before and os.pread(file.fileno(), 1, before - 1) != b"\n":
                line = b"\n" + line  # a power cut left half a line: it is not made part of this one
            try:
                left = memoryview(line)
                while left:  # a disk about to be full takes a part
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise UserError(f"{path}: the vote cannot be written ({error.strerror or error})") from error
