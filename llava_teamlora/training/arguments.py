"""What a run is told: one dataclass for the model, the method, the data and the training; every field is a flag.

In: values as the command line gives them (see command_line.py). Out: :class:`Arguments`, checked where that needs
neither data nor model.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.data.images import check_aspect_ratio
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError, nearest
from llava_teamlora.models.build import PROJECTOR_TYPE, SELECT_FEATURES, BaseSpec
from llava_teamlora.tuners import METHODS, AdapterOptions


def _help(text: str, default: Any = dataclasses.MISSING) -> Any:
    if default is dataclasses.MISSING:
        return field(metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """What is tuned."""

    model_name_or_path: str = _help(
        "Folder or hub id of a LLaVA in transformers' layout, or of a language model (then give --vision_tower)."
    )
    vision_tower: str | None = _help("CLIP tower to put before a language model.", None)
    version: str = _help("Conversation template: v1 (alias vicuna_v1) or plain.", "v1")
    mm_vision_select_layer: int | None = _help("Hidden state of the tower that is used (default -2).", None)
    mm_vision_select_feature: str | None = _help("patch (default), or cls_patch to keep the cls token.", None)
    mm_projector_type: str = _help("Projector of a newly put together LLaVA.", PROJECTOR_TYPE)
    pretrain_mm_mlp_adapter: str | None = _help("mm_projector.bin to start the projector from.", None)
    freeze_mm_mlp_adapter: bool = _help("Do not train the projector.", False)
    attn_implementation: str = _help("auto, sdpa, eager or flash_attention_2.", "auto")

    def __post_init__(self) -> None:
        get_template(self.version)
        if self.mm_projector_type != PROJECTOR_TYPE:
            raise UserError(f"--mm_projector_type {self.mm_projector_type!r}: only {PROJECTOR_TYPE} is supported")
        if self.mm_vision_select_feature not in (None, *SELECT_FEATURES):
            raise UserError(f"--mm_vision_select_feature {self.mm_vision_select_feature!r} is not patch or cls_patch")
        projector = self.pretrain_mm_mlp_adapter
        if projector is not None and not Path(projector).is_file():
            raise UserError(f"{projector}: no such file (--pretrain_mm_mlp_adapter)")
        if self.vision_tower is not None and self.freeze_mm_mlp_adapter and projector is None:
            raise UserError(
                "--freeze_mm_mlp_adapter would freeze a projector that was never trained; give it with "
                "--pretrain_mm_mlp_adapter, or let it train"
            )

    def base(self) -> BaseSpec:
        """The base these arguments name; local folders absolute, so that a run folder may be moved."""
        return BaseSpec(
            model=_absolute(self.model_name_or_path),
            vision_tower=_absolute(self.vision_tower) if self.vision_tower else None,
            select_layer=self.mm_vision_select_layer,
            select_feature=self.mm_vision_select_feature,
            projector_weights=_absolute(self.pretrain_mm_mlp_adapter) if self.pretrain_mm_mlp_adapter else None,
        )


@dataclass
class MethodArguments:
    """How it is tuned."""

    method: str = _help(
        "; ".join(f"{m.name}: {m.summary.partition(': ')[2] or m.summary}" for m in METHODS.values()), "teamlora"
    )
    r: int | None = _help("Rank; of one expert for routed methods, at the start for adalora (default 8; 12).", None)
    alpha: float | None = _help("The update is scaled by alpha / r (default 16).", None)
    dropout: float | None = _help("Dropout on the adapter's input (default 0).", None)
    num_experts: int | None = _help("Experts k of a routed method (default 4).", None)
    router_hidden: int | None = _help("Hidden width of an MLP router; unset is a linear one.", None)
    interaction_init: str | None = _help(
        "Routed methods: how the interaction matrix starts: uniform, literal or identity (default: uniform for "
        "teamlora, identity for the others).",
        None,
    )
    train_interaction: bool | None = _help(
        "Routed methods: learn the interaction matrix (default: True for teamlora, False for the others).", None
    )
    balance_loss_coef: float | None = _help("Weight of the load-balance loss (default 0).", None)
    router_z_loss_coef: float | None = _help("Weight of the router z-loss (default 0).", None)
    mixer_init: str | None = _help("moslora: kaiming or orthogonal (default kaiming).", None)
    target_r: int | None = _help("adalora: average rank at the end (default two thirds of r).", None)
    num_virtual_tokens: int | None = _help("prompt_tuning: length of the learned prompt (default 20).", None)
    target_modules: str | None = _help(
        "Regex of the linears that carry the adapter (default: the language model's FFN; for ia3 its keys, values and "
        "down projections).",
        None,
    )
    feedforward_modules: str | None = _help("ia3: regex of the targets whose input is scaled.", None)
    adapter_name_or_path: str | None = _help(
        "Run folder or adapter folder to start the adapter (and the projector) from; with the same method and options, "
        "most easily by --config FOLDER/run.yaml.",
        None,
    )
    match_params: str | None = _help(
        "Choose the rank so that the adapter's parameters equal another method's to within one percent, "
        "e.g. teamlora:r=8,num_experts=4",
        None,
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise UserError(f"--method {self.method!r} is not one of {known}{nearest(self.method, METHODS)}")
        if self.match_params is not None and self.r is not None:
            raise UserError("--match_params chooses the rank: drop --r")
        self.matched()
        try:
            METHODS[self.method].build(self.options((PROJECTOR,)), _MODEL_TYPE)
        except ValueError as error:
            raise UserError(str(error)) from error

    def options(self, modules_to_save: tuple[str, ...] | None = None) -> AdapterOptions:
        """What was said of the adapter."""
        names = {f.name for f in dataclasses.fields(AdapterOptions)} & {f.name for f in dataclasses.fields(self)}
        said = {name: getattr(self, name) for name in names}
        return _scheduled(self.method, AdapterOptions(modules_to_save=modules_to_save, **said))

    def matched(self) -> tuple[str, AdapterOptions] | None:
        """Method and options that ``--match_params`` names; None when it is not given.

        Raises:
            UserError: not of the form ``method:option=value,…``.
        """
        if self.match_params is None:
            return None
        name, _, rest = self.match_params.partition(":")
        if name not in METHODS:
            raise UserError(f"--match_params: {name!r} is not one of {', '.join(METHODS)}{nearest(name, METHODS)}")
        options: dict[str, Any] = {}
        for pair in filter(None, rest.split(",")):
            key, _, value = pair.partition("=")
            if key not in METHODS[name].options or not value.isdecimal():
                raise UserError(
                    f"--match_params {self.match_params!r}: {pair!r} is not an option=number of {name}; "
                    "write e.g. teamlora:r=8"
                )
            options[key] = int(value)
        if self.target_modules is not None and {"r", "target_modules"} <= set(METHODS[name].options):
            options["target_modules"] = self.target_modules
        matched = _scheduled(name, AdapterOptions(**options))
        try:
            config = METHODS[name].build(matched, _MODEL_TYPE)
        except ValueError as error:
            raise UserError(f"--match_params {self.match_params!r}: {error}") from error
        if config is None:
            raise UserError(f"--match_params {self.match_params!r}: {name} has no adapter to match")
        return name, matched


_MODEL_TYPE = "llava"


def _scheduled(method: str, options: AdapterOptions) -> AdapterOptions:
    """Give AdaLoRA some number of steps; the true one is set when training starts (training/adalora.py)."""
    if "total_step" not in METHODS[method].options:
        return options
    return dataclasses.replace(options, total_step=1000)


@dataclass
class DataArguments:
    """What it is tuned on."""

    data_path: str = _help("LLaVA JSON: [{id, image?, conversations: [{from, value}]}].")
    image_folder: str | None = _help("Folder the records' picture paths are relative to.", None)
    validation_data_path: str | None = _help("LLaVA JSON the loss is watched on (same image folder).", None)
    image_aspect_ratio: str = _help("pad (to a square, LLaVA-1.5's way) or square (resize and crop).", "pad")

    def __post_init__(self) -> None:
        check_aspect_ratio(self.image_aspect_ratio)


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' own training arguments with LLaVA-1.5's defaults, and LLaVA's additions."""

    output_dir: str = _help("Run folder; checkpoints go into it too.")
    learning_rate: float = _help("Peak learning rate of the adapter.", 2e-4)
    mm_projector_lr: float | None = _help("Peak learning rate of the projector; unset: --learning_rate.", None)
    group_lr: str | None = _help(
        "Peak learning rates of parts of the adapter, e.g. B=4e-4,router=1e-3. Parts: A, B, router, interaction, "
        "mixer, projector; what is not named has --learning_rate.",
        None,
    )
    group_weight_decay: str | None = _help("Weight decay of parts, e.g. router=0,interaction=0.1.", None)
    model_max_length: int = _help("Longest sample in tokens, pictures expanded.", 2048)
    group_by_modality_length: bool = _help("Batches of one modality and of like lengths.", False)
    num_train_epochs: float = _help("Passes over the data.", 1.0)
    lr_scheduler_type: str = _help("Shape of the learning rate over time.", "cosine")
    warmup_steps: float = _help("Warm-up steps; below 1, a share of all steps.", 0.03)
    logging_steps: float = _help("Log every so many steps.", 10)
    save_steps: float = _help("Checkpoint every so many steps; below 1, a share of all steps.", 500)
    save_total_limit: int | None = _help("Checkpoints kept.", 1)
    report_to: str | None = _help("tensorboard, wandb, none…", "tensorboard")
    remove_unused_columns: bool = _help("Leave False: samples hold what the model takes.", False)
    prediction_loss_only: bool = _help("Validation computes the loss alone.", True)
    logging_nan_inf_filter: bool = _help("Hide a loss that is not finite.", False)
    overwrite_output_dir: bool = _help("Start anew where a run lies already.", False)
    routing_telemetry_steps: int = _help(
        "Every so many steps write what the routers did to routing.jsonl in the run folder; 0 is off.", 0
    )
    dry_run: bool = _help("Show what would be trained on what, and stop.", False)

    def __post_init__(self) -> None:
        if self.mm_projector_lr is not None and self.mm_projector_lr < 0:
            raise UserError(f"--mm_projector_lr {self.mm_projector_lr} must not be negative")
        if "projector" in self.learning_rates() and self.mm_projector_lr is not None:
            raise UserError("--mm_projector_lr and --group_lr projector=… are the same: give one of them")
        self.weight_decays()
        if self.routing_telemetry_steps < 0:
            raise UserError(f"--routing_telemetry_steps {self.routing_telemetry_steps} must not be negative; 0 is off")
        for name in ("model_max_length", "per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 1")
        if self.load_best_model_at_end:
            raise UserError(
                "--load_best_model_at_end is not supported: every checkpoint-N is a run folder of its own; raise "
                "--save_total_limit and use the one with the best validation loss"
            )
        # Pinned memory speeds copies to an accelerator; without one it only warns.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        # Every trained parameter gets a gradient in every step, that of a batch without pictures too (see the
        # trainer's compute_loss); a search for unused ones would mistake the projector for one.
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        super().__post_init__()

    def learning_rates(self) -> dict[str, float]:
        """Peak learning rates of the parts that ``--group_lr`` names.

        Raises:
            UserError: not of the form ``part=number,…``.
        """
        return _numbers("group_lr", self.group_lr)

    def weight_decays(self) -> dict[str, float]:
        """Weight decays of the parts that ``--group_weight_decay`` names.

        Raises:
            UserError: not of the form ``part=number,…``.
        """
        return _numbers("group_weight_decay", self.group_weight_decay)


def _numbers(flag: str, text: str | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in filter(None, (text or "").split(",")):
        name, _, value = (part.strip() for part in pair.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name in found or not (number >= 0 and math.isfinite(number)):
            raise UserError(f"--{flag} {text!r}: {pair!r} is not part=number with a number >= 0, each part once")
        found[name] = number
    return found


# What is asked of one start of the program and is no property of the run.
_ONCE = {"overwrite_output_dir", "resume_from_checkpoint", "dry_run"}


@dataclass(frozen=True)
class Arguments:
    """All arguments of a run; ``said`` names the flags that were given."""

    model: ModelArguments
    method: MethodArguments
    data: DataArguments
    training: TrainingArguments
    said: frozenset[str]

    def defaults(self) -> dict[str, Any]:
        """Defaults of our own flags, those that have one."""
        parts = (ModelArguments, MethodArguments, DataArguments, TrainingArguments)
        return {
            field.name: field.default
            for part in parts
            for field in dataclasses.fields(part)
            if field.name in part.__annotations__.keys() - _ONCE and field.default is not dataclasses.MISSING
        }

    def resolved(self) -> dict[str, Any]:
        """Flags and values as plain types: what ``run.yaml`` keeps and ``--config`` reads.

        All of ours are there; of transformers' own training arguments those that were said.
        """
        own = TrainingArguments.__annotations__.keys()
        training = self.training.to_dict()
        training["report_to"] = training["report_to"] or "none"
        return {
            **dataclasses.asdict(self.model),
            **dataclasses.asdict(self.method),
            **dataclasses.asdict(self.data),
            **{name: training[name] for name in training if name in (own | self.said) - _ONCE},
        }


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name
