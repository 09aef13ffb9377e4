"""The harness puts our methods into tests like peft's, and lets no failure, merge or missing test pass for success."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import peft_suites
import pytest
from peft import PeftConfig
from peft_harness.cases import METHODS
from peft_harness.plugin import Injection
from peft_harness.report import Outcome, count, problems, skip_reasons, table
from peft_harness.stand_ins import MODELS, write_stand_ins
from transformers import AutoModelForCausalLM

import llava_teamlora
from llava_teamlora.tuners.low_rank.config import LowRankConfig

pytest_plugins = "pytester"

# A suite in peft's form: matrices over methods of its own, tests that merge, tests of one method.
SUITE = """
import pytest
import torch
from peft import LoraConfig, get_peft_model
from llava_teamlora.tuners.low_rank.layer import MERGE_REFUSAL

TEST_CASES = [("theirs", "MLP", LoraConfig, {"target_modules": ["lin0"]})]
ALL_PEFT_CONFIG_CLASSES = [LoraConfig]
MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES = []
cases = pytest.mark.parametrize("test_name, model_id, config_cls, config_kwargs", TEST_CASES)

def adapted(config_cls, config_kwargs):
    model = torch.nn.Sequential()
    model.add_module("lin0", torch.nn.Linear(3, 2))
    return get_peft_model(model, config_cls(**config_kwargs))

@cases
def test_adapter_name(test_name, model_id, config_cls, config_kwargs):
    assert test_name != "theirs" and adapted(config_cls, config_kwargs)

@cases
def test_merge_layers(test_name, model_id, config_cls, config_kwargs):
    adapted(config_cls, config_kwargs).merge_adapter()

@cases
def test_safe_merge(test_name, model_id, config_cls, config_kwargs):
    adapted(config_cls, config_kwargs)

@cases
def test_merge_layers_nan(test_name, model_id, config_cls, config_kwargs):
    raise NotImplementedError("something else")

@cases
def test_merge_layers_fp16(test_name, model_id, config_cls, config_kwargs):
    raise NotImplementedError(MERGE_REFUSAL)

@cases
def test_forward_output_finite(test_name, model_id, config_cls, config_kwargs):
    adapted(config_cls, config_kwargs).merge_and_unload()

@cases
def test_only_params_are_updated(test_name, model_id, config_cls, config_kwargs):
    pass

@cases
def test_parameters_after_loading_model(test_name, model_id, config_cls, config_kwargs):
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    weight.sum().backward()
    optimizer.step()
    assert weight == torch.tensor(-0.01)

@cases
def test_training_custom_models(test_name, model_id, config_cls, config_kwargs):
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    (weight * torch.inf).backward()
    optimizer.step()

@pytest.mark.parametrize("config_cls", ALL_PEFT_CONFIG_CLASSES)
@pytest.mark.parametrize("flag", [True, False])
def test_set_requires_grad(config_cls, flag):
    if flag:
        pytest.skip(f"not for {config_cls}")

@pytest.mark.parametrize("config_cls", [LoraConfig])
def test_multiple_adapters_mixed_modules_to_save(config_cls):
    assert config_cls is not LoraConfig

@pytest.mark.parametrize("config_cls", [LoraConfig])
def test_theirs_alone(config_cls):
    assert False

def test_of_one_method():
    assert False
"""


@pytest.fixture
def plugin(pytester: pytest.Pytester, tmp_path: Path) -> Injection:
    """The plugin after a run of SUITE: TeamLoRA with one expert, which refuses to merge, and MoSLoRA, which merges."""
    linear = {"target_modules": ["lin0"]}
    methods = [
        replace(METHODS["teamlora"], custom=(("MLP", {**linear, "num_experts": 1}),)),
        replace(METHODS["moslora"], custom=(("MLP", linear),)),
    ]
    injection = Injection(methods, tmp_path)
    pytester.makepyfile(test_custom_models=SUITE)
    pytester.inline_run("-q", "-p", "no:cacheprovider", plugins=[injection])
    return injection


def test_our_rows_replace_theirs(plugin: Injection) -> None:
    ran = {(o.method, o.test.split("::")[1].split("[")[0], o.status) for o in plugin.outcomes.values()}
    both = {
        ("test_adapter_name", "passed"),
        ("test_merge_layers_nan", "failed"),
        ("test_parameters_after_loading_model", "passed"),  # at the lower learning rate
        ("test_training_custom_models", "failed"),  # a weight that is not finite
        ("test_merge_layers_fp16", "failed"),
        ("test_set_requires_grad", "skipped"),
        ("test_set_requires_grad", "passed"),
        ("test_multiple_adapters_mixed_modules_to_save", "passed"),
    }
    teamlora = {
        ("test_merge_layers", "refused"),
        ("test_safe_merge", "failed"),  # did not refuse
        ("test_forward_output_finite", "failed"),  # refused where nothing should merge
        ("test_only_params_are_updated", "skipped"),
    }
    moslora = {
        ("test_merge_layers", "passed"),
        ("test_safe_merge", "passed"),
        ("test_forward_output_finite", "passed"),
        ("test_only_params_are_updated", "passed"),
    }
    expected = {("teamlora", *end) for end in both | teamlora} | {("moslora", *end) for end in both | moslora}
    assert ran == expected
    assert plugin.left_out == {"test_theirs_alone": 1, "test_of_one_method": 1}
    rows = count(plugin.outcomes.values(), ["teamlora", "moslora"], ["custom"])
    assert [list(row.values())[2:] for row in rows] == [[4, 1, 2, 5], [8, 0, 1, 3]]


def test_skips_tell_why(plugin: Injection) -> None:
    reasons = skip_reasons(plugin.outcomes.values())
    assert reasons.pop("not for this class") == 2
    (reason,) = reasons
    assert "one expert" in reason and reasons[reason] == 1


def test_a_suite_that_lost_its_matrix_is_an_error(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makepyfile(test_config="ALL_CONFIG_CLASSES = ()\ndef test_a():\n    pass")
    result = pytester.inline_run("-q", "-p", "no:cacheprovider", plugins=[Injection([METHODS["moslora"]], tmp_path)])
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def test_failures_and_empty_suites_fail_the_run() -> None:
    outcomes = [Outcome("a", "custom", "t1", "passed"), Outcome("a", "config", "t2", "failed")]
    rows = count(outcomes, ["a"], ["custom", "config"])
    assert problems(rows) == ["a, config: 1 failed", "a, config: no test passed"]
    assert table(rows).splitlines()[2:] == ["| a | custom | 1 | 0 | 0 | 0 |", "| a | config | 0 | 0 | 0 | 1 |"]
    assert problems(rows[:1]) == []
    assert problems(rows, whole=False) == ["a, config: 1 failed"]


def test_every_method_of_ours_has_cases_that_its_configuration_takes() -> None:
    exported = {name: getattr(llava_teamlora, name) for name in llava_teamlora.__all__ if name.endswith("Config")}
    assert {cases.config for cases in METHODS.values()} == set(exported)
    for name, cases in METHODS.items():
        assert cases.name == name
        for fields in (*(fields for _, fields in cases.custom), *cases.decoder):
            config = cases.config_class(**fields)
            assert isinstance(config, LowRankConfig) and isinstance(config, PeftConfig)


def test_stand_ins_load_by_the_names_of_the_hub(tmp_path: Path) -> None:
    write_stand_ins(tmp_path / "hub", MODELS)
    for name, (model_type, _) in MODELS.items():
        model = AutoModelForCausalLM.from_pretrained(name, cache_dir=tmp_path / "hub")
        assert model.config.model_type == model_type and model.config._name_or_path == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "teamlor"], "--method teamlor: no such method; did you mean 'teamlora'?"),
        (["--work", str(Path(__file__).parent)], "lies in this repository"),
        (["--work", "{tmp}", "--sdist", "absent.tar.gz"], "absent.tar.gz: cannot be read"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peft_suites.main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert "tests.testing_common" not in sys.modules
