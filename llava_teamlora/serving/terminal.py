"""``llava-teamlora cli``: a conversation in the terminal, with pictures by their paths.

In: lines typed or piped. Out: the answers, as they come. A mistake costs one line and the conversation goes on.
"""

from __future__ import annotations

import os.path
import shlex
from collections.abc import Callable
from collections.abc import Generator as Stream
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.serving.lines import paths
from llava_teamlora.serving.talk import KINDS

if TYPE_CHECKING:
    from llava_teamlora.serving.talk import Talk, Watched

HELP = """\
/image PATH ...     show a picture; the next question is about it (of several: about all of them)
/images             the pictures so far
/undo               take back the last question with its answer, or the last picture
/again              answer the last question once more (also /regenerate)
/edit TEXT          ask the last question in other words
/clear              forget the conversation and its pictures
/save FILE          write the conversation, pictures inside, as JSON
/load FILE          go on with one that was saved
/model [NAME]       who answers: the run, its base, and those of --compare
/set [NAME VALUE]   temperature, top_p, max_new_tokens, num_beams or seed
/system             the system prompt
/experts            how much each expert took part in the last answer
/gains 1 0 2 1      weight the experts by hand: 0 switches one off, 2 doubles it; /gains off leaves them alone
/help               this
/exit               leave (or Ctrl-D; Ctrl-C stops an answer)

A line that ends in a backslash goes on in the next. TAB completes commands and paths."""

_NOT_TEXT = "the line is not UTF-8 text; send it again as UTF-8"
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_ROWS = 40  # of the table of experts
_WIDEST = 20  # letters of a token in it


class _Command(NamedTuple):
    """What a line beginning in a slash does: says something, or streams an answer."""

    act: Callable[[str], str | Stream[str, None, None]]
    complete: Callable[[str], list[str]] = lambda begun: []


def _alone(act: Callable[[], str | Stream[str, None, None]]) -> _Command:
    """A command with nothing behind it."""

    def obey(rest: str) -> str | Stream[str, None, None]:
        if rest:
            raise UserError(f"nothing stands behind this command; leave {rest!r:.40} out (/help names the commands)")
        return act()

    return _Command(obey)


class Terminal:
    """Reads lines, obeys commands, prints answers.

    Args:
        talk: what the lines go to.
        read: gives the next line; raises EOFError at the end.
        out: answers.
        err: mistakes.
    """

    def __init__(self, talk: Talk, read: Callable[[], str], out: TextIO, err: TextIO) -> None:
        self.talk, self.read, self.out, self.err = talk, read, out, err
        self._written: set[Path] = set()  # files that are this conversation's to write anew
        self.commands = {
            "/image": _Command(self._image, paths),
            "/images": _alone(self._images),
            "/undo": _alone(talk.undo),
            "/again": _alone(talk.again),
            "/regenerate": _alone(talk.again),
            "/edit": _Command(talk.edit, lambda begun: [last for last in self._last_question() if not begun]),
            "/clear": _alone(self._clear),
            "/save": _Command(self._save, paths),
            "/load": _Command(self._load, paths),
            "/model": _Command(self._model, lambda begun: [name for name in talk.generators if name.startswith(begun)]),
            "/set": _Command(self._set, lambda begun: [name + " " for name in KINDS if name.startswith(begun)]),
            "/system": _alone(self._system),
            "/experts": _alone(self._experts),
            "/gains": _Command(self._gains),
            "/help": _alone(lambda: HELP),
        }

    def loop(self) -> int:
        """Until ``/exit``, the end of input, or Ctrl-C twice at the prompt; returns the exit status.

        Raises:
            BrokenPipeError: nobody reads the answers any more.
        """
        interrupted = False
        while True:
            try:
                line = self.read().strip()
                interrupted = False
            except EOFError:
                return 0
            except KeyboardInterrupt:  # once may have been meant for an answer that was just over
                if interrupted:
                    return 0
                interrupted = True
                print("\nCtrl-C once more, Ctrl-D or /exit leaves", file=self.err, flush=True)
                continue
            except UnicodeDecodeError:
                print(f"error: {_NOT_TEXT}", file=self.err, flush=True)
                continue
            try:
                if line and not self.obey(line):
                    return 0
            except KeyboardInterrupt:  # of a command; an answer is stopped where it is told
                print("[stopped]", file=self.err, flush=True)
            except BrokenPipeError:
                raise
            except UserError as error:
                print(f"error: {error}", file=self.err, flush=True)
            except (RuntimeError, MemoryError, OSError) as error:
                print(f"error: {type(error).__name__}: {error}", file=self.err, flush=True)

    def obey(self, line: str) -> bool:
        """Do one line; False ends the conversation.

        Raises:
            UserError: in words for the user.
        """
        # What Python makes of bytes that are no text; and NUL, which no path holds.
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in line):
            raise UserError(_NOT_TEXT)
        if not line.startswith("/"):
            self._tell(self.talk.ask(line))
            return True
        name, rest = [*line.split(maxsplit=1), ""][:2]
        if name in ("/exit", "/quit"):
            return False
        if name not in self.commands:
            raise UserError(f"{name}: no such command; /help names them{nearest(name, self.commands)}")
        self._tell(self.commands[name].act(rest.strip()))
        return True

    def complete(self, name: str, begun: str) -> list[str]:
        """What may stand after a command that begins so."""
        return self.commands[name].complete(begun) if name in self.commands else []

    def _tell(self, said: str | Stream[str, None, None]) -> None:
        try:
            if isinstance(said, str):
                self._print(said)
            else:
                with closing(said) as answer:
                    for piece in answer:
                        self._print(piece)
        except KeyboardInterrupt:
            print(" [stopped]", end="", file=self.out)
        print(file=self.out, flush=True)

    def _print(self, text: str) -> None:
        """Without control characters: what a model or a file says must not steer the terminal."""
        print(text.translate(_CONTROL), end="", file=self.out, flush=True)

    def _image(self, rest: str) -> str:
        if not rest:
            raise UserError("/image needs a path: /image picture.png")
        said = self.talk.show(*_paths(rest))
        if not self.talk.conversation.exchanges:
            self._written.clear()  # a new conversation begins
        return "\n".join(said)

    def _images(self) -> str:
        conversation = self.talk.conversation
        rows = [
            f"{picture.name}: {picture.image.width} x {picture.image.height} px, {place}"
            for pictures, place in (
                *((exchange.pictures, f"question {i}") for i, exchange in enumerate(conversation.exchanges, start=1)),
                (conversation.waiting, "for the next question"),
            )
            for picture in pictures
        ]
        return "\n".join(rows) or "no picture has been shown"

    def _last_question(self) -> list[str]:
        return [exchange.question for exchange in self.talk.conversation.exchanges[-1:]]

    def _clear(self) -> str:
        self.talk.clear()
        self._written.clear()
        return "the conversation is forgotten"

    def _save(self, rest: str) -> str:
        from llava_teamlora.files import write_atomically
        from llava_teamlora.serving.conversation_file import write_conversation

        path = _one_path(rest, "/save")
        if path.exists() and path not in self._written:
            raise UserError(f"{path}: is there already; choose another name, nothing is overwritten")
        write_atomically(path, write_conversation(self.talk.conversation))
        self._written.add(path)
        return f"{path}: {_counted(len(self.talk.conversation.exchanges), 'question')} written"

    def _load(self, rest: str) -> str:
        from llava_teamlora.serving.conversation_file import OWN, read_conversation

        path = _one_path(rest, "/load")
        try:
            with path.open("rb") as file:
                content = file.read(OWN.max_bytes + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        self.talk.load(read_conversation(content, str(path), OWN))
        self._written = {path}
        lines = []
        for exchange in self.talk.conversation.exchanges:
            lines += [f"> {exchange.question}", "" if exchange.reply is None else exchange.reply.text]
        return "\n".join(lines) or f"{path}: holds no question yet"

    def _model(self, rest: str) -> str:
        if rest:
            self.talk.choose(rest)
        return "\n".join(f"{'*' if name == self.talk.model else ' '} {name}" for name in self.talk.generators)

    def _set(self, rest: str) -> str:
        name, _, value = rest.replace("=", " ").partition(" ")
        if name and not value.strip():
            raise UserError(f"/set {name} needs a value: /set temperature 0.7")
        if name:
            self.talk.set(name, value.strip())
        return "  ".join(f"{name} {value:g}" for name, value in _settings(self.talk).items())

    def _system(self) -> str:
        template = self.talk.generator.loaded.template
        own = self.talk.conversation.system
        said = template.system if own is None else own
        return f"--version {template.name} has none of its own" if said is None else said

    def _experts(self) -> str:
        if self.talk.watched is None:
            raise UserError(
                "no experts were seen in a last answer; ask a run that has them, as a TeamLoRA has (/model shows who "
                "answers), without beams or a cache of fixed size"
            )
        return _table(self.talk.watched)

    def _gains(self, rest: str) -> str:
        if rest == "off":
            self.talk.steer(None)
        elif rest:
            try:
                self.talk.steer(tuple(map(float, rest.replace(",", " ").split())))
            except ValueError as error:
                raise UserError(f"/gains takes one number for each expert, such as 1 0 2 1, not {rest!r}") from error
        gains = self.talk.gains
        return "the experts are left alone" if gains is None else "gains " + " ".join(f"{gain:g}" for gain in gains)


def _settings(talk: Talk) -> dict[str, float]:
    return {name: getattr(talk.decoding, name) for name in KINDS}


def _paths(rest: str) -> list[str]:
    """Paths as a shell would take them, or one path with blanks in it as it is."""
    if os.path.isfile(os.path.expanduser(rest)):  # Path's own refuses many paths, which are too long for one
        return [rest]
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise UserError(f"{rest}: {error}; put a path with blanks between quotes") from error


def _one_path(rest: str, command: str) -> Path:
    found = _paths(rest) if rest else []
    if len(found) != 1:
        raise UserError(f"{command} needs one path: {command} talk.json (with blanks in it, between quotes)")
    return Path(os.path.expanduser(found[0])).absolute()  # Path's own knows no file of ~nobody


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _table(watched: Watched) -> str:
    """Participation of each expert, mean over layers, a row a token."""
    rows = list(zip(watched.tokens, watched.participation.tolist(), strict=True))
    names = [repr(token)[1:-1][:_WIDEST] for token, _ in rows]
    width = max(map(len, [*names[:_ROWS], "all tokens"]))
    lines = ["token".ljust(width) + "".join(f"{f'expert {i}':>10}" for i in range(1, len(rows[0][1]) + 1))]
    for name, (_, values) in list(zip(names, rows, strict=True))[:_ROWS]:
        lines.append(name.ljust(width) + "".join(f"{value:10.3f}" for value in values))
    if len(rows) > _ROWS:
        lines.append(f"... and {_counted(len(rows) - _ROWS, 'token')} more")
    mean = watched.participation.mean(0).tolist()
    return "\n".join([*lines, "all tokens".ljust(width) + "".join(f"{value:10.3f}" for value in mean)])
