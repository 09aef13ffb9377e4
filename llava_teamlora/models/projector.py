"""The projector between vision tower and language model, of every kind that LLaVA knows, and LLaVA's files of it.

``linear``, ``mlpNx_gelu`` (N linears with GELU between, N >= 1) and ``identity``. The kind stands in the model's config
as ``mm_projector_type``; a config without it means LLaVA-1.5's ``mlp2x_gelu``, which is transformers' own. Source:
LLaVA's ``multimodal_projector/builder.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaConfig
from transformers.activations import ACT2FN

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import gathered, read_weights
from llava_teamlora.models.vision import count_layers

PROJECTOR_TYPE = "mlp2x_gelu"
"""LLaVA-1.5's."""

_MLP = re.compile(r"mlp([1-9]\d?)x_gelu")
_KEY = re.compile(r"(?:.*\.)?mm_projector\.(?:(\d+)\.)?(weight|bias)")


class Projector(nn.Module):
    """Linears with an activation between; none is the identity.

    With two it is transformers' ``LlavaMultiModalProjector``, under the same names: ``linear_1``, ``linear_2``.

    Args:
        d_in: width of the vision features.
        d_out: width of the language model.
        linears: how many.
        bias: whether they have biases.
        activation: transformers' name of it.
    """

    def __init__(self, d_in: int, d_out: int, linears: int, bias: bool = True, activation: str = "gelu") -> None:
        super().__init__()
        self.act = ACT2FN[activation]
        self.linears = linears
        for number in range(1, linears + 1):
            self.add_module(f"linear_{number}", nn.Linear(d_in if number == 1 else d_out, d_out, bias=bias))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``[..., D_in]`` -> ``[..., D_out]``."""
        for number in range(1, self.linears + 1):
            if number > 1:
                features = self.act(features)
            features = self.get_submodule(f"linear_{number}")(features)
        return features


def count_linears(kind: str) -> int:
    """Linears in a projector of this kind.

    Raises:
        UserError: an unknown kind.
    """
    if kind in ("identity", "linear"):
        return int(kind == "linear")
    match = _MLP.fullmatch(kind)
    if match is None:
        raise UserError(
            f"--mm_projector_type {kind!r} is not linear, identity or mlpNx_gelu (such as {PROJECTOR_TYPE})"
        )
    return int(match.group(1))


def projector_type(config: LlavaConfig) -> str:
    """The kind of a LLaVA's projector."""
    return getattr(config, "mm_projector_type", PROJECTOR_TYPE)


def build_projector(config: LlavaConfig) -> Projector:
    """A projector as the config describes it, its weights drawn as torch does.

    They are the same each time, whatever has been drawn before: a run without its adapter is what it started from.

    Raises:
        UserError: an unknown kind, or an identity between unequal widths.
    """
    kind = projector_type(config)
    linears = count_linears(kind)
    vision: Any = config.vision_config
    text: Any = config.text_config
    d_in, d_out = vision.hidden_size * count_layers(config.vision_feature_layer), text.hidden_size
    if not linears and d_in != d_out:
        raise UserError(
            f"--mm_projector_type identity: the vision features are {d_in} wide and the language model {d_out}; choose "
            f"linear or {PROJECTOR_TYPE}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the CPU alone; torch.manual_seed is of every device
        return Projector(d_in, d_out, linears, config.multimodal_projector_bias, config.projector_hidden_act)


def llava_keys(kind: str, projector: nn.Module) -> dict[str, str]:
    """Names of a projector's weights -> LLaVA's for them, after ``mm_projector.``.

    LLaVA counts the activations too: the linears of an ``mlpNx_gelu`` are 0, 2, 4…; a ``linear`` has no number.
    """
    return {name: _llava_key(kind, name) for name in projector.state_dict()}


def _llava_key(kind: str, name: str) -> str:
    linear, _, weight = name.partition(".")
    number = int(linear.removeprefix("linear_"))
    return weight if kind == "linear" else f"{2 * (number - 1)}.{weight}"


def llava_projector(weights: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """A run's projector under LLaVA's names, as its pretraining saves it.

    Args:
        weights: a run's; those of the projector are taken.
        kind: its ``mm_projector_type``.
    """
    inside = {key.rpartition(f"{PROJECTOR}.")[2]: value for key, value in weights.items() if PROJECTOR in key}
    return {f"model.mm_projector.{_llava_key(kind, name)}": value for name, value in inside.items()}


def write_projector(weights: Mapping[str, torch.Tensor], kind: str, path: Path) -> None:
    """Write a run's projector as ``mm_projector.bin``, which ``--pretrain_mm_mlp_adapter`` takes."""
    torch.save(llava_projector(weights, kind), path)


def load_projector(projector: nn.Module, kind: str, path: str) -> None:
    """Put LLaVA's pre-trained projector (``mm_projector.bin``, with or without ``model.`` before its keys) into ours.

    Args:
        projector: to be filled.
        kind: its ``mm_projector_type``.
        path: of the file; safetensors with the same keys will do too.

    Raises:
        UserError: no such file, a projector of another kind, or keys or shapes that do not fit.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file (--pretrain_mm_mlp_adapter)")
    fill_projector(projector, kind, read_weights(path), path)


def fill_projector(projector: nn.Module, kind: str, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Put weights under LLaVA's names into a projector.

    Args:
        projector: to be filled.
        kind: its ``mm_projector_type``.
        weights: the projector's and no others.
        source: where they are from, for messages.

    Raises:
        UserError: see :func:`load_projector`.
    """
    names = {theirs: ours for ours, theirs in llava_keys(kind, projector).items()}
    there = _kind_of(weights)
    if there is not None and there != kind:
        raise UserError(f"{source}: holds a {there} projector, but the model's is {kind} (--mm_projector_type)")
    renamed: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        name = names.get(key.rpartition("mm_projector.")[2]) if "mm_projector." in key else None
        if name is None:
            expected = ", ".join(f"mm_projector.{theirs}" for theirs in names) or "nothing"
            raise UserError(f"{source}: unexpected key {key!r}; a {kind} projector has {expected}")
        renamed[name] = value
    with torch.no_grad(), gathered(list(projector.parameters())):
        wanted = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in renamed.items()}
        if wanted != found:
            raise UserError(f"{source}: holds {found}, but the model's projector is {wanted}")
        projector.load_state_dict(renamed)


def _kind_of(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The kind of projector that these are the weights of; None where that cannot be told."""
    matches = [match for key in weights if (match := _KEY.fullmatch(key))]
    linears = {match.group(1) for match in matches if match.group(2) == "weight"}
    if not linears:
        return None
    return "linear" if None in linears else f"mlp{len(linears)}x_gelu"
