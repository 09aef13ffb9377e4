"""What a run is told: one dataclass for the model, the method, the data and the training; every field is a flag.

In: values as the command line gives them (see command_line.py). Out: :class:`Arguments`, checked where that needs
neither data nor model.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from llava_teamlora.data.images import check_aspect_ratio
from llava_teamlora.errors import UserError
from llava_teamlora.training.flags.flag import flag
from llava_teamlora.training.flags.method_arguments import MethodArguments
from llava_teamlora.training.flags.model_arguments import ModelArguments
from llava_teamlora.training.outside import check_batches, check_deepspeed, check_fused_loss, check_reporter


@dataclass
class DataArguments:
    """What it is tuned on."""

    data_path: str = flag("LLaVA JSON: [{id, image?, conversations: [{from, value}]}].")
    image_folder: str | None = flag("Folder the records' picture paths are relative to.", None)
    validation_data_path: str | None = flag("LLaVA JSON the loss is watched on (same image folder).", None)
    validation_split: float | None = flag(
        "Share of the records of --data_path to hold out and watch the loss on, e.g. 0.01; chosen by --seed.", None
    )
    image_aspect_ratio: str = flag("pad (to a square, LLaVA-1.5's way) or square (resize and crop).", "pad")
    vision_cache: str | None = flag(
        "Folder that keeps what the vision tower makes of each picture, so that it runs once for all epochs and runs: "
        "1.2 MB a picture at LLaVA-1.5's size in half precision (docs/throughput.md).",
        None,
    )
    on_bad_sample: str = flag(
        "error: records that cannot be trained on stop the run before it begins. skip: leave them out, and list them "
        "in skipped.json in the run folder.",
        "error",
    )

    def __post_init__(self) -> None:
        check_aspect_ratio(self.image_aspect_ratio)
        if self.on_bad_sample not in ("error", "skip"):
            raise UserError(f"--on_bad_sample {self.on_bad_sample!r} is not error or skip")
        if self.validation_split is not None and not 0 < self.validation_split < 1:
            raise UserError(f"--validation_split {self.validation_split} must be between 0 and 1, e.g. 0.01")
        if self.validation_split is not None and self.validation_data_path is not None:
            raise UserError("--validation_split and --validation_data_path both give validation data: drop one")

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return self.validation_split is not None or self.validation_data_path is not None


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' own training arguments with LLaVA-1.5's defaults, and LLaVA's additions."""

    output_dir: str = flag("Run folder; checkpoints go into it too.")
    learning_rate: float = flag("Peak learning rate of the adapter.", 2e-4)
    mm_projector_lr: float | None = flag("Peak learning rate of the projector; unset: --learning_rate.", None)
    group_lr: str | None = flag(
        "Peak learning rates of parts of the adapter, e.g. B=4e-4,router=1e-3. Parts: A, B, router, interaction, "
        "mixer, projector; what is not named has --learning_rate.",
        None,
    )
    group_weight_decay: str | None = flag("Weight decay of parts, e.g. router=0,interaction=0.1.", None)
    model_max_length: int = flag("Longest sample in tokens, pictures expanded.", 2048)
    group_by_modality_length: bool = flag("Batches of one modality and of like lengths.", False)
    group_by_length: bool = flag("Batches of like lengths, with pictures and without together.", False)
    packing: bool = flag(
        "Lay samples end to end in rows of at most --model_max_length tokens, where none sees another: the same loss "
        "with hardly any padding. --per_device_train_batch_size then counts rows (docs/throughput.md).",
        False,
    )
    dataloader_num_workers: int = flag(
        "Processes that make batches ready (default 4, 0 without an accelerator).",
        4 if torch.accelerator.is_available() else 0,
    )
    dataloader_persistent_workers: bool = flag("Keep these processes from epoch to epoch.", True)
    num_train_epochs: float = flag("Passes over the data.", 1.0)
    lr_scheduler_type: str = flag("Shape of the learning rate over time.", "cosine")
    warmup_steps: float = flag("Warm-up steps; below 1, a share of all steps.", 0.03)
    logging_steps: float = flag("Log every so many steps.", 10)
    save_steps: float = flag("Checkpoint every so many steps; below 1, a share of all steps.", 500)
    save_total_limit: int | None = flag("Checkpoints kept.", 1)
    report_to: str | None = flag("tensorboard, wandb, trackio, none…", "tensorboard")
    logging_dir: str | None = flag("Folder of TensorBoard's files (default: runs/ in the run folder).", None)
    eval_steps: float | None = flag(
        "Validate every so many steps (below 1: a share of all steps), and at the end. Unset: at the end only, unless "
        "--eval_strategy says more.",
        None,
    )
    load_best_model_at_end: bool = flag(
        "Save a checkpoint at every best validation loss, never delete the best one, and end with its weights in the "
        "run folder.",
        False,
    )
    remove_unused_columns: bool = flag("Leave False: samples hold what the model takes.", False)
    prediction_loss_only: bool = flag("Validation computes the loss alone.", True)
    logging_nan_inf_filter: bool = flag("Hide a loss that is not finite.", False)
    overwrite_output_dir: bool = flag("Start anew where a run lies already.", False)
    use_liger_kernel: bool = flag(
        "Compute the loss by Liger's fused linear cross-entropy, which never holds a batch's logits (CUDA only, "
        "docs/throughput.md).",
        False,
    )
    routing_telemetry_steps: int = flag(
        "Every so many steps write what the routers did to routing.jsonl in the run folder; 0 is off.", 0
    )
    check_data: bool = flag(
        "Look at every record, picture and length before anything heavy is loaded, and write data_report.json into the "
        "run folder; go on if nothing is bad.",
        False,
    )
    dry_run: bool = flag("Show what would be trained on what, and stop.", False)

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
        if str(self.fsdp).lower() in ("true", "false"):  # as YAML writes a flag that needs no value
            self.fsdp = "" if str(self.fsdp).lower() == "false" else True  # type: ignore[assignment]
        check_reporter(self.report_to)
        own_groups = self.mm_projector_lr is not None or self.group_lr or self.group_weight_decay
        check_deepspeed(self.deepspeed, bool(own_groups))
        best = self._settle_validation()
        self._refuse_misleading()
        if self.group_by_length and self.group_by_modality_length:
            raise UserError("--group_by_length and --group_by_modality_length are two orders: give one of them")
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        # Pinned memory speeds copies to an accelerator; without one it only warns.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        # Every trained parameter gets a gradient in every step, that of a batch without pictures too (see the
        # trainer's compute_loss); a search for unused ones would mistake the projector for one.
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        super().__post_init__()
        check_batches(self.accelerator_config)
        check_fused_loss(self)
        self.load_best_model_at_end = best

    @property
    def shuffle_seed(self) -> int:
        """What the order of samples follows from."""
        return self.seed if self.data_seed is None else self.data_seed

    def _refuse_misleading(self) -> None:
        """What transformers would take, and do something else than it says."""
        if self.label_smoothing_factor:
            raise UserError(
                f"--label_smoothing_factor {self.label_smoothing_factor} is not supported: transformers would smooth "
                "the loss of predicting each token from itself, not from those before it; leave it out"
            )
        if self.save_only_model:
            raise UserError(
                "--save_only_model True is not supported: its checkpoints could not be gone on from; leave it out "
                "(--save_total_limit 1 keeps one at a time, and the finished run folder holds the model alone)"
            )

    def _settle_validation(self) -> bool:
        """Turn validation on where it is meant, and say whether the best checkpoint is wanted.

        transformers never hears of that wish before it is built: its own way (see validation.py for ours) ties
        checkpoints to validation steps, and forgets where the best one lies when a run folder moves.
        """
        if self.eval_steps is not None and self.eval_strategy == "no":
            self.eval_strategy = "steps"
        wanted, self.load_best_model_at_end = self.load_best_model_at_end, False
        if self.save_strategy == "best":
            raise UserError("--save_strategy best: say --load_best_model_at_end True, and resuming still works")
        if self.metric_for_best_model not in (None, "loss", "eval_loss") or self.greater_is_better:
            raise UserError("--metric_for_best_model: the validation loss is all there is, and the lowest is the best")
        if wanted and self.eval_strategy == "no":
            raise UserError(
                "--load_best_model_at_end needs validation during training: --eval_steps N, and --validation_data_path "
                "FILE or --validation_split 0.01"
            )
        if wanted:
            self.metric_for_best_model = "loss"
        return wanted

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
_ONCE = {"overwrite_output_dir", "resume_from_checkpoint", "dry_run", "check_data"}


@dataclass(frozen=True)
class Arguments:
    """All arguments of a run; ``said`` names the flags that were given, ``notice`` tells which were translated."""

    model: ModelArguments
    method: MethodArguments
    data: DataArguments
    training: TrainingArguments
    said: frozenset[str]
    notice: str = ""

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
