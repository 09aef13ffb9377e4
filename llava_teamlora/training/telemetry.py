"""Routing telemetry of a run: batches -> ``routing.jsonl`` in the run folder, and a few scalars in the training log.

In: a model with routed adapters, the batches of a run. Out: every ``--routing_telemetry_steps`` steps one line for each
layer and adapter (docs/telemetry.md says what it holds), over all processes. A checkpoint keeps the file as it was and
the sums since its last line, so that a resumed run writes what a straight one does. Validation is not counted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from llava_teamlora.constants import IGNORE_INDEX, ROUTING_FILE, ROUTING_FORMAT
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.packing import PackedDataset
from llava_teamlora.data.records import Record
from llava_teamlora.errors import UserError
from llava_teamlora.files import write_atomically
from llava_teamlora.training.flags.arguments import Arguments, TrainingArguments
from llava_teamlora.tuners import METHODS
from llava_teamlora.tuners.routed import LayerRouting, RoutingTelemetry

STATE_FILE = "routing_state.json"
_MOST_TASKS = 100


def check_telemetry(arguments: Arguments, records: Sequence[Record]) -> None:
    """Refuse what cannot be watched, before the model is loaded.

    Raises:
        UserError: ``--routing_telemetry_steps`` with a method without experts, or with too many tasks to keep apart.
    """
    if not arguments.training.routing_telemetry_steps:
        return
    method = arguments.method.method
    if "num_experts" not in METHODS[method].options:
        routed = ", ".join(name for name in METHODS if "num_experts" in METHODS[name].options)
        raise UserError(f"--routing_telemetry_steps: method {method} has no router to watch; {routed} have one")
    tasks = len({record.task for record in records} - {None})
    if tasks > _MOST_TASKS:
        raise UserError(
            f"{records[0].source}: has {tasks} different 'task' tags, but --routing_telemetry_steps keeps at most "
            f"{_MOST_TASKS} apart; use coarser tags"
        )


class RoutingLog(TrainerCallback):
    """Watches the training passes and writes a window's statistics after its last step.

    Groups: ``all`` positions that are no padding; of these ``image`` and ``text``, ``answer`` (the tokens that carry a
    loss) and ``task/NAME`` for each task tag.

    Args:
        model: with its adapter as it is before training.
        dataset: what it is trained on.
        args: of the run.
    """

    def __init__(self, model: PeftModel, dataset: ConversationDataset | PackedDataset, args: TrainingArguments) -> None:
        self.args = args
        self.image_token_id = dataset.vision.image_token_id if dataset.vision is not None else -1
        self.tasks = {f"task/{name}": index for index, name in enumerate(dataset.tasks)}
        self.telemetry = RoutingTelemetry(model.get_base_model(), ("image", "text", "answer", *self.tasks))
        self.scalars: dict[str, float] = {}

    @property
    def file(self) -> Path:
        """The run's ``routing.jsonl``."""
        return Path(str(self.args.output_dir)) / ROUTING_FILE

    def observe(self, batch: dict[str, Any], task: torch.Tensor | None) -> AbstractContextManager[None]:
        """Count the passes inside the context.

        Args:
            batch: what the model is called with: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
            task: index of each row's tag, ``[B]``, or of each token's in packed rows, ``[B, T]``, -1 for none; None if
                none has one.
        """
        image = batch["input_ids"] == self.image_token_id  # [B, T]
        groups = {"image": image, "text": ~image, "answer": batch["labels"] != IGNORE_INDEX}
        if task is not None:
            tags = task.to(image.device).view(len(image), -1)  # [B, 1] or [B, T]
            groups |= {name: (tags == index).expand_as(image) for name, index in self.tasks.items()}
        return self.telemetry.observe(batch["attention_mask"], groups)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write a window; all processes are here after the same step."""
        every = self.args.routing_telemetry_steps
        if state.global_step % every and state.global_step != state.max_steps:
            return
        routing = self.telemetry.collect(self._sum)
        if self.args.report_to:
            self.scalars = _scalars(routing)
        steps = (state.global_step - 1) % every + 1
        if state.is_world_process_zero:
            self._append("".join(_line(state.global_step, steps, row) for row in routing))

    def take_scalars(self) -> dict[str, float]:
        """Means over the layers in the last window, for the next line of the training log; empty if taken already."""
        scalars, self.scalars = self.scalars, {}
        return scalars

    # Resuming ---------------------------------------------------------------------------------------------

    def begin(self, checkpoint: Path | None) -> None:
        """Start the file anew, or with what it held when the checkpoint was made.

        Raises:
            UserError: the checkpoint keeps no telemetry, or that of another model.
        """
        if checkpoint is not None:
            path = checkpoint / STATE_FILE
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
                self.telemetry.load_state(state["telemetry"], sums=self.args.process_index == 0)
                self.scalars = state["scalars"]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}: cannot be gone on from ({error}); go on from another checkpoint, or start anew with "
                    "--overwrite_output_dir True"
                ) from error
        if self.args.process_index == 0:
            try:
                kept = (checkpoint / ROUTING_FILE).read_text(encoding="utf-8") if checkpoint is not None else ""
            except (OSError, ValueError) as error:
                raise UserError(f"{checkpoint}: its {ROUTING_FILE} cannot be read ({error})") from error
            write_atomically(self.file, kept)

    def save(self, folder: Path) -> None:
        """Keep the file and the sums in a checkpoint; called on all processes."""
        state = self.telemetry.state(self._sum)
        if self.args.process_index == 0:
            shutil.copyfile(self.file, folder / ROUTING_FILE)
            write_atomically(folder / STATE_FILE, json.dumps({"telemetry": state, "scalars": self.scalars}))

    def _append(self, lines: str) -> None:
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise UserError(f"{self.file}: cannot be written ({error.strerror})") from error

    def _sum(self, flat: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, ``[n]``."""
        if self.args.world_size == 1:
            return flat
        on_device = flat.to(self.args.device)  # NCCL knows no other
        torch.distributed.all_reduce(on_device)
        return on_device.cpu()


def _line(step: int, steps: int, routing: LayerRouting) -> str:
    content = {"format": ROUTING_FORMAT, "step": step, "steps": steps, **dataclasses.asdict(routing)}
    return json.dumps(_plain(content), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """As JSON knows it: seven digits, null for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _scalars(routing: Sequence[LayerRouting]) -> dict[str, float]:
    """Few numbers for many: means over layers and adapters, group by group, and of M."""
    found: dict[str, list[float]] = {}
    for row in routing:
        for name, group in row.groups.items():
            found.setdefault(f"routing/{name}/entropy", []).append(group.entropy_normalized)
            found.setdefault(f"routing/{name}/highest_load", []).append(max(group.load))
            found.setdefault(f"routing/{name}/dead_share", []).append(len(group.dead) / row.k)
            found.setdefault(f"routing/{name}/participation_std", []).append(sum(group.participation_std) / row.k)
        if row.interaction is not None:
            found.setdefault("routing/interaction_drift", []).append(row.interaction.drift)
            found.setdefault("routing/interaction_condition", []).append(row.interaction.condition)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return {name: value for name, value in means.items() if math.isfinite(value)}
