"""Gradient checkpointing without the work that nobody reads.

A checkpointed layer is computed a second time in the backward pass, for what its operations keep. Where the MLP comes
last in its layer, its output only goes into the layer's, and that is kept by nobody: the recomputation may leave the
down projection out. It says so by a context variable, set in the second of the two contexts that `skipping_contexts`
hands to torch's non-reentrant checkpoint; the MLP of mlp.py asks `is_recomputing`. Gradients do not change in a bit.

Example:
    >>> model.gradient_checkpointing_enable({"use_reentrant": False})
    >>> skip_recomputed_outputs(model)
"""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from functools import partial

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_teamlora.tuners.routed.choice import is_hooked

# In older transformers (5.17) a checkpointed layer's own hooks run inside its region, and may read what is left out.
_HOOKS_INSIDE = "__call__" in vars(GradientCheckpointingLayer)
_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


def skip_recomputed_outputs(model: nn.Module) -> int:
    """Let the checkpointed layers of a model leave out what their recomputation does not need.

    To be called after checkpointing is switched on, and again if it is switched on anew. Layers that are checkpointed
    the reentrant way, or with contexts of their own, stay as they are; `torch.compile` over a checkpointed layer sees
    by itself what is not needed, and takes no such contexts.

    Args:
        model: a transformers model, or one of peft's around it.

    Returns:
        How many modules hold another checkpoint function now.
    """
    changed = 0
    for module in model.modules():
        # Differs from passing context_fn in gradient_checkpointing_kwargs, which works as well: a Trainer writes those
        # into its checkpoints.
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if not isinstance(checkpoint, partial) or (_HOOKS_INSIDE and is_hooked(module)):
            continue
        given = checkpoint.keywords
        if given.get("use_reentrant") is False and "context_fn" not in given and not given.get("debug"):
            module._gradient_checkpointing_func = partial(checkpoint, context_fn=skipping_contexts)  # pyright: ignore
            changed += 1
    return changed


def skipping_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for a checkpointed region's first pass and its recomputation: a checkpoint's `context_fn`.

    The region must be one decoder layer of a transformers model. In one that reads the MLP's output again, what is
    left out is NaN, and so are the gradients.
    """
    return nullcontext(), _Recomputation()


def is_recomputing() -> bool:
    """Whether this is the recomputation of a checkpointed layer; never in what torch.compile traces."""
    return not torch.compiler.is_compiling() and _recomputing.get()


class _Recomputation(AbstractContextManager[None]):
    """Entered once for each backward pass over a region: with retain_graph more than once."""

    def __enter__(self) -> None:
        self._token: Token[bool] = _recomputing.set(True)

    def __exit__(self, *error: object) -> None:
        _recomputing.reset(self._token)
