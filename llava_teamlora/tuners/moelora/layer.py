"""MoELoRA's layer: k whole LoRA experts, weighted by the router's softmax.

Source: the TeamLoRA paper's section 3.2 and its MoELoRA baseline. h = x W_0 + s * sum_i phi_i x A_i B_i. With
A = [A_1 ... A_k] one product gives every x A_i, so this is TeamLoRA's layer with M = I. The public MoELoRA of Liu et
al. routes by task id instead.
"""

from llava_teamlora.tuners.routed.layer import RoutedLinear


class MoeLoraLinear(RoutedLinear):
    """A linear with MoELoRA adapters: expert i is the LoRA of A's and B's i-th slices."""

    prefix = "moelora_"
