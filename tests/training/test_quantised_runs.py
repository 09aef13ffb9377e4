"""QLoRA runs on the CPU: only the language model is packed; a run folder answers as the trained model did."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from made_bases import make_clip, make_language_model
from safetensors.torch import load_file

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.run import train
from llava_teamlora.training.trainer import LlavaTrainer

bnb = pytest.importorskip("bitsandbytes")

Train = Callable[..., Path]
BITS = {"nf4": ("--bits", "4"), "fp4": ("--bits", "4", "--quant_type", "fp4", "--double_quant", "False"),
        "int8": ("--bits", "8")}  # fmt: skip


@pytest.fixture(scope="session")
def packable(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Flags of a LLaVA and of its parts, all widths multiples of 64 as bitsandbytes wants them."""
    root = tmp_path_factory.mktemp("packable")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    llm, clip = make_language_model(root / "llm", tiny, **sizes), make_clip(root / "clip", tiny)
    whole = load_base(BaseSpec(llm, clip))
    for part in (whole.model, whole.tokenizer, whole.image_processor):
        part.save_pretrained(root / "llava")
    parts = ["--model_name_or_path", llm, "--vision_tower", clip]
    return {"finished": ["--model_name_or_path", str(root / "llava")], "composed": parts}


@pytest.fixture
def argv(argv: list[str], packable: dict[str, list[str]]) -> list[str]:
    """Flags on that LLaVA, without validation."""
    at = argv.index("--validation_data_path")
    return [*argv[:at], *argv[at + 2 :], *packable["finished"]]


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were trained, as they were at the end."""
    models: list[Any] = []
    real = LlavaTrainer.train

    def watched(self: LlavaTrainer, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        models.append(self.model)
        return result

    monkeypatch.setattr(LlavaTrainer, "train", watched)
    return models


def logits(model: Any, loaded: Any) -> torch.Tensor:
    """Of one picture and a few words."""
    picture = [loaded.vision.image_token_id] * loaded.vision.tokens_per_image if loaded.vision is not None else []
    ids = torch.tensor([[1, *picture, 5, 9, 7]])
    more = {}
    if picture:
        size = loaded.model.config.vision_config.image_size
        more = {"pixel_values": torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits.float()


def check_packed(model: Any, kind: type) -> None:
    """Each linear of the language model's layers is packed, and nothing else is."""
    packed = [name for name, module in model.named_modules() if isinstance(module, kind)]
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert packed and all("lm_head" not in name and "vision" not in name and "projector" not in name for name in packed)
    rest = [name for name in linears if name not in packed and "teamlora" not in name]
    assert all("lm_head" in name or "vision" in name or "projector" in name for name in rest), rest


@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
@pytest.mark.parametrize("base", ["finished", "composed"])
def test_a_quantised_llava_trains_and_comes_back(
    trained: Train, packable: dict[str, list[str]], base: str, bits: tuple[str, ...], last: list[Any]
) -> None:
    run = trained(*packable[base], *bits, "--max_steps", "3")
    spec = read_run_card(run).base
    assert spec.bits == int(bits[1]) and spec.double_quant == ("False" not in bits)
    loaded = load_model(run, device="cpu")
    check_packed(loaded.model, bnb.nn.Linear4bit if spec.bits == 4 else bnb.nn.Linear8bitLt)
    weights = load_file(run / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "teamlora_B" in name)
    assert any("multi_modal_projector" in name for name in weights)
    # 8-bit products pick another kernel after a state dict was read, of other rounding.
    close = {"rtol": 0.0, "atol": 1e-5 if spec.bits == 4 else 0.05}
    torch.testing.assert_close(logits(loaded.model, loaded), logits(last[0], loaded), **close)
    if spec.bits == 4:
        whole = load_model(run, device="cpu", bits=16)
        assert whole.manifest["base"]["bits"] == 16
        assert (logits(whole.model, whole) - logits(loaded.model, loaded)).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "moslora"])
def test_other_methods_on_four_bits(trained: Train, argv: list[str], method: str) -> None:
    if method == "ia3":
        at = argv.index("--dropout")
        del argv[at : at + 2]
    run = trained("--bits", "4", "--method", method, "--max_steps", "4")
    assert load_model(run, device="cpu").manifest["method"] == method


def test_gradient_checkpointing_changes_nothing(trained: Train, tmp_path: Path) -> None:
    flags = ["--bits", "4", "--max_steps", "3", "--dropout", "0"]
    plain = trained(*flags, "--output_dir", str(tmp_path / "plain"))
    for reentrant in ("true", "false"):
        kwargs = f'{{"use_reentrant": {reentrant}}}'
        extra = ["--gradient_checkpointing", "True", "--gradient_checkpointing_kwargs", kwargs]
        saving = trained(*flags, *extra, "--output_dir", str(tmp_path / reentrant))
        one, two = (load_file(run / "adapter_model.safetensors") for run in (plain, saving))
        assert all(torch.allclose(weight, two[name], atol=1e-5) for name, weight in one.items())


def test_norms_and_head_keep_the_dtype(packable: dict[str, list[str]]) -> None:
    model = load_base(BaseSpec(packable["finished"][1], bits=4), torch.bfloat16).model
    wrong = {name: p.dtype for name, p in model.named_parameters() if p.dtype not in (torch.bfloat16, torch.uint8)}
    assert not wrong
    assert next(m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)).compute_dtype == torch.bfloat16


def test_a_quantised_language_model_alone(
    trained: Train, argv: list[str], packable: dict[str, list[str]], tmp_path: Path
) -> None:
    data = tmp_path / "text.json"
    turns = [{"from": "human", "value": "what color?"}, {"from": "gpt", "value": "red"}]
    data.write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(4)]))
    at = argv.index("--mm_projector_lr")
    del argv[at : at + 2]
    extra = ["--data_path", str(data), *packable["composed"][:2]]
    run = trained(*extra, "--bits", "8", "--max_steps", "1")
    loaded = load_model(run, device="cpu")
    check_packed(loaded.model, bnb.nn.Linear8bitLt)


def test_merging_goes_into_the_sixteen_bits(trained: Train, tmp_path: Path) -> None:
    run = trained("--bits", "4", "--method", "lora", "--max_steps", "2")
    assert main(["merge", str(run), "--output", str(tmp_path / "merged")]) == 0
    merged = load_model(tmp_path / "merged", device="cpu")
    whole = load_model(run, device="cpu", bits=16)
    torch.testing.assert_close(logits(merged.model, merged), logits(whole.model, whole), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, bnb.nn.Linear4bit) for module in merged.model.modules())


def test_what_cannot_be_quantised_is_refused(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, message in {
        ("--bits", "3"): "--bits 3 is not one of 16, 8, 4",
        ("--bits", "4", "--quant_type", "int4"): "--quant_type 'int4' is not one of nf4, fp4",
    }.items():
        with pytest.raises(UserError, match=message):
            train([*argv, *flags])
    at = argv.index("--dropout")
    with pytest.raises(UserError, match="--method full trains the weights themselves, which --bits 4 packs"):
        train([*argv[:at], *argv[at + 2 :], "--bits", "4", "--method", "full"])
    from llava_teamlora.models import quantise

    def absent(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(quantise, "find_spec", absent)
    with pytest.raises(UserError, match=r"--bits 8 needs bitsandbytes: pip install 'llava-teamlora\[quant\]'"):
        train([*argv, "--bits", "8"])
