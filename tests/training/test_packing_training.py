"""Packed rows train as their samples do alone: logits, losses, gradients, routing, whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from process_pair import ProcessPair, succeeded
from torch import nn
from transformers import LlamaForCausalLM

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.collator import Collator
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, BaseSpec, load_base
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.flags.arguments import TrainingArguments
from llava_teamlora.training.run import train
from llava_teamlora.training.separation import check_separation, separate_samples
from llava_teamlora.training.telemetry import RoutingLog
from llava_teamlora.tuners import METHODS, AdapterOptions

PACKABLE = [name for name in METHODS if name not in ("prompt_tuning", "projector", "full")]


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def adapted(tiny: str, method: str = "teamlora", attention: str = "sdpa", **options: Any) -> tuple[Base, Any]:
    """The embedded base in float64 with an adapter whose weights are no longer those it starts with."""
    base = load_base(BaseSpec(tiny), torch.float64, attention)
    options = {"modules_to_save": ("multi_modal_projector",), **options}
    config = METHODS[method].build(AdapterOptions(**options), "llava")
    assert config is not None
    torch.manual_seed(0)
    model = get_peft_model(base.model, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "projector" not in name:
            parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.1
    separate_samples(base.model)
    return base, model.double().train()


def samples(base: Base, tasks: bool = False, first: bool = False) -> list[dict[str, torch.Tensor]]:
    """With one picture, with none, with two, one of which nothing is trained; ``first``: some first tokens are."""
    torch.manual_seed(1)
    made = []
    for number, (pictures, words) in enumerate([(1, 5), (0, 7), (2, 11), (0, 4), (1, 3)]):
        image = [base.image_token_id] * base.tokens_per_image
        ids = [1, *(image * pictures), *torch.randint(5, 300, (words,)).tolist()]
        labels = torch.tensor(ids)
        labels[: 0 if first and not pictures else len(ids) - words] = IGNORE_INDEX
        if number == 3:
            labels[:] = IGNORE_INDEX
        sample = {"input_ids": torch.tensor(ids), "labels": labels}
        if pictures:
            sample["pixel_values"] = torch.randn(pictures, 3, 64, 64, dtype=torch.float64)
        if tasks and number != 1:
            sample["task"] = torch.tensor(number % 2)
        made.append(sample)
    return made


Batch = dict[str, torch.Tensor]


def both(made: list[Batch], flat: bool = False) -> tuple[Batch, Batch]:
    """The samples in rows of their own, and packed into two rows of different lengths."""
    collate = Collator(0, flat)
    return collate(made), collate([made[:3], made[3:]])


def step(model: Any, batch: Batch) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    """Loss, logits ``[tokens, V]`` in the order of the samples, gradients by name."""
    model.zero_grad()
    batch = {name: value for name, value in batch.items() if name != "task"}
    output = model(**batch, num_items_in_batch=torch.tensor(25))
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.loss.item(), output.logits[batch["attention_mask"] > 0].detach(), gradients


def assert_equal_steps(model: Any, made: list[Batch], flat: bool = False) -> None:
    alone, packed = both(made, flat)
    (loss, logits, gradients), (loss_packed, logits_packed, gradients_packed) = step(model, alone), step(model, packed)
    assert loss == pytest.approx(loss_packed, rel=1e-6)  # transformers computes it in float32
    torch.testing.assert_close(logits, logits_packed, atol=1e-10, rtol=0)
    assert gradients.keys() == gradients_packed.keys() and any("projector" in name for name in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_packed[name], atol=1e-6, rtol=1e-5, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_packed_step_is_the_samples_step(tiny: str, attention: str, flat: bool) -> None:
    base, model = adapted(tiny, attention=attention, balance_loss_coef=0.1, router_z_loss_coef=0.1)
    assert_equal_steps(model, samples(base), flat)


@pytest.mark.parametrize("method", PACKABLE)
def test_every_method(tiny: str, method: str) -> None:
    routed = "num_experts" in METHODS[method].options
    options: dict[str, Any] = {"balance_loss_coef": 0.1, "router_z_loss_coef": 0.1} if routed else {}
    if method == "adalora":
        options["total_step"] = 100
    base, model = adapted(tiny, method, **options)
    assert_equal_steps(model, samples(base))


def test_no_loss_crosses_a_border(tiny: str) -> None:
    """Templates train no first token; if one did, the sample before must not learn to predict it."""
    base, model = adapted(tiny)
    made = samples(base, first=True)
    assert any(sample["labels"][0] != IGNORE_INDEX for sample in made)
    assert_equal_steps(model, made)


def test_with_gradient_checkpointing(tiny: str) -> None:
    base, model = adapted(tiny, balance_loss_coef=0.1)
    base.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal_steps(model, samples(base))


def test_a_cache_does_not_stand_in_the_way(tiny: str) -> None:
    """With ``use_cache`` in the config a language model makes a cache, and then looks for no packed rows."""
    base, model = adapted(tiny)
    base.model.config.text_config.use_cache = base.model.config.use_cache = True
    assert_equal_steps(model, samples(base))


def test_padding_takes_no_part_in_auxiliary_losses(tiny: str) -> None:
    """The test above would see it too; this one says that it is the mask that keeps it out."""
    base, model = adapted(tiny, balance_loss_coef=1.0)
    packed = both(samples(base))[1]
    loss = step(model, packed)[0]
    packed["input_ids"][packed["attention_mask"] == 0] = 7
    assert step(model, packed)[0] == pytest.approx(loss, abs=1e-12)


def test_telemetry_counts_the_same(tiny: str, tmp_path: Path) -> None:
    base, model = adapted(tiny)
    vision = base.vision_format("pad")
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    dataset: Any = type("Made", (), {"vision": vision, "tasks": ("even", "odd")})()
    log = RoutingLog(model, dataset, arguments)
    rows = []
    for batch in both(samples(base, tasks=True)):
        with log.observe(batch, batch["task"]):
            step(model, batch)
        rows.append(log.telemetry.collect())
    alone, packed = rows
    assert [row.groups.keys() for row in alone] == [row.groups.keys() for row in packed]
    assert alone[0].groups.keys() == {"all", "image", "text", "answer", "task/even", "task/odd"}
    for one, other in zip(alone, packed, strict=True):
        for name, group in one.groups.items():
            assert group.count == other.groups[name].count
            assert group.load == pytest.approx(other.groups[name].load)
            assert group.participation_mean == pytest.approx(other.groups[name].participation_mean, abs=1e-9)


# The check at the start of a run ----------------------------------------------------------------------------


def test_the_check_passes_what_keeps_samples_apart(tiny: str) -> None:
    base, model = adapted(tiny)
    check_separation(model, base.model.config.text_config.vocab_size, base.image_token_id, torch.device("cpu"))
    assert model.training
    half = load_base(BaseSpec(tiny), torch.bfloat16, "sdpa").model
    separate_samples(half)
    check_separation(half, 300, base.image_token_id, torch.device("cpu"))


def test_the_check_finds_what_does_not(tiny: str) -> None:
    base = load_base(BaseSpec(tiny), torch.float32, "sdpa")  # nobody prepared it: the mask says all are one sample
    with pytest.raises(UserError, match="--packing: samples of this model see each other"):
        check_separation(base.model, 300, base.image_token_id, torch.device("cpu"))


def test_the_check_finds_positions_that_go_on(tiny: str) -> None:
    """Samples that do not see each other, but are told that they stand further back than they do."""

    class Absolute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(300, 8), nn.Embedding(64, 8)

        def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            hidden = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
            return type("Output", (), {"logits": hidden @ self.tokens.weight.T})()

    with pytest.raises(UserError, match="--packing: samples of this model see each other"):
        check_separation(Absolute(), 300, None, torch.device("cpu"))


# Whole runs -------------------------------------------------------------------------------------------------

Train = Callable[..., Path]
PACKED = ("--packing", "True", "--model_max_length", "200", "--per_device_train_batch_size", "2")


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_one_step_over_all_samples_is_the_unpacked_run(trained: Train, tmp_path: Path) -> None:
    """All 24 samples in one step: packed or not, the loss is the mean over the same tokens, and so is the update.

    (Plain SGD: Adam's first step is the gradient's sign, which would hide its size.)
    """
    flags = (
        "--num_train_epochs", "2", "--optim", "sgd", "--learning_rate", "0.05", "--warmup_steps", "0", "--dropout", "0",
        "--group_by_modality_length", "False",
    )  # fmt: skip
    alone = trained(*flags, "--output_dir", str(tmp_path / "alone"), "--per_device_train_batch_size", "24")
    packed = trained(
        *flags, "--output_dir", str(tmp_path / "packed"), "--packing", "True", "--model_max_length", "200",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "9",
    )  # fmt: skip
    assert losses(packed) == pytest.approx(losses(alone), rel=1e-5)
    assert read_run_card(packed).results["samples"] == 48


@pytest.mark.parametrize("modality", ["True", "False"])
def test_a_resumed_packed_run_is_the_straight_one(trained: Train, tmp_path: Path, modality: str) -> None:
    from safetensors.torch import load_file

    flags = (*PACKED, "--num_train_epochs", "2", "--save_steps", "3", "--save_total_limit", "9",
             "--group_by_modality_length", modality)  # fmt: skip
    straight = trained("--output_dir", str(tmp_path / "straight"), *flags)
    steps = read_run_card(straight).results["steps"]
    assert steps % 2 == 0  # both epochs have as many
    assert read_run_card(straight).results["samples"] == 48
    (tmp_path / "resumed").mkdir()
    (straight / "checkpoint-3").rename(tmp_path / "resumed" / "checkpoint-3")
    resumed = trained("--output_dir", str(tmp_path / "resumed"), *flags)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_command_twice(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The second time the lengths are known already; that must not change dropout, or anything."""
    first, second = (trained(*PACKED, "--output_dir", str(tmp_path / name)) for name in ("first", "second"))
    assert (first / "adapter_model.safetensors").read_bytes() == (second / "adapter_model.safetensors").read_bytes()
    shown = capsys.readouterr().out
    assert "packing: 24 conversations in" in shown and "conversations" in shown and "rows each" in shown


def test_prompt_tuning_cannot_be_packed(argv: list[str]) -> None:
    with pytest.raises(UserError, match="--packing: prompt_tuning puts its virtual tokens in front of a row"):
        train([*argv[:-2], "--packing", "True", "--method", "prompt_tuning"])  # it has no dropout


def test_two_orders_are_one_too_many(argv: list[str]) -> None:
    with pytest.raises(UserError, match="give one of them"):
        train([*argv, "--group_by_length", "True"])  # argv says --group_by_modality_length True


def test_grouping_by_length_and_workers(trained: Train, tmp_path: Path) -> None:
    """Like lengths together, also with pictures and without; the same run with workers as without."""
    flags = ("--group_by_modality_length", "False", "--group_by_length", "True", "--max_steps", "4")
    here = trained(*flags, "--output_dir", str(tmp_path / "here"))
    there = trained(*flags, "--output_dir", str(tmp_path / "there"), "--dataloader_num_workers", "2")
    assert losses(here) == losses(there)


@pytest.mark.parametrize("zero", [(), ("--deepspeed", "scripts/zero3.json")])
def test_two_processes_are_one(
    pair: ProcessPair, trained: Train, argv: list[str], tmp_path: Path, zero: tuple[str, ...]
) -> None:
    """One row each on two processes is two rows on one; both fill one store of features, and encode once."""
    if zero:
        pytest.importorskip("deepspeed")
        zero = (zero[0], str(Path(__file__).parents[2] / zero[1]))
    flags = (
        *PACKED,
        "--dropout",
        "0",
        "--vision_cache",
        str(tmp_path / "features"),
        "--group_by_modality_length",
        "False",
    )
    home = {"XDG_CACHE_HOME": str(tmp_path / "of two")}
    apart = ("--per_device_train_batch_size", "1", "--output_dir", str(tmp_path / "two"))
    succeeded(pair.train(argv, *flags, *apart, *zero, environments=(home, home)))
    assert len(list((tmp_path / "features").glob("*/*/*.safetensors"))) == 16
    alone = trained(*flags, "--output_dir", str(tmp_path / "one"))
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), rel=1e-4)


def test_language_models_alone_are_packed_too(tiny: str) -> None:
    base: Any = load_base(BaseSpec(tiny), torch.float32, "sdpa")
    llm = LlamaForCausalLM(base.model.config.text_config).eval()
    separate_samples(llm)
    made = [{name: sample[name] for name in ("input_ids", "labels")} for sample in samples(base)]
    alone, packed = both(made)
    with torch.no_grad():
        one, other = (llm(**batch).logits[batch["attention_mask"] > 0] for batch in (alone, packed))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
