"""Bases in memory, each once, under any number of models.

In: what names a base. Out: a tree of modules of its own over the tensors of all others of that base: adapters put into
one of them are not in the others, and its weights take no memory again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, load_base
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.models.spec import BaseSpec

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class _Held:
    key: str
    projector: str | None
    base: Base


class BasesInMemory:
    """Loads a base where it is not there yet. What is there is known by its content, not by its place on disk."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def load(self, spec: BaseSpec, dtype: torch.dtype, attention: str, device: str, fingerprint: str | None) -> Base:
        """A base on its device, in evaluation mode, over tensors that others may use too: nobody may write to them.

        Args:
            spec: which base; without ``projector_weights`` any projector will do.
            dtype: see ``load_base``.
            attention: see ``load_base``.
            device: where it is put.
            fingerprint: of the content wanted, where it is known.

        Raises:
            UserError: see ``load_base``.
        """
        found = self._find(spec, (dtype, attention, device), fingerprint or _fingerprint_on_disk(spec))
        if found is None:
            found = load_base(spec, dtype, attention, device)
            if spec.bits == 16:
                move(found.model, device)  # now: moving one of several trees would part its buffers from the others'
            found.model.eval()
            key = _key(spec, (dtype, attention, device), base_fingerprint(spec))  # a hub model is in the cache now
            self._held.append(_Held(key, spec.projector_weights, found))
        return replace(found, model=same_tensors(found.model))

    def _find(self, spec: BaseSpec, form: tuple[object, ...], fingerprint: str | None) -> Base | None:
        if fingerprint is None:
            return None
        key, projector = _key(spec, form, fingerprint), spec.projector_weights
        wanted = (held for held in self._held if held.key == key)
        return next((held.base for held in wanted if projector in (None, held.projector)), None)


def _key(spec: BaseSpec, form: tuple[object, ...], fingerprint: str) -> str:
    """What two loads of the same weights have in common; paths are not in it."""
    plain = replace(
        spec,
        model="",
        vision_tower=None if spec.vision_tower is None else "one",
        projector_weights=None,
        model_base=None,
        extra_tokens=tuple(spec.extra_tokens),
    )
    return repr((fingerprint, form, plain))


def _fingerprint_on_disk(spec: BaseSpec) -> str | None:
    try:
        return base_fingerprint(spec)
    except UserError:  # not in the cache yet, or nothing there, which loading says
        return None


def same_tensors(model: AnyModule) -> AnyModule:
    """Another tree of modules over the very same parameters and buffers.

    Args:
        model: without an adapter; 8-bit linears are made ready for it.
    """
    for module in model.modules():
        # An 8-bit linear takes its scales from its weight at the first call, away from all others of that weight.
        if hasattr(module, "init_8bit_state") and getattr(module.weight, "CB", None) is not None:
            module.init_8bit_state()  # pyright: ignore[reportCallIssue]
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(module, "state", None)
        tensors += (
            [part for part in vars(state).values() if isinstance(part, torch.Tensor)] if state is not None else []
        )
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def own_biases(model: nn.Module) -> None:
    """Part a tree's biases from those of others, where an adapter is to write its own into them."""
    for module in model.modules():
        bias = module._parameters.get("bias")
        if bias is not None:
            module._parameters["bias"] = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def move(model: AnyModule, device: str) -> AnyModule:
    """A model on its device.

    Raises:
        UserError: the device cannot be used.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device!r} cannot be used ({str(error).splitlines()[0]})") from error
