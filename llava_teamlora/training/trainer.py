"""transformers' Trainer with what LLaVA needs: two learning rates, modality batches, whole-folder checkpoints.

In: model, datasets, :class:`TrainingArguments`, the run's card. Out: ``checkpoint-N`` folders that are complete run
folders and appear at once or not at all. Everything else (loop, logging, DeepSpeed, FSDP) is transformers' own.
"""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer

from llava_teamlora.data.sampler import LengthSampler, lengths_of
from llava_teamlora.errors import UserError, is_lost_process
from llava_teamlora.models.original import PROJECTOR_FILE
from llava_teamlora.models.pretrained import first_line
from llava_teamlora.models.projector import projector_type, write_projector
from llava_teamlora.run_card import ADAPTER_FILE, FULL_FINETUNING, RunCard, write_run_card
from llava_teamlora.training.adalora import AdaLoraSchedule
from llava_teamlora.training.callbacks import Interruption, ProveSeparation, SetEpoch, SkipRecomputedOutputs
from llava_teamlora.training.flags.arguments import TrainingArguments
from llava_teamlora.training.folder import STAGING, drop_abandoned, install, last_checkpoint, rotate
from llava_teamlora.training.fused_loss import fuse_loss
from llava_teamlora.training.groups import has_groups, learning_rates, parameter_groups
from llava_teamlora.training.processes import complete_checkpoint, refuse_unsharded, shard_by_layer
from llava_teamlora.training.separation import check_separation, separate_samples
from llava_teamlora.training.tally import Tally
from llava_teamlora.training.telemetry import RoutingLog
from llava_teamlora.training.text_only import BlankPicture
from llava_teamlora.training.validation import MeanLoss, Validation, best_checkpoint
from llava_teamlora.tuners.low_rank.lost import LostWeights, refuse_lost_file


class LlavaTrainer(Trainer):
    """Trainer for a LLaVA with an adapter.

    Args:
        card: written into every checkpoint as ``run.yaml``.
        image_processor: saved into every checkpoint beside the tokenizer; None for a language model alone.
        kwargs: transformers' own; ``processing_class`` is the tokenizer.
    """

    args: TrainingArguments

    def __init__(self, *, card: RunCard, image_processor: Any, **kwargs: Any) -> None:
        shard_by_layer(kwargs["args"], kwargs["model"])
        super().__init__(**kwargs)
        refuse_unsharded(self.args, self.is_fsdp_enabled)
        self.card = card
        self.image_processor = image_processor
        # Shape of what the vision tower makes of a picture, where batches hold that instead of pixels.
        features = kwargs["train_dataset"].features
        self.blank = BlankPicture(kwargs["model"], features.shape if features is not None else None)
        if self.args.packing:
            separate_samples(self._bare(self.model))
            self.add_callback(ProveSeparation(self._prove_separation))
        if self.args.use_liger_kernel:
            fuse_loss(self._bare(self.model))
            self.args.use_liger_kernel = False  # what transformers itself does then replaces more than the loss
        self.first_peak = 0.0
        self.interruption = Interruption()
        self.add_callback(self.interruption)
        self.add_callback(SkipRecomputedOutputs())
        self.adalora: AdaLoraSchedule | None = None
        if card.method == "adalora":
            self.adalora = AdaLoraSchedule(kwargs["model"], self.args)
            self.add_callback(self.adalora)
        self.telemetry: RoutingLog | None = None
        if self.args.routing_telemetry_steps:
            self.telemetry = RoutingLog(kwargs["model"], kwargs["train_dataset"], self.args)
            self.add_callback(self.telemetry)
        vision = kwargs["train_dataset"].vision
        self.tally = Tally(self.accelerator, vision.image_token_id if vision is not None else None)
        if self.eval_dataset is not None:
            self.add_callback(Validation(self.args.load_best_model_at_end))
        self.mean_loss = MeanLoss(self.accelerator)
        self.seconds_before = 0.0
        self._staging = False
        self._saved_step = 0

    @property
    def train_seconds(self) -> float:
        """Seconds trained so far, earlier legs of a resumed run included."""
        return self.seconds_before + time.monotonic() - self.interruption.started

    def go_on(self, results: dict[str, Any], step: int) -> None:
        """Let clock and counts begin where a checkpoint's stood; ``results`` are its card's, ``step`` is its."""
        self.seconds_before = results["train_seconds"]
        self.tally.go_on(results)
        self._saved_step = step

    def progress(self) -> dict[str, Any]:
        """Seconds, samples, tokens and memory so far, of all processes and legs; called by all processes."""
        return {"train_seconds": round(self.train_seconds, 1), **self.tally.sums()}

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """Called by the Trainer with each batch that it trains on."""
        self.tally.add(inputs)
        super()._track_num_input_tokens(inputs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate without drawing from training's random numbers: when and on what changes nothing that is trained.

        ``--dataloader_drop_last`` is about training: validation is on all of its data.
        """
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
                return super().evaluate(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' loop with the loss of :class:`MeanLoss`, which no size or number of batches changes."""
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_loss"] = self.mean_loss.take()
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple[None, None, None]:
        """Add a batch's loss to the validation's; the loop has nothing to average."""
        labels = self.mean_loss.without_repeated(inputs["labels"])
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, {**inputs, "labels": labels})
        self.mean_loss.add(loss, labels)
        return None, None, None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The Trainer is not to look for the best checkpoint: see :mod:`llava_teamlora.training.validation`."""
        return False

    # Order of samples -------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        by_modality = self.args.group_by_modality_length
        if not by_modality and not self.args.group_by_length:
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = lengths_of(dataset, "signed_lengths" if by_modality else "lengths")
        ways = self.args.world_size * self.args.gradient_accumulation_steps
        batch, seed = self.args.train_batch_size, self.args.shuffle_seed
        sampler = LengthSampler(lengths, batch, ways, seed, sort_widely=not by_modality)
        # Not every version of accelerate reaches a sampler behind its shards; this always does.
        self.add_callback(SetEpoch(sampler))
        return sampler

    def _prove_separation(self) -> None:
        base = self._bare(self.model)
        vocabulary, image = base.get_input_embeddings().num_embeddings, getattr(base.config, "image_token_id", None)
        check_separation(self.model_wrapped, vocabulary, image, self.args.device)

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
        """transformers' loss; a batch without pictures still runs tower and projector (see training/text_only.py).

        A step whose samples all lost their answers to the length limit has loss 0, not 0 / 0.
        """
        if num_items_in_batch is not None:
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        task = inputs.get("task")
        inputs = {name: value for name, value in inputs.items() if name != "task"}  # the model takes no such thing
        watched = self.telemetry.observe(inputs, task) if self.telemetry is not None and model.training else None
        # One process needs it in training alone: the optimizer is to do the same there as on several.
        alike = model.training or self.args.world_size > 1
        with watched or nullcontext(), self.blank.in_place(inputs) if alike else nullcontext(inputs) as inputs:
            return super().compute_loss(model, self._prepare_inputs(inputs), return_outputs, num_items_in_batch)

    def _bare(self, model: Any) -> Any:
        """The model without what was put around it."""
        base: Any = self.accelerator.unwrap_model(model)
        return base.get_base_model() if hasattr(base, "get_base_model") else base

    # Checkpoints ------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write ``checkpoint-N`` aside, bring it to the disk, and move it into place when it is whole."""
        if self._saved_step == self.state.global_step:  # the end of a step and that of its epoch may both ask
            return
        run = Path(super()._get_output_dir(trial))
        staging = run / STAGING
        name = f"checkpoint-{self.state.global_step}"
        results = {**self.card.results, **self.progress()}
        if self.args.should_save:  # the first process; with --save_on_each_node that of every node
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.telemetry is not None:
                self.telemetry.save(staging / name)
            if self.args.should_save:
                complete_checkpoint(staging / name)
                if self.adalora is not None:
                    self.adalora.save(staging / name)
                write_run_card(staging / name, replace(self.card, results=results))
                install(staging / name, run)
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            if isinstance(error, RuntimeError) and is_lost_process(error):
                raise
            raise self._explained(error, run, name) from error
        finally:
            self._staging = False
        if self.args.should_save:
            best = best_checkpoint(run, self.state.log_history) if self.args.load_best_model_at_end else None
            drop_abandoned(run, self._saved_step, run / name)
            rotate(run, self.args.save_total_limit, run / name, best)
        self._saved_step = self.state.global_step
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
        reason = first_line(error)
        mend = "Mend that" if isinstance(error, UserError) else "Make room (or check the folder's rights)"
        return UserError(
            f"{run / name}: cannot be saved ({reason}); {kept}. {mend} and run the same command again: it goes on from "
            "there"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self.adalora.saving(whole=self._staging) if self.adalora is not None else nullcontext():
            self._save_whole(output_dir, state_dict)
        if self.args.should_save and self.image_processor is not None:
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
                if self.card.method == "projector":
                    kind = projector_type(self._bare(self.model).config)
                    write_projector(weights, kind, folder / PROJECTOR_FILE)
        except LostWeights as error:
            for path in written:
                path.unlink(missing_ok=True)
            raise UserError(f"{folder}: {error}") from error
