"""transformers' Trainer with what LLaVA needs: two learning rates, modality batches, whole-folder checkpoints.

In: model, datasets, :class:`TrainingArguments`, the run's card. Out: ``checkpoint-N`` folders that are complete run
folders and appear at once or not at all. Everything else (loop, logging, DeepSpeed, FSDP) is transformers' own.
"""

from __future__ import annotations

import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from llava_teamlora.checkpoint import ADAPTER_FILE, FULL_FINETUNING, RunCard, write_run_card
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.sampler import ModalityLengthSampler
from llava_teamlora.errors import UserError
from llava_teamlora.training.adalora import AdaLoraSchedule
from llava_teamlora.training.arguments import TrainingArguments
from llava_teamlora.training.folder import STAGING, last_checkpoint
from llava_teamlora.training.groups import has_groups, learning_rates, parameter_groups
from llava_teamlora.training.telemetry import RoutingLog
from llava_teamlora.tuners.low_rank.lost import LostWeights, refuse_lost_file


class LlavaTrainer(Trainer):
    """Trainer for a LLaVA with an adapter.

    Args:
        card: written into every checkpoint as ``run.yaml``.
        image_processor: saved into every checkpoint beside the tokenizer.
        kwargs: transformers' own; ``processing_class`` is the tokenizer.
    """

    args: TrainingArguments

    def __init__(self, *, card: RunCard, image_processor: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.card = card
        self.image_processor = image_processor
        _refuse_foreign_optimizer(self.args)
        self.first_peak = 0.0
        self.interruption = Interruption()
        self.add_callback(self.interruption)
        self.adalora: AdaLoraSchedule | None = None
        if card.method == "adalora":
            self.adalora = AdaLoraSchedule(kwargs["model"], self.args)
            self.add_callback(self.adalora)
        self.telemetry: RoutingLog | None = None
        if self.args.routing_telemetry_steps:
            self.telemetry = RoutingLog(kwargs["model"], kwargs["train_dataset"], self.args)
            self.add_callback(self.telemetry)
        self.seconds_before = 0.0
        self._staging = False

    @property
    def train_seconds(self) -> float:
        """Seconds trained so far, earlier legs of a resumed run included."""
        return self.seconds_before + time.monotonic() - self.interruption.started

    # Order of samples -------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not self.args.group_by_modality_length or not isinstance(dataset, ConversationDataset):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        ways = self.args.world_size * self.args.gradient_accumulation_steps
        batch = self.args.train_batch_size
        sampler = ModalityLengthSampler(dataset.modality_lengths, batch, ways, seed)
        # Not every version of accelerate reaches a sampler behind its shards; this always does.
        self.add_callback(SetEpoch(sampler))
        return sampler

    # Learning rates ---------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW (or ``--optim``); parts that have their own settings stand in groups of their own."""
        if self.optimizer is None and has_groups(self.args):
            target: Any = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, target)
            decayed = set(self.get_decay_parameter_names(target))
            groups = parameter_groups(target.named_parameters(), decayed, self.args)
            self.first_peak = groups[0]["lr"]
            self.optimizer = optimizer_class(groups, **kwargs)
            return self.optimizer
        return super().create_optimizer(model)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add to a training log line the learning rates of parts, and the newest routing scalars."""
        if "learning_rate" in logs and has_groups(self.args) and self.first_peak > 0:
            # All groups follow one schedule from their own peaks; the Trainer logs the first group's.
            share = logs["learning_rate"] / self.first_peak
            logs["learning_rate"] = share * self.args.learning_rate
            for part, rate in learning_rates(self.args).items():
                logs[f"{part}_learning_rate"] = share * rate
        if "loss" in logs and self.telemetry is not None:
            logs.update(self.telemetry.take_scalars())
        super().log(logs, *args, **kwargs)

    # Text-only batches ------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """transformers' loss; a batch without pictures still runs tower and projector, with zero weight.

        Otherwise the projector has no gradient on that process while it has one on others, and a distributed
        step waits for ever. A step whose samples all lost their answers to the length limit has loss 0, not 0 / 0.
        """
        if num_items_in_batch is not None:
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        task = inputs.get("task")
        inputs = {name: value for name, value in inputs.items() if name != "task"}  # the model takes no such thing
        watched = self.telemetry.observe(inputs, task) if self.telemetry is not None and model.training else None
        with watched or nullcontext():
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "pixel_values" in inputs or not model.training:
            return result
        nothing = self._unused_projector_output(model)
        if isinstance(result, tuple):
            return result[0] + nothing, *result[1:]
        return result + nothing

    def _unused_projector_output(self, model: Any) -> torch.Tensor:
        base: Any = self.accelerator.unwrap_model(model)
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        size = base.config.vision_config.image_size
        weight = next(base.model.vision_tower.parameters())
        dtype = weight.dtype if weight.is_floating_point() else base.dtype
        blank = torch.zeros(1, 3, size, size, device=weight.device, dtype=dtype)
        with self.accelerator.autocast():  # the wrapped model's forward would bring its own
            features = base.get_image_features(pixel_values=blank).pooler_output[0]  # [patches, D]
        return features.sum() * 0.0

    # Checkpoints ------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write ``checkpoint-N`` aside and move it into place when it is whole."""
        run = Path(super()._get_output_dir(trial))
        staging = run / STAGING
        name = f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.telemetry is not None:
                self.telemetry.save(staging / name)
            if self.is_world_process_zero():
                if self.adalora is not None:
                    self.adalora.save(staging / name)
                results = {**self.card.results, "train_seconds": round(self.train_seconds, 1)}
                write_run_card(staging / name, replace(self.card, results=results))
                shutil.rmtree(run / name, ignore_errors=True)
                (staging / name).rename(run / name)
                shutil.rmtree(staging)
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            raise self._explained(error, run, name) from error
        finally:
            self._staging = False
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load an adapter as the Trainer does; a whole model by `from_pretrained`, which knows its keys' names.

        The Trainer's own way compares the file's keys with the model's, and for a LLaVA none of them are equal: it
        would warn and go on from the base.
        """
        target = self.model if model is None else model
        if not isinstance(target, PreTrainedModel) or self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # In float32, which holds every dtype: the folder's own is that of the frozen part.
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        target.load_state_dict(saved.state_dict(), strict=True)
        return None

    def _explained(self, error: Exception, run: Path, name: str) -> Exception:
        """A failed save in words: it is nearly always the disk. The half-written folder is removed."""
        shutil.rmtree(run / STAGING, ignore_errors=True)
        last = last_checkpoint(run)
        kept = f"{last.name} is whole" if last else "there is no earlier checkpoint"
        reason = str(error).strip().splitlines()[0]
        mend = "Mend that" if isinstance(error, UserError) else "Make room (or check the folder's rights)"
        return UserError(
            f"{run / name}: cannot be saved ({reason}); {kept}. {mend} and run the same command again: it goes on from "
            "there"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self.adalora.saving(whole=self._staging) if self.adalora is not None else nullcontext():
            self._save_whole(output_dir, state_dict)
        if self.args.should_save:
            self.image_processor.save_pretrained(output_dir or self.args.output_dir)

    def _save_whole(self, output_dir: str | None, state_dict: dict | None) -> None:
        """Save, and look at what was written: a sharded model's weights can be lost on the way without a word.

        Raises:
            UserError: if they were; the file is removed.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        whole = self.card.method == FULL_FINETUNING
        written: list[Path] = []
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                written = sorted(folder.glob("model*.safetensors")) if whole else [folder / ADAPTER_FILE]
                weights = {name: weight for path in written for name, weight in load_file(path).items()}
                refuse_lost_file(weights)
        except LostWeights as error:
            for path in written:
                path.unlink(missing_ok=True)
            raise UserError(f"{folder}: {error}") from error


def _refuse_foreign_optimizer(arguments: TrainingArguments) -> None:
    """DeepSpeed makes an optimizer that its own configuration names, over one group."""
    deepspeed = getattr(arguments, "hf_deepspeed_config", None)
    if deepspeed is not None and deepspeed.config.get("optimizer") and has_groups(arguments):
        raise UserError(
            '--deepspeed: its "optimizer" section would leave --mm_projector_lr, --group_lr and --group_weight_decay '
            "without effect: take the section out (see scripts/zero3.json), or drop these flags"
        )


class SetEpoch(TrainerCallback):
    """Tells a sampler which epoch begins."""

    def __init__(self, sampler: ModalityLengthSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer; ``state.epoch`` is a whole number here, or lies inside a resumed epoch."""
        self.sampler.set_epoch(int(state.epoch or 0))


class Interruption(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A later Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.requested = False
        self.requested_at = 0.0
        self.started = time.monotonic()
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and install the handlers for the time of training."""
        self.started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the former handlers back."""
        self.restore()

    def restore(self) -> None:
        """Put the former handlers back, also after a failed training."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end, on all processes if one was interrupted."""
        if args.world_size > 1:
            flag = torch.tensor(int(self.requested), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.requested = bool(flag.item())
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A launcher repeats a signal to its processes: only a person's second Ctrl-C, some time later, ends at once.
        if self.requested and number == signal.SIGINT and time.monotonic() - self.requested_at > 2:
            self.restore()
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self.requested_at = True, time.monotonic()
