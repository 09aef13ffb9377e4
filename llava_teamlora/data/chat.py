"""``--version chat``: the model's own chat template, which its tokenizer brings, with exact segments.

A chat template is a program that renders a whole conversation, so what is an answer in the text has to be found out. It
is, by construction: the conversation is rendered up to every question, with what asks for its answer, and up to every
answer; the answer is what the longer text has more. How an answer ends is seen once, on a conversation made for it.
Templates that write what came before differently once a conversation goes on cannot be trained on so, and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Turn
from llava_teamlora.data.segments import Segment, Template, given, trained
from llava_teamlora.errors import UserError

_NAMES = {"human": "user", "gpt": "assistant"}
_PROBE = (Turn("human", "question"), Turn("gpt", "answer"))

_TODAY = datetime(2024, 7, 26)
"""The day that Llama 3's own chat templates name where they are told none."""
_CODES = ("%Y", "%y", "%m", "%B", "%b", "%d", "%j", "%A", "%a", "%H", "%I", "%M", "%S", "%p")
# Differs from transformers, whose strftime_now tells the real time: a run must be answered as it was trained.
_CLOCK = "".join(
    [
        "{% macro strftime_now(form) -%}{{ form | replace('%-', '%')",
        *(f" | replace('{code}', '{_TODAY.strftime(code)}')" for code in _CODES),
        " }}{%- endmacro %}",
    ]
)


@dataclass(frozen=True)
class Chat(Template):
    """The chat template of a tokenizer, once :meth:`for_tokenizer` has been given one.

    Attributes:
        written: the chat template.
        ending: what follows an answer, up to its end token.
        tail: all that follows the last answer.
        tokenizer: renders.
    """

    written: str = ""
    ending: str = ""
    tail: str = ""
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def for_tokenizer(self, tokenizer: Any) -> Template:
        """See :meth:`Template.for_tokenizer`.

        Raises:
            UserError: no chat template, or one that fails, rewrites what came before, or ends answers in no token.
        """
        try:
            written = tokenizer.get_chat_template()
        except ValueError as error:
            raise UserError(
                f"--version chat takes the chat template of {tokenizer.name_or_path}, but it has none (base "
                "models have none, their instruction-tuned forms do); name another --version, such as cme or v1"
            ) from error
        bound = replace(self, written=written, tokenizer=tokenizer)
        prompt, whole = bound._rendered(_PROBE[:1]), bound._rendered(_PROBE)
        if not whole.startswith(prompt):
            raise bound._rewrites(prompt, whole)
        _, found, tail = whole[len(prompt) :].partition(_PROBE[1].text)
        if not found:
            raise UserError(f"{bound._who}: leaves an answer out of the text; name another --version")
        end = next((token for token in _tokens(tokenizer, tail) if token in _specials(tokenizer)), None)
        if end is None:
            raise UserError(
                f"{bound._who}: ends an answer in the text {tail!r} and in no token of the tokenizer's own, so that a "
                "model would never learn to stop; name another --version"
            )
        return replace(bound, end=end, ending=tail[: tail.index(end) + len(end)], tail=tail)

    def with_system(self, system: str) -> Template:
        """See :meth:`Template.with_system`; whether a chat template has a place for one shows once it renders."""
        return replace(self, system=system)

    def segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """See :meth:`Template.segments`.

        Raises:
            UserError: the chat template refuses the conversation, or writes its beginning anew once it goes on.
        """
        assert self.tokenizer is not None, "a chat template is first bound to its tokenizer"
        turns = [
            replace(turn, text=turn.text.replace(IMAGE_TOKEN, self.image)) if turn.role == "human" else turn
            for turn in turns
        ]
        whole = self._rendered(turns)
        if len(turns) % 2:
            return [given(whole)]  # a prompt: nothing is trained on, so nothing has to be told apart
        pieces: list[Segment] = []
        done = 0
        for last in range(1, len(turns), 2):
            start = len(self._beginning(self._rendered(turns[:last]), whole))
            stop = len(self._beginning(self._answered(turns[: last + 1]), whole))
            pieces += [given(whole[done:start]), trained(whole[start:stop])]
            done = stop
        return [*pieces, given(whole[done:])] if done < len(whole) else pieces

    def _answered(self, turns: Sequence[Turn]) -> str:
        """A conversation up to the end token of its last answer."""
        text = self._rendered(turns)
        if not text.endswith(self.tail):
            raise UserError(
                f"{self._who}: ends the answer {turns[-1].text!r:.80} otherwise than others ({self.tail!r})"
            )
        return text[: len(text) - len(self.tail)] + self.ending

    def _beginning(self, shorter: str, longer: str) -> str:
        if longer.startswith(shorter):
            return shorter
        raise self._rewrites(shorter, longer)

    def _rendered(self, turns: Sequence[Turn]) -> str:
        """A whole conversation, or a prompt up to where its answer begins."""
        from jinja2 import TemplateError

        if not turns:
            return ""
        messages = [{"role": _NAMES[turn.role], "content": turn.text} for turn in turns]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=_CLOCK + self.written,
                tokenize=False,
                add_generation_prompt=turns[-1].role == "human",
                enable_thinking=False,  # for templates that know it, such as Qwen 3's: the answer follows at once
            )
        except (TemplateError, ImportError, ValueError, TypeError) as error:
            raise UserError(f"{self._who}: cannot render the conversation ({error})") from error
        if self.system is not None and self.system.strip() not in text:
            raise UserError(f"{self._who}: leaves the system prompt {self.system!r:.50} out of the text; leave it out")
        return text

    @property
    def _who(self) -> str:
        return f"--version chat: the chat template of {self.tokenizer.name_or_path}"

    def _rewrites(self, shorter: str, longer: str) -> UserError:
        same = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))
        return UserError(
            f"{self._who}: writes the beginning of a conversation anew when it goes on ({shorter[same : same + 40]!r} "
            f"becomes {longer[same : same + 40]!r}), so that no answer in it can be told from what surrounds it; use "
            "records of one question and answer, or another --version"
        )


def _tokens(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)


def _specials(tokenizer: Any) -> set[str]:
    """Tokens that no text melts into: the special ones and others that were added."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
