"""TeamLoRA's configuration."""

from dataclasses import dataclass, field

from llava_teamlora.tuners.routed.config import RoutedConfig


@dataclass
class TeamLoraConfig(RoutedConfig):
    """Configuration of TeamLoRA: the fields of RoutedConfig, with the interaction matrix M learned by default.

    ``interaction_init="identity", train_interaction=False`` is the paper's ablation "collaboration only".
    """

    method = "teamlora"

    interaction_init: str = field(default="uniform", metadata={"help": "uniform, literal or identity."})
    train_interaction: bool = field(default=True, metadata={"help": "False fixes M at the identity."})
