"""Run folders on the embedded base, random in every adapter weight, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import MakeRun, randomise
from peft import PeftConfig, get_peft_model

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.run_card import RunCard, library_versions, write_run_card
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.tuners import METHODS, AdapterOptions


@pytest.fixture
def make_run(tiny: str, tmp_path: Path, colors: tuple[Path, Path]) -> MakeRun:
    """Make a run folder of a method: what training leaves, but for the training."""

    def make(method: str, name: str = "run", **options: Any) -> Path:
        folder = tmp_path / name
        base = load_base(BaseSpec(tiny))
        config = METHODS[method].build(AdapterOptions(**options, modules_to_save=(PROJECTOR,)), "llava")
        assert isinstance(config, PeftConfig)
        config.task_type = "CAUSAL_LM"
        torch.manual_seed(0)
        model = get_peft_model(base.model, config)
        randomise(model)
        model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        base.image_processor.save_pretrained(folder)
        (folder / "trainer_state.json").write_text("{}")
        flags = ["--model_name_or_path", tiny, "--data_path", str(colors[0]), "--output_dir", str(folder)]
        flags += ["--method", method, "--use_cpu", "True", "--report_to", "none"]
        flags += [word for key, value in options.items() if key != "total_step" for word in (f"--{key}", str(value))]
        card = RunCard(
            method=method,
            base=BaseSpec(str(Path(tiny).resolve())),
            base_fingerprint=base_fingerprint(BaseSpec(tiny)),
            version="v1",
            image_aspect_ratio="pad",
            arguments=parse_arguments(flags).resolved(),
            identity={"data_sha256": "0"},
            versions=library_versions(),
            results={"steps": 1},
        )
        write_run_card(folder, card)
        return folder

    return make
