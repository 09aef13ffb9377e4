"""A LLaVA script's flags -> ours, with a notice of what became of each.

In: the words of a command line (those of a ``--config`` file among them). Out: :class:`Translation`. The flags
themselves stand in old_flags.py.

The rule, in one place: a command line is LLaVA's if it has a flag that only LLaVA's train.py has. Then what it does not
say is as LLaVA's train.py has it: without ``--lora_enable True``, ``--tune_mm_mlp_adapter True`` and ``--method``
everything is fine-tuned, and other defaults of LLaVA's hold where they mean another training than ours. What is said
always wins, and of a flag's old and new name the one that stands later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.training.aim import ALL_LINEAR
from llava_teamlora.training.flags.old_flags import (
    DEFAULTS,
    LLAVA,
    LORA_DEFAULTS,
    LORA_FLAGS,
    METHOD_FLAGS,
    TOWER_DEFAULTS,
    TRANSFORMERS,
    VALUES,
    Old,
    is_off,
    is_true,
)

OLD_NAMES = frozenset({*LLAVA, *TRANSFORMERS, *METHOD_FLAGS, *LORA_FLAGS})
"""All flags that are understood though they are none of ours."""

_LLAVAS = frozenset({*LLAVA, *METHOD_FLAGS, *LORA_FLAGS})
_WITHOUT_ADAPTER = ("full", "projector")


@dataclass(frozen=True)
class Translation:
    """A command line in today's flags.

    Attributes:
        argv: its words.
        defaults: values that hold for flags it does not say, other than our own.
        notice: what became of each old flag, for the user; empty if there was none.
    """

    argv: list[str]
    defaults: dict[str, Any]
    notice: str


@dataclass
class _Item:
    """One flag of a command line with its values; words before the first flag have no name."""

    name: str
    words: list[str]
    values: list[str]

    @property
    def value(self) -> str:
        """Its value; a bare flag says True."""
        return " ".join(self.values) if self.values else "True"


@dataclass
class _Writer:
    """What has been translated so far."""

    argv: list[str] = field(default_factory=list)
    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def put(self, item: _Item, words: list[str], why: str, shown: str = "") -> None:
        """Put words in an item's place; without a reason there is nothing to tell."""
        self.argv += words
        if why:
            old = " ".join([f"--{item.name}", *item.values])
            self.lines.append((old, shown or " ".join(words) or "not needed", why))


def translate(argv: Sequence[str]) -> Translation:
    """Put a command line into today's flags.

    Raises:
        UserError: an old flag asks for what is not there any more, or the flags contradict each other.
    """
    items = _items(argv)
    said = {item.name: item.value for item in items}
    is_llavas = not _LLAVAS.isdisjoint(said)
    method = _method(said) if is_llavas else None
    writer = _Writer()
    for item in items:
        if item.name in METHOD_FLAGS:
            _method_flag(writer, item, method, "method" in said)
        elif item.name in LORA_FLAGS:
            _lora_flag(writer, item, said)
        else:
            _plain_flag(writer, item)
    defaults: dict[str, Any] = {}
    if is_llavas:
        if "method" not in said:
            writer.argv += ["--method", str(method)]
        defaults = _defaults(said, {item.name for item in _items(writer.argv)}, method)
    return Translation(writer.argv, defaults, _notice(writer.lines, defaults, is_llavas, method))


def _items(argv: Sequence[str]) -> list[_Item]:
    """Words -> flags with their values. ``--a-b=c`` is ``--a_b c``."""
    items: list[_Item] = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            items.append(_Item(name.replace("-", "_"), [word], [value] if equals else []))
        elif items:
            items[-1].words.append(word)
            items[-1].values.append(word)
        else:
            items.append(_Item("", [word], [word]))
    return items


def _method(said: dict[str, str]) -> str:
    """The method a LLaVA command line means.

    Raises:
        UserError: its flags contradict each other, or leave open what is meant.
    """
    lora, projector = is_true(said.get("lora_enable", "False")), is_true(said.get("tune_mm_mlp_adapter", "False"))
    method = said.get("method")
    if lora and projector:
        raise UserError("--lora_enable True and --tune_mm_mlp_adapter True: give one (LLaVA would train no LoRA then)")
    if projector and method not in (None, "projector"):
        raise UserError(f"--tune_mm_mlp_adapter True trains the projector alone, --method {method} more: give one")
    if lora and method in _WITHOUT_ADAPTER:
        raise UserError(f"--lora_enable True and --method {method}, which has no adapter: give one")
    found = method or ("lora" if lora else "projector" if projector else "full")
    loose = next((name for name in said if name in LORA_FLAGS), None)
    if loose and found == "full" and method is None and "lora_enable" not in said:
        raise UserError(
            f"--{loose} without --lora_enable True: LLaVA would ignore it and fine-tune everything. Add --lora_enable "
            "True, or choose with --method"
        )
    if found == "full" and is_true(said.get("freeze_backbone", "False")):
        raise UserError(
            "--freeze_backbone True without LoRA leaves only lm_head and projector to train in LLaVA; here --method "
            "projector (or --tune_mm_mlp_adapter True) trains the projector, --method full everything"
        )
    return found


def _method_flag(writer: _Writer, item: _Item, method: str | None, chosen: bool) -> None:
    """A flag that chooses the method; ``--method`` itself is written once, at the end."""
    if not is_true(item.value) and not is_off(item.value):
        raise UserError(f"--{item.name} {item.value!r} is not True or False")
    if is_off(item.value):
        return
    if item.name == "freeze_backbone":
        writer.put(item, [], "only --method full would train the base")
    elif chosen:
        writer.put(item, [], "that method's own options and targets hold", f"--method {method}, as given")
    elif item.name == "lora_enable":
        why = "all linears of the language model but lm_head, as in LLaVA; the vision tower stays as it is"
        writer.put(item, [], why, f"--method lora --target_modules {ALL_LINEAR}")
    else:
        writer.put(item, [], "the projector alone is trained", "--method projector")


def _lora_flag(writer: _Writer, item: _Item, said: dict[str, str]) -> None:
    """``--lora_r`` and the like are options of whatever adapter is trained."""
    new = LORA_FLAGS[item.name]
    if "method" not in said and not is_true(said.get("lora_enable", "False")):
        writer.put(item, [], "without --lora_enable True there is no LoRA, as in LLaVA")
    elif new == "bias" and item.value == "none":
        writer.put(item, [], "biases are not trained unless asked for")
    else:
        writer.put(item, [f"--{new}", *item.values], "renamed: every method has it")


def _plain_flag(writer: _Writer, item: _Item) -> None:
    """Any other flag: one by one, whatever the rest says.

    Raises:
        UserError: what it asks for is not there any more; says what to do.
    """
    old = _rule(item)
    if old is None:
        writer.argv += item.words
    elif not old.accepts(item.value.lower()):
        raise UserError(f"--{item.name} {item.value}: {old.instead}")
    elif old.new is None:
        writer.put(item, [], old.why)
    else:
        writer.put(item, [f"--{old.new}", *([old.value] if old.value is not None else item.values)], old.why)


def _rule(item: _Item) -> Old | None:
    """What becomes of a flag; None: it is one of today's."""
    applies, old = VALUES.get(item.name, (None, None))
    if applies is not None and applies(item.value.lower()):
        return old
    old = LLAVA.get(item.name) or TRANSFORMERS.get(item.name)
    off = old is not None and old.value is not None and is_off(item.value)
    unset = item.name in LLAVA and item.value in ("", "None")
    return Old() if off or unset else old


def _defaults(said: dict[str, str], today: set[str], method: str | None) -> dict[str, Any]:
    """LLaVA's defaults for what a command line of its does not say."""
    found = dict(DEFAULTS)
    if "vision_tower" in today:
        found.update(TOWER_DEFAULTS)
    if method == "lora" and "method" not in said:
        found.update(LORA_DEFAULTS, target_modules=ALL_LINEAR)
        if "match_params" in today:
            del found["r"]
    return {name: value for name, value in found.items() if name not in today}


def _notice(lines: list[tuple[str, str, str]], defaults: dict[str, Any], is_llavas: bool, method: str | None) -> str:
    """One block of text: a line a flag."""
    if not lines and not is_llavas:
        return ""
    width = max((len(old) for old, _, _ in lines), default=0)
    block = ["Flags of LLaVA and of older transformers, in today's words (docs/from_llava.md):"]
    block += [f"  {old:<{width}}  ->  {new}  ({why})" for old, new, why in lines]
    if is_llavas:
        block.append(f"  this trains: --method {method}" + (" (all of the language model)" if method == "full" else ""))
    if defaults:
        block.append("  not said, so LLaVA's own defaults hold:")
        block += [f"    --{name} {value}" for name, value in defaults.items()]
    return "\n".join(block)
