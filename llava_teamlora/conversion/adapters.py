"""A run folder or adapter folder -> another one: method converted, experts dropped or cloned.

In: a folder with an adapter. Out: a folder of the same kind. Of a run folder tokenizer and processor are copied, and
``run.yaml`` says the new method, its options and where it comes from; checkpoints, trainer states and scores stay
behind, for they belong to the former adapter.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig

from llava_teamlora.constants import ROUTING_FILE
from llava_teamlora.errors import UserError
from llava_teamlora.files import new_folder, refuse_used_folder
from llava_teamlora.models.fingerprint import file_sha256
from llava_teamlora.run_card import RUN_FILE, RunCard, library_versions, read_run_card, write_run_card
from llava_teamlora.tuners import METHODS
from llava_teamlora.tuners.routed.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    method_name,
    read_adapter,
    write_adapter,
)
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.conversion import lora_to_teamlora, moelora_to_teamlora, teamlora_to_moelora
from llava_teamlora.tuners.routed.surgery import clone_all_experts, clone_expert, drop_experts

TARGETS = ("teamlora", "moelora")
ALL = "all"

# Of training or of the former adapter, not of the one that is written.
_LEFT_BEHIND = {
    CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, ROUTING_FILE, "README.md", "summary.json", "trainer_state.json",
    "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What is asked of an adapter; first the conversion, then surgery.

    Attributes:
        to: method to convert to, of TARGETS; None keeps the method.
        num_experts: for a LoRA: experts to cut it into.
        interaction_init: for a LoRA: how the interaction matrix starts.
        keep_interaction: TeamLoRA to MoELoRA: keep a learned interaction matrix.
        drop: experts to drop.
        renormalise: the softmax of the experts left takes over the share of the dropped.
        clone: number of the expert to clone, or ``all``; None clones none.

    Raises:
        UserError: nothing is asked, or things that do not go together.
    """

    to: str | None = None
    num_experts: int | None = None
    interaction_init: str | None = None
    keep_interaction: bool = False
    drop: Sequence[int] = ()
    renormalise: bool = False
    clone: int | str | None = None

    def __post_init__(self) -> None:
        if self.to is None and not self.drop and self.clone is None:
            raise UserError("nothing to do: give --to, --drop_expert or --clone_expert")
        if self.drop and self.clone is not None:
            raise UserError("--drop_expert and --clone_expert at once leave open which numbers are meant; run twice")
        if self.renormalise and not self.drop:
            raise UserError("--renormalise goes with --drop_expert")
        if self.keep_interaction and self.to != "moelora":
            raise UserError("--keep_interaction goes with --to moelora")


def convert_folder(source: Path, output: Path, change: Change) -> Adapter:
    """Change the adapter of a run folder or adapter folder and write it as a folder of the same kind.

    Returns:
        The new adapter.

    Raises:
        UserError: no adapter there, a change that cannot be made, or an output that is there already.
    """
    refuse_used_folder(output)
    card = read_run_card(source) if (source / RUN_FILE).is_file() else None
    try:
        adapter = apply(read_adapter(source), change)
    except ValueError as error:
        raise UserError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    with new_folder(output) as folder:
        write_adapter(adapter, folder)
        for path in sorted(source.iterdir()) if card is not None else ():
            if path.is_file() and path.name not in _LEFT_BEHIND and not path.name.startswith(("rng_state", ".")):
                shutil.copy2(path, folder / path.name)
        if card is not None:
            write_run_card(folder, _new_card(card, source, adapter, change))
    return adapter


def apply(adapter: Adapter, change: Change) -> Adapter:
    """Change an adapter.

    Raises:
        ValueError: if it cannot be done; the message says why.
        UserError: if an option does not fit the adapter's method.
    """
    if change.to is not None:
        adapter = _convert(adapter, change)
    elif change.num_experts is not None or change.interaction_init is not None:
        raise UserError("--num_experts and --interaction_init go with --to, from a LoRA")
    if change.drop:
        adapter = drop_experts(adapter, change.drop, renormalise=change.renormalise)
    if change.clone == ALL:
        adapter = clone_all_experts(adapter)
    elif change.clone is not None:
        adapter = clone_expert(adapter, int(change.clone))
    return adapter


def _convert(adapter: Adapter, change: Change) -> Adapter:
    here, to = method_name(adapter.config), change.to
    if isinstance(adapter.config, LoraConfig) and here == "lora":
        if change.num_experts is None:
            raise UserError(f"--to {to} from a LoRA (rank {adapter.config.r}) needs --num_experts, which divides it")
        if to == "moelora" and change.interaction_init is not None:
            raise UserError("--interaction_init: MoELoRA has no interaction matrix; drop it, or use --to teamlora")
        init = change.interaction_init or "identity"
        made = lora_to_teamlora(adapter, change.num_experts, interaction_init=init, train_interaction=to == "teamlora")
        return made if to == "teamlora" else teamlora_to_moelora(made)
    for name in ("num_experts", "interaction_init"):
        if getattr(change, name) is not None:
            raise UserError(f"--{name} is for cutting a LoRA into experts; this is a {here} adapter, which has its own")
    if (here, to) == ("moelora", "teamlora"):
        return moelora_to_teamlora(adapter)
    if (here, to) == ("teamlora", "moelora"):
        return teamlora_to_moelora(adapter, keep_interaction=change.keep_interaction)
    if here == to:
        raise UserError(f"this is a {here} adapter already; drop --to {to}")
    raise UserError(
        f"a {here} adapter cannot become {to}: it computes another function (from: lora, teamlora, moelora)"
    )


def _new_card(card: RunCard, source: Path, adapter: Adapter, change: Change) -> RunCard:
    """The run's card for the new adapter. Its results are gone: they were measured on another one."""
    method = method_name(adapter.config)
    config = adapter.config
    assert isinstance(config, RoutedConfig)
    options: dict[str, Any] = {"method": method, "match_params": None}
    for name in card.arguments.keys() & set(vars(config)) - {"target_modules", "modules_to_save"}:
        options[name] = getattr(config, name) if name in METHODS[method].options else None
    origin = {
        "folder": str(source.resolve()),
        "method": card.method,
        "adapter_sha256": file_sha256(source / WEIGHTS_FILE),
        "change": {name: value for name, value in vars(change).items() if value not in (None, False, ())},
        "from": card.identity.get("converted"),
    }
    return replace(
        card,
        method=method,
        arguments={**card.arguments, **options},
        identity={**card.identity, "converted": {k: v for k, v in origin.items() if v is not None}},
        versions=library_versions(),
        results={},
    )
