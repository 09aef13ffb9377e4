"""MoELoRA's configuration."""

from dataclasses import dataclass

from llava_teamlora.tuners.routed.config import RoutedConfig


@dataclass
class MoeLoraConfig(RoutedConfig):
    """Configuration of MoELoRA: the fields of RoutedConfig, by default without an interaction matrix.

    ``interaction_init="uniform", train_interaction=True`` is the paper's ablation "competition only".
    """

    method = "moelora"
