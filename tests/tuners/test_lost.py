"""An adapter whose weights were lost is refused when it is saved and when it is loaded, in words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import OURS, Case
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_teamlora.tuners.low_rank import model as tuner_module
from llava_teamlora.tuners.low_rank.lost import refuse_lost_file

FILE = "adapter_model.safetensors"
REMEDY = r"lost before they were saved.*get_state_dict.*stage3_gather_16bit_weights_on_model_save"
each = pytest.mark.parametrize("case", [case for case in OURS if case.model == "llama"], ids=str)


# Older versions of peft do not ask a tuner what is saved and loaded: there the layer's and the trainer's looks remain.
asks = hasattr(BaseTuner, "_get_adapter_state_dict")


def is_a(name: str) -> bool:
    return name.endswith("_A.weight")


def change(folder: Path, what: str) -> None:
    weights = load_file(folder / FILE)
    first = next(name for name in weights if is_a(name))
    changed = {
        "nothing": {},
        "one A empty": weights | {first: torch.zeros(0)},
        "all empty": {name: torch.zeros(0) for name in weights},
        "one A zero": weights | {first: torch.zeros_like(weights[first])},
        "all zero": {name: torch.zeros_like(weight) for name, weight in weights.items()},
    }[what]
    save_file(changed, folder / FILE, metadata={"format": "pt"})


MESSAGES = {
    "nothing": r"are not there: .*" + REMEDY,
    "one A empty": r"_A.*weight is empty \(shape \[0\]\).*" + REMEDY,
    "all empty": r"weight is empty \(shape \[0\]\).*" + REMEDY,
    "one A zero": r"_A.*weight is zero throughout.*" + REMEDY,
    "all zero": r"_A.*weight is zero throughout.*" + REMEDY,
}


@each
@pytest.mark.parametrize("what", MESSAGES)
def test_refused_by_every_way_of_loading(case: Case, what: str, tmp_path: Path) -> None:
    if what == "nothing" and not asks:
        pytest.skip("this peft warns of missing keys")
    case.random().save_pretrained(tmp_path)
    change(tmp_path, what)
    for options in ({}, {"low_cpu_mem_usage": True}, {"adapter_name": "other"}):
        with pytest.raises(ValueError, match=MESSAGES[what]):
            PeftModel.from_pretrained(case.base(), tmp_path, **options)
    with pytest.raises(ValueError, match=MESSAGES[what]):
        case.random().load_adapter(tmp_path, "second")
    if "zero" in what:
        with pytest.raises(ValueError, match=r"A.* is zero throughout.*" + REMEDY):
            case.base().load_adapter(tmp_path)
    if "empty" in what:
        with pytest.raises(RuntimeError, match="mismatch|ignore_mismatched_sizes"):
            case.base().load_adapter(tmp_path)


@each
def test_a_fresh_adapter_is_none_of_these(case: Case, tmp_path: Path) -> None:
    case.fresh().save_pretrained(tmp_path)
    refuse_lost_file(load_file(tmp_path / FILE))
    PeftModel.from_pretrained(case.base(), tmp_path)
    case.base().load_adapter(tmp_path)


@each
@pytest.mark.skipif(not asks, reason="this peft asks no tuner what is saved")
def test_refused_by_every_way_of_saving(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.random()
    empty = {name: torch.zeros(0) for name in model.state_dict()}
    for state, message in (({}, "are not there"), (empty, "is empty")):
        with pytest.raises(ValueError, match=f"adapter 'default' cannot be saved: .*{message}.*{REMEDY}"):
            model.save_pretrained(tmp_path, state_dict=state)
    for module in model.modules():  # as ZeRO-3 leaves a model between its passes
        if isinstance(module, nn.Linear):
            module.weight.data = torch.zeros(0)
    with pytest.raises(ValueError, match=f"_A.*is empty.*{REMEDY}"):
        model.save_pretrained(tmp_path)
    native = case.base()
    native.add_adapter(case.config())
    for parameter in native.parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match=f"_A.*is zero throughout.*{REMEDY}"):
        native.save_pretrained(tmp_path)
    assert not (tmp_path / FILE).exists()
    # Of several processes one writes; the others hold parts, or nothing.
    monkeypatch.setattr(tuner_module, "is_writer", lambda: False)
    model.save_pretrained(tmp_path, state_dict={}, is_main_process=False)


@each
def test_a_checkpoint_of_parts_goes_back_into_parts(case: Case) -> None:
    """DeepSpeed's own checkpoints hold empty weights for the empty places that ZeRO-3 leaves, and so does loading."""
    model = case.random()
    for name, parameter in model.named_parameters():
        if is_a(name.replace(".default", "")):
            parameter.data = torch.zeros(0)
    model.load_state_dict(model.state_dict())


def test_unready_weights_are_passed_over(make_random: Any) -> None:
    model = make_random()
    meta: dict[str, Tensor] = {name: weight.to("meta") for name, weight in model.state_dict().items()}
    model.load_state_dict(meta, assign=True)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "it holds no weights"),
        ({"x.lora_A.weight": torch.zeros(0), "x.lora_B.weight": torch.ones(3, 1)}, "x.lora_A.weight is empty"),
        ({"x.lora_A": torch.zeros(1, 3), "x.lora_B": torch.ones(3, 1)}, "x.lora_A is zero throughout"),
        ({"x.ia3_l": torch.zeros(3)}, "it holds nothing but zeros"),
    ],
)
def test_files_of_other_methods(weights: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*{REMEDY}"):
        refuse_lost_file(weights)
    refuse_lost_file({"x.lora_A.weight": torch.ones(1, 3), "x.lora_B.weight": torch.zeros(3, 1)})
    refuse_lost_file({"x.lora_A": torch.ones(1, 3), "y.lora_A": torch.ones(0, 3)})  # AdaLoRA, all ranks of y pruned
