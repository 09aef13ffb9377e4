"""MoSLoRA's layer: a LoRA with a learned mixer of its r subspaces between A and B.

Source: Mixture-of-Subspaces in Low-Rank Adaptation (Wu et al., 2024), section 3. h = x W_0 + s * x A W_AB B. Nothing
depends on the input but x itself, so the adapter can be merged.
"""

import torch
from torch import Tensor, nn

from llava_teamlora.tuners.low_rank.layer import LowRankLinear, init_projection
from llava_teamlora.tuners.moslora.config import MosLoraConfig


class MosLoraLinear(LowRankLinear):
    """A linear with MoSLoRA adapters. Weights of an adapter, each without bias:

    - A ``[r, D_in]``, B ``[D_out, r]``.
    - mixer ``[r, r]``, W_AB in the paper; it maps x A to what B reads.
    """

    prefix = "moslora_"
    weight_names = ("A", "B", "mixer")

    def build_weights(self, config: MosLoraConfig) -> dict[str, nn.Module]:
        """Return a new adapter's weights; B starts at zero, so that the output is the base model's."""
        mixer = nn.Linear(config.r, config.r, bias=False)
        if config.mixer_init == "orthogonal":
            nn.init.orthogonal_(mixer.weight)
        else:
            init_projection(mixer.weight)
        return {**super().build_weights(config), "mixer": mixer}

    def update(self, adapter: str, x: Tensor) -> Tensor:
        """Return what one adapter adds to the output, ``[..., D_out]``."""
        a, mixer, b = (self.linear(name, adapter) for name in ("A", "mixer", "B"))
        x = self._cast_input_dtype(x, a.weight.dtype)
        z = mixer(a(self.adapter_dropout[adapter](x)))  # [..., r]
        return b(z) * self.scaling[adapter]

    def delta_weight(self, adapter: str) -> Tensor:
        """Return s * (A W_AB B) as a weight, ``[D_out, D_in]``, float32 or wider."""
        a, mixer, b = (self.linear(name, adapter).weight for name in ("A", "mixer", "B"))
        dtype = torch.promote_types(a.dtype, torch.float32)
        return self.scaling[adapter] * (b.to(dtype) @ mixer.to(dtype) @ a.to(dtype))
