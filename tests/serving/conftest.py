"""Run folders on the embedded base, made once: random in every adapter weight, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, get_peft_model

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.run_card import RunCard, library_versions, write_run_card
from llava_teamlora.training.flags.command_line import parse_arguments
from llava_teamlora.tuners import METHODS, AdapterOptions

RunMaker = Callable[..., Path]

pytest.register_assert_rewrite("browser_page", "held_models")


@pytest.fixture(scope="session", autouse=True)
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of this process's own: a page that closes deletes its uploads, which another page may hold as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield


@pytest.fixture(scope="session")
def run_folders(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run folder for each of two methods, by its name. Leave them as they are."""
    parent = tmp_path_factory.mktemp("served")
    return {method: make_run(BaseSpec(tiny), method, parent / method) for method in ("teamlora", "lora")}


@pytest.fixture(scope="session")
def run_maker() -> RunMaker:
    """Makes further ones: of a base, a method's name, a folder to be, and options of the adapter."""
    return make_run


def make_run(spec: BaseSpec, method: str, folder: Path, **options: Any) -> Path:
    """A run folder."""
    spec = replace(spec, model=str(Path(spec.model).resolve()))
    base = load_base(spec)
    config = METHODS[method].build(AdapterOptions(modules_to_save=(PROJECTOR,), **options), "llava")
    assert isinstance(config, PeftConfig)
    config.task_type = "CAUSAL_LM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(base.model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and PROJECTOR not in name:
                    parameter.add_(torch.randn_like(parameter) * (0.3 if "router" in name else 0.1))
    model.save_pretrained(str(folder))
    base.tokenizer.save_pretrained(folder)
    base.image_processor.save_pretrained(str(folder))
    flags = ["--model_name_or_path", spec.model, "--data_path", "none.json", "--output_dir", str(folder)]
    card = RunCard(
        method=method,
        base=spec,
        base_fingerprint=base_fingerprint(spec),
        version="v1",
        image_aspect_ratio="pad",
        arguments=parse_arguments([*flags, "--method", method, "--use_cpu", "True", "--report_to", "none"]).resolved(),
        identity={"data_sha256": "0"},
        versions=library_versions(),
        results={"steps": 1},
    )
    write_run_card(folder, card)
    return folder
