"""An adapter of one method as one of another: equal for every input, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import FFN, lora_config, put, random_adapter, routed_config
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import make_llama
from torch import Tensor

from llava_teamlora import MoeLoraConfig, TeamLoraConfig
from llava_teamlora.tuners.routed.adapter import Adapter, adapter_of, read_adapter, write_adapter
from llava_teamlora.tuners.routed.conversion import lora_to_teamlora, moelora_to_teamlora, teamlora_to_moelora


def assert_same(model: PeftModel, other: PeftModel, ids: Tensor) -> None:
    expected = model(ids).logits
    with model.disable_adapter():
        assert not torch.allclose(expected, model(ids).logits)  # the adapter does something
    torch.testing.assert_close(other(ids).logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("train_interaction", [True, False])
@pytest.mark.parametrize("fields", [{}, {"router_hidden": 5}, {"rank_pattern": {"down_proj": 3}}], ids=str)
def test_moelora_to_teamlora_and_back(fields: dict, train_interaction: bool, ids: Tensor) -> None:
    model = random_adapter(routed_config("moelora", dropout=0.25, **fields))
    source = adapter_of(model)
    team = moelora_to_teamlora(source, train_interaction=train_interaction)
    assert isinstance(team.config, TeamLoraConfig) and team.config.train_interaction == train_interaction
    assert_same(model, put(team), ids)
    back = teamlora_to_moelora(team)
    assert isinstance(back.config, MoeLoraConfig) and back.config.to_dict() == source.config.to_dict()
    assert back.weights.keys() == source.weights.keys()
    assert all(torch.equal(back.weights[key], source.weights[key]) for key in source.weights)


def test_a_learned_interaction_goes_along_or_is_refused(ids: Tensor) -> None:
    model = random_adapter(routed_config("teamlora"))
    with pytest.raises(ValueError, match=r"not the identity in 6 of 6 layers.*mlp.*--keep_interaction"):
        teamlora_to_moelora(adapter_of(model))
    kept = teamlora_to_moelora(adapter_of(model), keep_interaction=True)
    assert isinstance(kept.config, MoeLoraConfig) and kept.config.train_interaction
    assert_same(model, put(kept), ids)
    with pytest.raises(ValueError, match="would lose"):
        moelora_to_teamlora(kept, train_interaction=False)
    assert_same(model, put(moelora_to_teamlora(kept)), ids)


def test_the_wrong_method_is_refused(ids: Tensor) -> None:
    hydra = adapter_of(random_adapter(routed_config("hydralora")))
    with pytest.raises(ValueError, match="from MoELoRA got an adapter of method hydralora"):
        moelora_to_teamlora(hydra)
    with pytest.raises(ValueError, match="from TeamLoRA got an adapter of method hydralora"):
        teamlora_to_moelora(hydra)
    with pytest.raises(ValueError, match="needs a LoRA of peft's, got hydralora"):
        lora_to_teamlora(hydra, 2)


LORAS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"layers.0.mlp.up_proj": 3, "down_proj": 5}},
    "rank_pattern": {"rank_pattern": {"layers.1.mlp.up_proj": 4, "down_proj": 12}},
    "both, rslora": {"rank_pattern": {"up_proj": 4}, "alpha_pattern": {"up_proj": 11}, "use_rslora": True},
    "fan_in_fan_out": {"fan_in_fan_out": False, "lora_dropout": 0.5},
    "attention too": {"target_modules": [*FFN, "q_proj"], "layers_to_transform": [1]},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
}
STARTS = {
    "M = I": {},
    "M = I, fixed": {"train_interaction": False},
    "uniform M": {"interaction_init": "uniform"},
    "literal M": {"interaction_init": "literal"},
    "MLP router": {"router_hidden": 5},
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("fields", LORAS.values(), ids=LORAS)
def test_lora_to_teamlora_is_equal_at_the_start(fields: dict, start: dict[str, Any], ids: Tensor) -> None:
    model = random_adapter(lora_config(**fields))
    before = torch.random.get_rng_state()
    team = lora_to_teamlora(adapter_of(model), 4, **start)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(team.config, TeamLoraConfig) and team.config.r == 2 and team.config.num_experts == 4
    assert_same(model, put(team), ids)


def test_lora_is_taken_over_bit_for_bit(ids: Tensor) -> None:
    source = adapter_of(random_adapter(lora_config()))
    team = lora_to_teamlora(source, 4)
    assert isinstance(team.config, TeamLoraConfig) and team.config.alpha == 6
    for path, layer in team.layers().items():
        assert torch.equal(layer["A"], source.layers()[path]["A"]), path
        assert torch.equal(layer["B"], source.layers()[path]["B"]), path
        assert torch.equal(layer["interaction"], torch.eye(4)) and not layer["router"].any()


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_the_router_of_a_warm_start_learns(start: dict[str, Any], ids: Tensor) -> None:
    model = put(lora_to_teamlora(adapter_of(random_adapter(lora_config())), 4, **start))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "teamlora" in name
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        routers = [p.grad for n, p in model.named_parameters() if "teamlora_router.default" in n]
        assert all(grad is not None and grad.abs().max() > 1e-8 for grad in routers)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    assert all(p.abs().max() > 0 for n, p in model.named_parameters() if "teamlora_router.default" in n)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices=\[1\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'.*path_initial_model"),
        ({}, "holds no lora_A and lora_B"),
    ],
)
def test_a_lora_of_another_kind_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_to_teamlora(Adapter(lora_config(**fields), {}), 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 6}, r"r=6 cannot be cut into 4 experts; num_experts may be 1, 2, 3, 6"),
        ({"rank_pattern": {"up_proj": 6}}, r"rank_pattern\['up_proj'\]=6 cannot be cut into 4"),
    ],
)
def test_a_lora_that_cannot_be_cut_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_to_teamlora(adapter_of(get_peft_model(make_llama(), lora_config(**fields))), 4)


def test_the_lora_of_an_embedding_is_refused() -> None:
    source = adapter_of(random_adapter(lora_config()))
    key = "base_model.model.model.embed_tokens.lora_embedding_A"
    with pytest.raises(ValueError, match="lora_embedding_A: only lora_A and lora_B of linears"):
        lora_to_teamlora(Adapter(source.config, {**source.weights, key: torch.zeros(8, 64)}), 4)


def test_a_lora_with_a_lost_weight_is_refused() -> None:
    source = adapter_of(random_adapter(lora_config()))
    lost = next(key for key in source.weights if "lora_B" in key)
    rest = {key: weight for key, weight in source.weights.items() if key != lost}
    with pytest.raises(ValueError, match="lora_B: only lora_A and lora_B of linears can be converted, both of each"):
        lora_to_teamlora(Adapter(source.config, rest), 4)


def test_folders(ids: Tensor, tmp_path: Path) -> None:
    model = random_adapter(lora_config(modules_to_save=["lm_head"]))
    model.save_pretrained(tmp_path / "lora")
    write_adapter(lora_to_teamlora(read_adapter(tmp_path / "lora"), 2), tmp_path / "team")
    loaded = PeftModel.from_pretrained(make_llama().double(), tmp_path / "team").double()
    assert_same(model, loaded, ids)
    assert {path.name for path in tmp_path.iterdir()} == {"lora", "team"}
    with pytest.raises(FileExistsError, match="is there already"):
        write_adapter(read_adapter(tmp_path / "team"), tmp_path / "team")


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: is not an adapter folder .*adapter_config.json"):
        read_adapter(tmp_path)
    model = random_adapter(routed_config("moelora"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    key = next(key for key in weights if "moelora_B" in key)
    save_file({**weights, key: weights[key][:, :-1].contiguous()}, file)
    with pytest.raises(ValueError, match=r"B has shape \(\d+, 5\), but num_experts=3 and r=2 ask for 6 columns"):
        moelora_to_teamlora(read_adapter(tmp_path))
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match="its adapter cannot be read"):
        read_adapter(tmp_path)
