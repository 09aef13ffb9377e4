"""Where peft's tests know methods by name: what is put into them for ours, and what is said instead.

Nothing here changes a test's code, and nothing touches peft itself. A name that peft no longer has is an error, so
that a newer peft cannot silently run fewer tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from llava_teamlora.errors import UserError
from peft_harness.cases import MethodCases
from peft_harness.stand_ins import MODELS

SUITES = {"custom": "test_custom_models", "decoder": "test_decoder_models", "config": "test_config"}

# Tests that merge. A method that refuses to must refuse in every one of them.
MERGING = {
    "test_delete_merged_adapter_only_rejects_the_merged_one",
    "test_delete_merged_adapter_raises_without_mutation",
    "test_disable_adapters_with_merging",
    "test_forward_bfloat16",
    "test_forward_bfloat16_no_autocast",
    "test_forward_float16",
    "test_forward_float16_no_autocast",
    "test_merge_layers",
    "test_merge_layers_fp16",
    "test_merge_layers_is_deterministic_in_train_mode",
    "test_merge_layers_is_idempotent",
    "test_merge_layers_multi",
    "test_merge_layers_nan",
    "test_multiple_active_adapters_merge_and_unmerge",
    "test_safe_merge",
    "test_sequential_merge_matches_batch_merge",
    "test_unmerge_after_sequential_merge_restores_base",
}

# Test -> learning rate on the MLP, in place of 0.5. Its inputs run to 89 and its loss has no minimum: at 0.5 weights
# get to NaN, and softmax routers to where they have no gradient. peft's file makes such exceptions too, for methods
# that it names.
LEARNING_RATES = {"test_only_params_are_updated": 0.01, "test_parameters_after_loading_model": 0.01}

# Module -> a helper of its that skips tests by a method's name, where ours need no skip: GPT-2's Conv1D, which only
# methods named there are taken to support; and the models without biases, meant for BEFT but skipped for all.
WITHOUT = {"testing_common": "_skip_if_conv1d_not_supported", "test_decoder_models": "check_beft_config"}

# The decoder suite's list of models from the hub.
MODEL_LIST = "PEFT_DECODER_MODELS_TO_TEST"

# Tests that loop over all registered methods themselves, ours among them: run for each of ours alone.
FOR_ALL = {"test_from_peft_type"}

# Tests whose rows are written at the test, without a name of their own.
_CLASSES_AT_TEST = {
    "test_multiple_adapters_mixed_modules_to_save": "config_cls",
    "test_multiple_adapters_mixed_modules_to_save_order_switched": "config_cls",
    "test_save_pretrained_with_target_modules": "config_class",
}
_CONFIGS_AT_TEST = {"test_adapter_name_makes_no_difference": "config0"}


def rows_of_module(module: ModuleType, methods: Iterable[MethodCases]) -> dict[int, list[Any]]:
    """Our rows for each of a suite's named lists, by the id of peft's list.

    Raises:
        UserError: if this peft's suite has no list of that name.
    """
    suite = module.__name__.rpartition(".")[2]
    builders = {"test_custom_models": _custom_rows, "test_decoder_models": _decoder_rows, "test_config": _config_rows}
    rows: dict[int, list[Any]] = {}
    for name, ours in builders[suite](list(methods)).items():
        if not hasattr(module, name):
            raise UserError(
                f"{suite}.py of this peft has no list {name}: peft_harness/rules.py does not fit this version; run the "
                "suites with a peft that constraints.txt names, or say there what the list is called now"
            )
        rows[id(getattr(module, name))] = ours
    return rows


def models_of_module(module: ModuleType) -> tuple[list[str], list[str]]:
    """(hub models that a suite runs over, those of them without a stand-in); empty for suites that use none."""
    names: list[str] = getattr(module, MODEL_LIST, [])
    return names, [name for name in names if name not in MODELS]


def rows_at_test(test: str, methods: Iterable[MethodCases]) -> Mapping[str, list[Any]]:
    """Our rows for a test that has its own list of methods, by argument name; empty for other tests."""
    if test in _CLASSES_AT_TEST:
        return {_CLASSES_AT_TEST[test]: [method.config_class for method in methods]}
    if test in _CONFIGS_AT_TEST:
        configs = [method.config_class(target_modules=["lin0"], init_weights=False) for method in methods]
        return {_CONFIGS_AT_TEST[test]: configs}
    return {}


def learning_rate(test: str, arguments: Mapping[str, Any]) -> float | None:
    """The learning rate that a test is to train with for one of our cases; None leaves the test's own."""
    return LEARNING_RATES.get(test) if arguments.get("model_id") == "MLP" else None


def why_not(test: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a test cannot hold for one of our cases, or None: most can."""
    fields = arguments.get("config_kwargs", {})
    if test == "test_only_params_are_updated" and fields.get("num_experts") == 1:
        return "with one expert the softmax is 1 and the router's gradient 0: it cannot move"
    if test == "test_training_decoders_gradient_checkpointing" and fields.get("balance_loss_coef"):
        return "trains without labels, and a router's loss is refused where there is no loss to add it to"
    return None


def _custom_rows(methods: list[MethodCases]) -> dict[str, list[Any]]:
    cases, pairs = [], []
    first = {"target_modules": ["lin0"], "init_weights": False}
    for method in methods:
        for number, (model, fields) in enumerate(method.custom, start=1):
            cases.append((f"{method.title} {number}", model, method.config_class, fields))
        for title, second in (("Same", first), ("Different", {**first, "target_modules": ["lin1"]})):
            pairs.append((f"{method.title} {title}", method.name, method.config_class, first, second))
    return {
        "TEST_CASES": cases,
        "ALL_PEFT_CONFIG_CLASSES": [method.config_class for method in methods],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": pairs,
    }


def _decoder_rows(methods: list[MethodCases]) -> dict[str, list[Any]]:
    return {"ALL_CONFIGS": [(method.config_class, fields) for method in methods for fields in method.decoder]}


def _config_rows(methods: list[MethodCases]) -> dict[str, list[Any]]:
    rows = [(method.config_class, {}) for method in methods]
    return {"ALL_CONFIG_CLASSES": rows, "LAYER_INDEXING_CONFIG_CLASSES": rows}
