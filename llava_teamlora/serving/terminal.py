"""``llava-teamlora cli``: a conversation in the terminal, with a picture by its path.

In: lines typed or piped. Out: the answers, as they come. A mistake costs one line and the conversation goes on.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from collections.abc import Generator as Stream
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llava_teamlora.errors import UserError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_teamlora.data.records import Turn
    from llava_teamlora.generation import Decoding, Generator

_HELP = """\
/image PATH   show a picture; the next question is about it (several times: about all of them)
/clear        forget the conversation and the pictures
/help         this
/exit         leave (or Ctrl-D; Ctrl-C stops an answer)"""
_DESCRIPTION = f"""\
Talk to a model in the terminal. A line is a question, unless it begins with a slash:

{_HELP}

Lines may be piped in:  echo "what is this?" | llava-teamlora cli playground/tiny --image picture.png
"""

_NOT_TEXT = "the line is not UTF-8 text; send it again as UTF-8"


class Conversation:
    """One conversation's state, apart from any input and output.

    Args:
        generator: the model.
        decoding: how it answers.
    """

    def __init__(self, generator: Generator, decoding: Decoding) -> None:
        self.generator = generator
        self.decoding = decoding
        self.clear()

    def clear(self) -> None:
        """Forget all turns and pictures."""
        self.turns: list[Turn] = []
        self.images: list[Image] = []
        self.waiting = 0  # pictures, the last ones, that the next question is about

    def show(self, path: str | Path) -> str:
        """Take a picture for the next question.

        Several may be shown before one question. Once they were asked about, the next one starts a new conversation,
        for most models know conversations about one picture.

        Returns:
            A line that says what was done.

        Raises:
            UserError: not a readable picture, or a text-only model.
        """
        from llava_teamlora.data.images import load_image

        if self.generator.vision is None:
            raise UserError(f"{self.generator.loaded.name}: is a text-only model and takes no pictures")
        image = load_image(Path(path).expanduser())
        anew = len(self.images) > self.waiting
        if anew:
            self.clear()
        self.images.append(image)
        self.waiting += 1
        size = f"{path}: {image.width} x {image.height} px"
        if self.waiting > 1:
            return f"{size}; picture {self.waiting} for the next question"
        return f"{size}; a new conversation begins with it" if anew else size

    def ask(self, question: str) -> Stream[str, None, None]:
        """Stream the answer. What came of it becomes part of the conversation, also when it is stopped midway.

        Raises:
            UserError: the prompt cannot be answered. After this and any other error the conversation is as before.
        """
        from llava_teamlora.generation import PromptTooLong, Query
        from llava_teamlora.generation.query import question as as_turn

        asked = (*self.turns, as_turn(question, self.waiting))
        query = Query(asked, tuple(self.images))
        pieces: list[str] = []
        try:
            for piece in self.generator.stream(query, self.decoding):
                pieces.append(piece)
                yield piece
        except PromptTooLong as error:
            raise UserError(f"{error}; shorten the question, or begin anew with /clear") from error
        except Exception:
            raise
        except BaseException:  # stopped by the reader, not failed
            if pieces:
                self._remember(asked, pieces)
            raise
        self._remember(asked, pieces)

    def _remember(self, asked: tuple[Turn, ...], pieces: list[str]) -> None:
        from llava_teamlora.data.records import Turn

        self.turns = [*asked, Turn("gpt", "".join(pieces))]
        self.waiting = 0


class Terminal:
    """Reads lines, obeys commands, prints answers.

    Args:
        conversation: what the lines go to.
        read: gives the next line; raises EOFError at the end.
        out: answers.
        err: mistakes.
    """

    def __init__(self, conversation: Conversation, read: Callable[[], str], out: TextIO, err: TextIO) -> None:
        self.conversation = conversation
        self.read = read
        self.out = out
        self.err = err
        self.commands: dict[str, Callable[[str], str | None]] = {
            "/image": self._image,
            "/clear": self._clear,
            "/help": lambda rest: _HELP,
            "/exit": lambda rest: None,
            "/quit": lambda rest: None,
        }

    def loop(self) -> int:
        """Until ``/exit``, the end of input, or Ctrl-C at the prompt; returns the exit status.

        Raises:
            BrokenPipeError: nobody reads the answers any more.
        """
        while True:
            try:
                line = self.read().strip()
            except (EOFError, KeyboardInterrupt):
                return 0
            except UnicodeDecodeError:
                print(f"error: {_NOT_TEXT}", file=self.err, flush=True)
                continue
            try:
                if line and not self.obey(line):
                    return 0
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
        if any("\ud800" <= letter <= "\udfff" for letter in line):  # what Python makes of bytes that are no text
            raise UserError(_NOT_TEXT)
        if not line.startswith("/"):
            self._answer(line)
            return True
        name, _, rest = line.partition(" ")
        if name not in self.commands:
            raise UserError(f"{name}: no such command; /help names them{nearest(name, self.commands)}")
        said = self.commands[name](rest.strip())
        if said is not None:
            print(said, file=self.out, flush=True)
        return said is not None

    def _answer(self, question: str) -> None:
        try:
            with closing(self.conversation.ask(question)) as answer:
                for piece in answer:
                    print(piece, end="", file=self.out, flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="", file=self.out)
        print(file=self.out, flush=True)

    def _image(self, rest: str) -> str:
        if not rest:
            raise UserError("/image needs a path: /image picture.png")
        return self.conversation.show(rest.strip("'\""))

    def _clear(self, rest: str) -> str:
        self.conversation.clear()
        return "the conversation is forgotten"


def add_parser(subparsers: Any) -> None:
    """Mount ``cli`` on the program's subparsers."""
    parser = subparsers.add_parser(
        "cli",
        help="talk to a model in the terminal",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run folder, one of its checkpoints, or an untuned base")
    add("--image", metavar="FILE", help="picture for the first question")
    add("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest word; 0.7 varies")
    add("--top_p", type=float, default=1.0, help="with a temperature: nucleus to sample from (default: 1)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search above 1 (default: 1)")
    add("--max_new_tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")
    add("--model_base", metavar="PATH", help="where a run's base lies now; what an original LLaVA's LoRA lies on")
    add("--vision_tower", metavar="PATH", help="likewise the tower of a base put together, or an original LLaVA's")
    add("--version", metavar="NAME", help="conversation template of an untuned base, as v1 or chat, its own chat "
        "template (default: v1; a run folder names its own)")  # fmt: skip
    add("--device", help="torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on an accelerator, else float32)")
    add("--bits", type=int, choices=(16, 8, 4), help="of the language model (default: as trained; a base: 16)")
    add("--static_cache", action="store_true", help="keys and values in a cache of fixed size")
    add("--compile", action="store_true", help="compiled steps (on CUDA a graph), in a cache of fixed size; the first "
        "answer waits minutes")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command ``cli``.

    Raises:
        UserError: no such model or first picture, or an impossible setting.
    """
    from llava_teamlora.generation import Decoding, Generator, Steps
    from llava_teamlora.generation.loading import load_quietly

    decoding = Decoding(
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.num_beams,
        arguments.seed,
    )
    loaded = load_quietly(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        version=arguments.version,
        model_base=arguments.model_base,
        vision_tower=arguments.vision_tower,
        bits=arguments.bits,
    )
    conversation = Conversation(Generator(loaded, Steps(arguments.static_cache, arguments.compile)), decoding)
    typed = sys.stdin.isatty()
    if arguments.image:
        said = conversation.show(arguments.image)
        print(said, file=sys.stderr)
    if typed:
        print(f"{loaded.name} is listening; /help names the commands", file=sys.stderr)
    return Terminal(conversation, _reader(typed), sys.stdout, sys.stderr).loop()


def _reader(typed: bool) -> Callable[[], str]:
    """``input`` with line editing and history where a person types; bare lines from a pipe."""
    if not typed:
        if isinstance(sys.stdin, io.TextIOWrapper):
            # A strict reader fails on the lines around a bad one too, for it decodes them as one block.
            sys.stdin.reconfigure(errors="surrogateescape")
        return lambda: input()
    try:
        import readline  # noqa: F401  (its import is what gives input() its editing keys)
    except ImportError:
        pass
    return lambda: input("> ")
