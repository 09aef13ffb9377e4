"""What the processes of process_pair.py may be told to do otherwise while they train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler

from llava_teamlora.training import processes
from llava_teamlora.training.trainer import LlavaTrainer


@contextmanager
def in_file_order() -> Iterator[None]:
    """Samples come as they stand in the data: batch after batch, to the one and the other process in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlavaTrainer, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))
        yield


@contextmanager
def ungathered() -> Iterator[None]:
    """ZeRO-3's weights are not brought together for saving."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeepSpeedEngine, "_zero3_consolidated_16bit_state_dict", lambda self, **options: None)
        yield


@contextmanager
def sharded_on_cpu() -> Iterator[None]:
    """accelerate shards (FSDP) on accelerators alone and gives CPUs DDP; here it shards on them too."""
    begin = AcceleratorState.__init__

    def initialise(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AcceleratorState, "__init__", initialise)
        yield


@contextmanager
def must_be_sharded() -> Iterator[None]:
    """After training, every process must hold about half of the weights."""
    train = LlavaTrainer.train

    def checked(self: LlavaTrainer, *arguments: Any, **options: Any) -> Any:
        result = train(self, *arguments, **options)
        parameters = list(self.model.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
        self.model.reshard()  # torch leaves the root's own weights whole after a forward pass
        here = sum(parameter.to_local().numel() for parameter in parameters)
        assert here < 0.6 * sum(parameter.numel() for parameter in parameters)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlavaTrainer, "train", checked)
        yield


@contextmanager
def impatient() -> Iterator[None]:
    """No network file system is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_SEEN_WITHIN_S", 0.5)
        yield


@contextmanager
def gone_when_training_begins(path: str) -> Iterator[None]:
    """A file is removed after everything has been checked."""
    train = LlavaTrainer.train

    def without(self: LlavaTrainer, *arguments: Any, **options: Any) -> Any:
        Path(path).unlink(missing_ok=True)
        return train(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlavaTrainer, "train", without)
        yield
