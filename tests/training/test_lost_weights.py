"""A checkpoint without its weights is refused in words, whatever the method: at saving, and at loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.errors import UserError
from llava_teamlora.training.run import train


@pytest.mark.parametrize("method", ["teamlora", "lora"])
def test_a_checkpoint_of_lost_weights_is_refused(
    trained: Callable[..., Path], argv: list[str], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when ZeRO-3's parts are saved without gathering: first at saving, then in a file that came from elsewhere."""
    real = PeftModel.save_pretrained

    def lost(self: PeftModel, folder: str, **kwargs: Any) -> None:
        real(self, folder, **kwargs)
        path = Path(folder) / "adapter_model.safetensors"
        save_file({name: torch.zeros(0) for name in load_file(path)}, path, metadata={"format": "pt"})

    monkeypatch.setattr(PeftModel, "save_pretrained", lost)
    with pytest.raises(UserError, match="checkpoint-2: cannot be saved .*is empty .*state_dict=.*Mend that"):
        train([*argv, "--method", method])
    assert not list((tmp_path / "run").iterdir())
    monkeypatch.undo()
    run = trained("--method", method, "--max_steps", "1")
    path = run / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(weight) for name, weight in load_file(path).items()}, path)
    with pytest.raises(UserError, match="adapter_model.safetensors: .*_A.weight is zero throughout.*state_dict="):
        load_model(run, device="cpu")
