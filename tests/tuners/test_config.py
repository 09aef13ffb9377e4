"""Every bad value is refused in words that name the field, the value and what to do."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftType, get_peft_model, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from tiny_models import llama_config
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from llava_teamlora import TeamLoraConfig, TeamLoraModel
from llava_teamlora.tuners.low_rank import register
from llava_teamlora.tuners.teamlora import TeamLoraLinear

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"r": 0}, r"r must be an integer >= 1 .*got 0"),
    ({"r": -1}, r"r must be an integer >= 1 .*got -1"),
    ({"r": 2.0}, r"r must be an integer >= 1 .*got 2.0"),
    ({"r": True}, r"r must be an integer >= 1 .*got True"),
    ({"r": "8"}, r"r must be an integer >= 1 .*got '8'"),
    ({"num_experts": 0}, r"num_experts must be an integer >= 1 .*got 0"),
    ({"router_hidden": 0}, r"router_hidden must be an integer >= 1 .*None for a linear one.*got 0"),
    ({"alpha": 0}, r"alpha must be a number > 0 .*got 0"),
    ({"alpha": math.nan}, r"alpha must be a number > 0 .*got nan"),
    ({"alpha": math.inf}, r"alpha must be a number > 0 .*got inf"),
    ({"dropout": 1.0}, r"dropout must be a probability in \[0, 1\), got 1.0"),
    ({"dropout": -0.1}, r"dropout must be a probability in \[0, 1\), got -0.1"),
    ({"balance_loss_coef": -1.0}, r"balance_loss_coef must be a number >= 0 .*got -1.0"),
    ({"router_z_loss_coef": None}, r"router_z_loss_coef must be a number >= 0 .*got None"),
    ({"init_weights": "gaussian"}, r"init_weights must be True or False, got 'gaussian'"),
    ({"interaction_init": "normal"}, r"interaction_init must be one of uniform, literal, identity, got 'normal'"),
    ({"train_interaction": 1}, r"train_interaction must be True or False, got 1"),
    ({"train_interaction": False}, r'train_interaction=False needs interaction_init="identity", got \'uniform\''),
    ({"target_modules": []}, r"target_modules is empty .*name the linears"),
    ({"target_modules": ""}, r"target_modules is empty .*name the linears"),
    ({"target_modules": 5}, r"target_modules must be a list of module names, or one regular expression.*got 5"),
    ({"target_modules": [5]}, r"target_modules must be a list of module names.*got \[5\]"),
    ({"target_modules": "("}, r"target_modules='\(' is no regular expression \(missing \)"),
    ({"exclude_modules": "*x"}, r"exclude_modules='\*x' is no regular expression"),
    ({"exclude_modules": 0}, r"exclude_modules must be a list of module names.*got 0"),
    ({"layers_pattern": "(", "layers_to_transform": 0}, r"layers_pattern='\(' is no regular expression"),
    ({"modules_to_save": "lm_head"}, r"modules_to_save must be a list.*the string 'lm_head': write \['lm_head'\]"),
    ({"modules_to_save": [""]}, r"modules_to_save must be a list of module names, got \[''\]"),
    ({"modules_to_save": {"lm_head": 1}}, r"modules_to_save must be a list of module names, got \{"),
    ({"layers_pattern": "layers"}, r"layers_pattern='layers' has no effect without layers_to_transform"),
    ({"layers_to_transform": -1}, r"layers_to_transform must be a layer index >= 0 or a list of them, got -1"),
    ({"layers_to_transform": []}, r"layers_to_transform must be a layer index >= 0 or a list of them, got \[\]"),
    (
        {"target_modules": r".*\.mlp\.up_proj", "layers_to_transform": [0]},
        r"layers_to_transform=\[0\] cannot be combined with target_modules='.*up_proj'.*write the layer indices",
    ),
    (
        {"target_modules": "all-linear", "layers_to_transform": 0},
        r"cannot be combined with target_modules='all-linear'",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_refused_at_construction(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeamLoraConfig(**fields)


def test_defaults() -> None:
    config = TeamLoraConfig()
    assert (config.r, config.num_experts, config.alpha, config.dropout) == (8, 4, 16, 0.0)
    assert (config.router_hidden, config.interaction_init, config.train_interaction) == (None, "uniform", True)
    assert (config.balance_loss_coef, config.router_z_loss_coef, config.init_weights) == (0.0, 0.0, True)


def test_registered_as_a_real_member() -> None:
    member = PeftType("TEAMLORA")
    assert member is PeftType.TEAMLORA and member in list(PeftType) and member.value == "TEAMLORA"
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is TeamLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is TeamLoraModel
    register("teamlora", TeamLoraConfig, TeamLoraModel)
    with pytest.raises(ValueError, match="already has a method called 'teamlora'"):
        register("teamlora", PeftConfig, TeamLoraModel)


def test_no_module_matched(make_llama: Any) -> None:
    with pytest.raises(ValueError, match=r"target_modules: not found in the base model: 'no_such_linear'"):
        get_peft_model(make_llama(), TeamLoraConfig(target_modules=["no_such_linear"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modules_to_save": ["lm_haed"]}, r"modules_to_save: not found .*: 'lm_haed'; .*did you mean 'lm_head'"),
        ({"target_modules": ["up_proj", "upproj"]}, r"target_modules: not found .*: 'upproj'; .*'up_proj'"),
        ({"target_modules": ["proj"]}, r"target_modules: not found .*: 'proj'"),
        ({"layers_to_transform": [0, 2, 7]}, r"layers_to_transform=\[0, 2, 7\]: .*no target module in layer 2, 7"),
        ({"layers_to_transform": 0, "layers_pattern": "h"}, r"no target module in layer 0 \(layers_pattern='h'\)"),
    ],
)
def test_what_the_model_does_not_have_is_named(make_llama: Any, fields: dict[str, Any], message: str) -> None:
    model = make_llama()
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, TeamLoraConfig(**fields))
    assert not adapted(model)
    peft_model = get_peft_model(model, TeamLoraConfig())
    with pytest.raises(ValueError, match=message):
        peft_model.add_adapter("second", TeamLoraConfig(**fields))
    peft_model.add_adapter("second", TeamLoraConfig(target_modules=["up_proj"], layers_to_transform=[1]))


def test_names_that_are_not_the_users_are_not_refused(tmp_path: Path) -> None:
    from peft import PeftModel, TaskType

    def t5() -> T5ForConditionalGeneration:
        config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16)
        return T5ForConditionalGeneration(config)

    get_peft_model(t5(), TeamLoraConfig()).save_pretrained(tmp_path)  # the default names wi_0 and wi_1 are another T5's
    assert len(adapted(PeftModel.from_pretrained(t5(), tmp_path))) == 4
    head = LlamaForSequenceClassification(llama_config())  # peft adds 'classifier' and 'score': it has only the latter
    model = get_peft_model(head, TeamLoraConfig(task_type=TaskType.SEQ_CLS))
    assert any(p.requires_grad for n, p in model.named_parameters() if ".score." in n)


def test_a_state_dict_says_what_is_adapted(make_llama: Any) -> None:
    keys = {"model.layers.0.mlp.up_proj.teamlora_A.weight": torch.zeros(1)}
    with pytest.warns(RuntimeWarning, match="inconsistency"):
        model = inject_adapter_in_model(TeamLoraConfig(target_modules=["elsewhere"]), make_llama(), state_dict=keys)
    assert adapted(model) == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("names", [["lm_head"], ("lm_head",), {"lm_head"}])
def test_modules_to_save_as_any_collection(make_llama: Any, names: Any) -> None:
    model = get_peft_model(make_llama(), TeamLoraConfig(modules_to_save=names))
    others = [n for n, p in model.named_parameters() if p.requires_grad and "teamlora_" not in n]
    assert others == ["base_model.model.lm_head.modules_to_save.default.weight"]


def test_target_that_is_no_linear(make_llama: Any) -> None:
    with pytest.raises(TypeError, match=r"target module model.embed_tokens is a Embedding, not a linear layer"):
        get_peft_model(make_llama(), TeamLoraConfig(target_modules=["embed_tokens"]))


def test_attention_that_never_calls_its_linear() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2)

    with pytest.raises(TypeError, match=r"attn.out_proj is part of torch.nn.MultiheadAttention.*exclude_modules"):
        get_peft_model(Attention(), TeamLoraConfig(target_modules=["out_proj"]))


def test_unknown_model_type_needs_targets() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"Please specify `target_modules`: .*'custom'.*'all-linear'"):
        get_peft_model(Plain(), TeamLoraConfig())


def adapted(model: nn.Module) -> list[str]:
    return [n.removeprefix("base_model.model.") for n, m in model.named_modules() if isinstance(m, TeamLoraLinear)]


def test_default_targets_are_the_feed_forward_linears(make_llama: Any, make_llava: Any) -> None:
    names = adapted(get_peft_model(make_llama(), TeamLoraConfig()))
    assert len(names) == 6 and all(".mlp." in name for name in names)
    names = adapted(get_peft_model(make_llava(), TeamLoraConfig()))
    assert len(names) == 6 and all("language_model" in name for name in names)
    bert = BertModel(BertConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    names = adapted(get_peft_model(bert, TeamLoraConfig()))
    assert names == ["encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense"]


def test_default_targets_that_are_a_regular_expression_refuse_layer_indices(make_llava: Any) -> None:
    with pytest.raises(ValueError, match=r"layers_to_transform=0 cannot be combined"):
        get_peft_model(make_llava(), TeamLoraConfig(layers_to_transform=0))


def test_choices_of_layers(make_llama: Any) -> None:
    names = adapted(get_peft_model(make_llama(), TeamLoraConfig(layers_to_transform=[1], layers_pattern="layers")))
    assert len(names) == 3 and all(".layers.1." in name for name in names)
    names = adapted(get_peft_model(make_llama(), TeamLoraConfig(exclude_modules=["up_proj"])))
    assert len(names) == 4 and not any("up_proj" in name for name in names)
    names = adapted(get_peft_model(make_llama(), TeamLoraConfig(target_modules="all-linear")))
    assert len(names) == 14 and "lm_head" not in names


def test_gpt2_conv1d() -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, n_positions=8)).eval()
    ids = torch.arange(6).unsqueeze(0)
    expected = base(ids).logits
    model = get_peft_model(base, TeamLoraConfig()).eval()
    assert adapted(model) == ["transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"]
    assert model.base_model.model.transformer.h[0].mlp.c_fc.out_features == 32
    assert torch.equal(model(ids).logits, expected)
