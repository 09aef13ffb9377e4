"""Training with gradient checkpointing leaves out what nobody reads, and says so in no file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensor

from llava_teamlora.tuners.routed import mlp as mlp_form

Train = Callable[..., Path]


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_same_adapter_with_less_work(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    skips: list[bool] = []
    real = mlp_form.fused_mlp

    def counted(x: torch.Tensor, *args: Any, skip_output: bool = False) -> Any:
        if not isinstance(x, FakeTensor):  # the memory estimate's rehearsals
            skips.append(skip_output)
        return real(x, *args, skip_output=skip_output)

    monkeypatch.setattr(mlp_form, "fused_mlp", counted)
    kwargs = f'{{"use_reentrant": {"true" if reentrant else "false"}}}'
    runs = {
        "plain": (),
        "checkpointed": ("--gradient_checkpointing", "True", "--gradient_checkpointing_kwargs", kwargs),
    }
    found, skipped = {}, {}
    for name, extra in runs.items():
        skips.clear()
        run = trained("--max_steps", "2", "--output_dir", str(tmp_path / name), *extra)
        found[name], skipped[name] = load_file(run / "adapter_model.safetensors"), sum(skips)
    assert skipped["plain"] == 0 and (skipped["checkpointed"] == 0) == reentrant
    assert all(torch.equal(found["checkpointed"][name], weight) for name, weight in found["plain"].items())
    arguments = torch.load(tmp_path / "checkpointed" / "checkpoint-2" / "training_args.bin", weights_only=False)
    assert "context_fn" not in (arguments.gradient_checkpointing_kwargs or {})
