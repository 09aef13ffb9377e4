"""Samples of one row that do not see each other.

In: a model that is called with packed rows (see ``data/collator.py``). Out: the same model, whose language model keeps
the samples apart. transformers builds a block-diagonal mask, and FlashAttention its sequence lengths, from positions
that begin anew, but only where no attention mask and no cache stand in the way. Ours says which sample a token belongs
to; routed adapters read from it what is padding. It is taken away in front of the language model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from llava_teamlora.errors import UserError

_LENGTHS = (5, 7)
"""Tokens of the two samples that the check packs."""


def separate_samples(model: PreTrainedModel) -> None:
    """Make a model ready for packed rows; other batches pass as before.

    Args:
        model: the bare model, adapters put in already; it may be wrapped afterwards.
    """
    decoder: Any = model.get_decoder()
    decoder.register_forward_pre_hook(_leave_it_to_positions, with_kwargs=True)


def _leave_it_to_positions(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Only packed rows come with positions and without a cache: generation has one, other batches have no positions."""
    if kwargs.get("position_ids") is None or kwargs.get("past_key_values") is not None:
        return None
    return args, {**kwargs, "attention_mask": None, "use_cache": False}


@torch.no_grad()
def check_separation(model: Any, vocabulary: int, avoid: int | None, device: torch.device) -> None:
    """Pack two samples and see that neither the other sample nor the place in the row changes what the second says.

    Every process must call this at the same time, as a pass may be collective.

    Args:
        model: as it is called in training, wrapped or not.
        vocabulary: number of token ids.
        avoid: an id that may not be used (that of ``<image>``).
        device: of the model's inputs.

    Raises:
        UserError: something does: this model cannot be trained on packed rows.
    """
    usable = [token for token in range(min(vocabulary, 1000)) if token != avoid]
    first, second = _LENGTHS
    one, other, ours = (
        torch.tensor([usable[-(7 * i + start) % len(usable)] for i in range(length)], device=device)
        for start, length in ((1, first), (3, first), (2, second))
    )
    training = model.training
    model.eval()
    try:
        beside_one, beside_other = (_logits(model, [row, ours])[first:] for row in (one, other))
        alone = _logits(model, [ours])
    finally:
        model.train(training)
    scale = alone.std()
    seen = (beside_one - beside_other).abs().max() / scale
    moved = (beside_one - alone).abs().mean() / scale
    # What is masked counts exactly nothing, at any precision. Alone, kernels may round otherwise: half precision has
    # two to three digits.
    if not (seen < 1e-3 and moved < 3e-2):
        raise UserError(
            "--packing: samples of this model see each other in a packed row (they change logits by "
            f"{max(seen, moved):.1g} standard deviations); drop --packing True (--group_by_length True also saves "
            "padding)"
        )


def _logits(model: Any, samples: list[torch.Tensor]) -> torch.Tensor:
    """Logits ``[T, V]`` of samples in one row."""
    ids = torch.cat(samples)
    numbers = torch.cat([torch.full_like(sample, n) for n, sample in enumerate(samples, start=1)])
    positions = torch.cat([torch.arange(len(sample), device=sample.device) for sample in samples])
    rows = {"input_ids": ids, "attention_mask": numbers, "position_ids": positions}
    return model(**{name: row.unsqueeze(0) for name, row in rows.items()}).logits[0]
