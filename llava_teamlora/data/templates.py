"""The conversation templates by name.

In: a name of ``--version``. Out: a :class:`Template`. What carries a loss are the answers with what ends them, in
``v0`` and ``llava_llama_3`` also the marks of the turns, as where they come from. Two follow the model's tokenizer, to
which ``Template.for_tokenizer`` fits any of them: ``cme`` takes its end, ``chat`` all of its own chat template.

Source: LLaVA ``conversation.py`` and the ``preprocess_*`` functions of its ``train.py``; for ``llava_llama_3`` those of
LLaVA-NeXT. Differs from them where theirs go wrong (tests/data/test_golden_ids.py names every case):

- LLaVA leaves out an empty answer's end, so that the next question follows at once. Here an empty answer has an end.
- LLaVA counts its masks by tokenizing pieces anew. Where the sum is off (an answer that holds ``ASSISTANT: `` or
  ``[/INST] ``; ``mpt`` and ``chatml_direct``, nearly always) it masks the whole conversation or is off by a token.
- LLaVA's ``train.py --version v0`` sets no template and so trains on ``v1``'s prompts; here ``v0`` is ``v0``.
"""

from __future__ import annotations

from dataclasses import replace

from llava_teamlora.constants import IMAGE_TOKEN, IMAGE_WRAPPED
from llava_teamlora.data.chat import Chat
from llava_teamlora.data.segments import OwnEnd, Plain, Segment, Template, given, trained
from llava_teamlora.errors import UserError, nearest


def _vicuna(name: str, system: str, image: str = IMAGE_TOKEN) -> Template:
    """No space after ``</s>``."""
    return Template(
        name,
        opening=(given(system + " "),),
        human=(given("USER: {} ASSISTANT:"),),
        gpt=(trained(" {}</s>"),),
        end="</s>",
        image=image,
        system=system,
    )


def _alpaca(name: str, system: str, image: str = IMAGE_TOKEN) -> Template:
    """``### ``, with no token for an end: the next turn's ``###`` is it, and trained on in front of questions too."""
    return Template(
        name,
        opening=(given(system + "\n\n"),),
        human=(trained("###"), given(" Human: {}\n"), trained("### Assistant:")),
        gpt=(trained(" {}\n"),),
        closing=(trained("### "),),
        stop="###",
        image=image,
        system=system,
    )


def _llama_2(name: str, system: str, bos: str) -> Template:
    """``bos`` stands before every question; the first one's is the tokenizer's own."""
    return Template(
        name,
        opening=(given(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n" if system else "[INST] "),),
        human=(given("{} [/INST]"),),
        gpt=(trained(" {} </s>"),),
        between=(given(f"{bos}[INST] "),),
        end="</s>",
        system=system or None,
    )


def _chatml(name: str, system: str) -> Template:
    """ChatML as LLaVA writes it: no newline after ``<|im_end|>``."""
    return Template(
        name,
        opening=(given(f"<|im_start|>system\n{system}<|im_end|>"),),
        human=(given("<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n"),),
        gpt=(trained("{}<|im_end|>"),),
        end="<|im_end|>",
        system=system,
    )


def _llama_3(name: str, system: str) -> Template:
    """The marks of all turns are trained on (all but the bos, whose label no position predicts), as in LLaVA-NeXT."""
    start, stop, end = trained("<|start_header_id|>"), trained("<|end_header_id|>"), trained("<|eot_id|>")
    return Template(
        name,
        opening=(start, given("system"), stop, given(f"\n\n{system}"), end),
        human=(
            start,
            given("user"),
            stop,
            given("\n\n{}"),
            end,
            start,
            trained("assistant"),
            stop,
            trained("\n\n"),
        ),
        gpt=(trained("{}<|eot_id|>"),),
        end="<|eot_id|>",
        trim=True,
        system=system,
    )


_HELPFUL = "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
_USER = "A chat between a curious user and an artificial intelligence assistant. "
_HUMAN = "A chat between a curious human and an artificial intelligence assistant. "
_MMTAG = (
    "The assistant is able to understand the visual content that the user provides, and assist the user with a variety "
    "of tasks using natural language.The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
_MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."

_CME = OwnEnd(
    "cme",
    opening=(),
    human=(Segment("{}</s>", trained=False, apart=True),),
    gpt=(Segment("{}</s>", trained=True, apart=True),),
    end="</s>",
)
"""The text-only form of the CME example that TeamLoRA's authors published: nothing but texts and their ends, each
tokenized by itself as their build_dataset.py does, so that SentencePiece's space stands before an answer as well."""

_V0 = _alpaca("v0", _HUMAN + _HELPFUL.format("human"))
_V1 = _vicuna("v1", _USER + _HELPFUL.format("user"))
_PLAIN = Plain("plain", opening=(), human=(), gpt=(trained("{}\n"),), stop="\n")
_MISTRAL = _llama_2("mistral_instruct", "", bos="")
_CHATML = _chatml("chatml_direct", "Answer the questions.")
_LLAMA_3 = _llama_3("llava_llama_3", _VISION)

TEMPLATES: dict[str, Template] = {
    "v1": _V1,
    "vicuna_v1": _V1,
    "plain": _PLAIN,
    "v0_plain": _PLAIN,
    "v0": _V0,
    "default": _V0,
    "llava_v0": _V0,
    "v0_mmtag": _alpaca("v0_mmtag", _USER + _MMTAG, image=f"<Image>{IMAGE_TOKEN}</Image>"),
    "llava_v1": _vicuna("llava_v1", _HUMAN + _HELPFUL.format("human")),
    "v1_mmtag": _vicuna("v1_mmtag", _USER + _MMTAG, image=f"<Image>{IMAGE_TOKEN}</Image>"),
    "llama_2": _llama_2("llama_2", _LLAMA_2, bos="<s>"),
    "llava_llama_2": _llama_2("llava_llama_2", _VISION, bos="<s>"),
    "mistral_instruct": _MISTRAL,
    "llava_mistral_instruct": _MISTRAL,
    "mpt": _chatml("mpt", _MPT),
    "chatml_direct": _CHATML,
    "mistral_direct": _CHATML,
    "llama_3": _LLAMA_3,
    "llava_llama_3": _LLAMA_3,
    "cme": _CME,
    "chat": Chat("chat", opening=(), human=(), gpt=(), bare=True),
}
"""Names for ``--version``: those of LLaVA, two of LLaVA-NeXT, our ``llama_3``, ``cme`` and ``chat``."""


def get_template(version: str, im_start_end: bool = False) -> Template:
    """The template of that name.

    Args:
        version: one of TEMPLATES.
        im_start_end: whether ``<im_start>`` and ``<im_end>`` stand around every picture (``--mm_use_im_start_end``).

    Raises:
        UserError: an unknown name. LLaVA falls back to ``vicuna_v1`` in silence; we never do.
    """
    if version not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise UserError(f"--version {version!r} is not a template (known: {known}){nearest(version, TEMPLATES)}")
    template = TEMPLATES[version]
    if not im_start_end:
        return template
    return replace(template, image=template.image.replace(IMAGE_TOKEN, IMAGE_WRAPPED))
