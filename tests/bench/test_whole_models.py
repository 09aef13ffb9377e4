"""Benches of whole models: what takes turns is one base with adapters of its own, and the figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_teamlora.bench import memory, train
from llava_teamlora.bench.cases import Case
from llava_teamlora.bench.figure import PAPER, fig_4a, read_rows
from llava_teamlora.bench.memory import estimate
from llava_teamlora.bench.output import Found, Row, write
from llava_teamlora.bench.parts import Shape
from llava_teamlora.bench.peak import peak_bytes
from llava_teamlora.bench.random_llava import build_random_llava, patches, random_batch
from llava_teamlora.bench.whole_model import adapted, steps_of, trained
from llava_teamlora.bench.whole_settings import MemorySettings, TrainSettings
from llava_teamlora.cli import main
from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError

CPU = torch.device("cpu")
VARIANTS = ("peft-lora", "moelora-loop", "teamlora-mlp")


def silent(what: str, done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(scope="module")
def base() -> Any:
    torch.manual_seed(0)
    return build_random_llava("tiny", torch.float32, "cpu")


@pytest.mark.parametrize("variant", ["peft-lora", "fused-lora", "moelora-loop", "teamlora-reference", "teamlora-mlp"])
def test_models_share_the_frozen_base_and_nothing_else(base: Any, variant: str) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    one, other = (adapted(base, variant, Shape(2, 4), wide=False) for _ in range(2))
    frozen = {p.data_ptr() for name, p in base.named_parameters() if PROJECTOR not in name}
    trains = [{p.data_ptr() for p in trained(model)} for model in (one, other)]
    assert not trains[0] & trains[1] and not frozen & (trains[0] | trains[1])
    assert {p.data_ptr() for p in one.parameters() if not p.requires_grad} == frozen
    # FFNs of the language model, not of the tower; and the projector.
    names = [name for name, p in one.named_parameters() if p.requires_grad]
    assert sum(PROJECTOR in name for name in names) == 4 and not any("vision" in name for name in names)
    assert all(
        any(f"layers.{n}.mlp.{part}" in name for name in names) for n in range(4) for part in ("gate_proj", "down_proj")
    )
    steps_of(one, random_batch(base.config, 2, 24, CPU), None)[False]()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpointing_changes_no_gradient_and_shares_the_weights(base: Any, variant: str) -> None:
    torch.manual_seed(1)
    model = adapted(base, variant, Shape(2, 4), wide=False)
    steps = steps_of(model, random_batch(base.config, 2, 24, CPU), None)
    found = []
    for on in (False, True):
        loss = steps[on].backward()
        found.append((loss, [p.grad for p in trained(model)]))
        steps[on].optimizer.zero_grad(set_to_none=True)
    torch.testing.assert_close(found[0], found[1])
    assert steps[True].model is not model and all(grad is not None for grad in found[0][1])


def test_a_batch_has_a_picture_in_each_sample(base: Any) -> None:
    batch = random_batch(base.config, 3, 30, CPU)
    assert batch["input_ids"].shape == (3, 30) and patches(base.config) == 16
    assert (batch["input_ids"] == base.config.image_token_id).sum(1).tolist() == [16, 16, 16]
    with pytest.raises(UserError, match="--tokens 17 leaves no room beside a picture's 16; at least 18"):
        random_batch(base.config, 3, 17, CPU)


def test_a_peak_is_what_was_held_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000)
        second = torch.zeros(2000)
        del first
        torch.zeros(500)
        del second

    assert peak_bytes(work, CPU) == 4 * 3000


def test_memory_is_estimated_as_it_is_measured() -> None:
    settings = MemorySettings(k=(2,), r=4, variants=VARIANTS, size="tiny", samples=4, tokens=96, dtype=("fp32",))
    found = memory.run(settings, silent)
    rows = {(row.variant, row.figures["checkpointing"]): row.figures for row in found.rows}
    assert len(rows) == 6
    for figures in rows.values():
        assert figures["estimate_ratio"] == pytest.approx(1, abs=0.05)
    assert rows["teamlora-mlp", False]["ratio"] < rows["peft-lora", False]["ratio"] == 1
    assert rows["moelora-loop", False]["ratio"] > 1.1
    assert rows["peft-lora", True]["measured_mib"] < rows["peft-lora", False]["measured_mib"]
    assert all(check.holds for check in found.checks)


def test_a_7b_is_estimated_without_a_device() -> None:
    settings = MemorySettings(size="7b", samples=1, tokens=640, device="meta")
    on, off = (estimate(Case("teamlora-mlp", 4, 32, "amp", checkpointing), settings) for checkpointing in (True, False))
    assert 0 < on.peak_bytes < off.peak_bytes / 3
    # Forward and backward of seven billion frozen weights: 4 operations for each of 640 tokens, and the adapters'.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert 1 < off.operations / (4 * 640 * weights) < 1.25


def test_training_steps_are_compared_with_and_without_checkpointing(tmp_path: Path) -> None:
    settings = TrainSettings(
        k=(2, 4), total_rank=8, variants=VARIANTS, size="tiny", samples=2, tokens=24, rounds=1, dtype=("fp32",)
    )
    found = train.run(settings, silent)
    rows = {(row.variant, row.k, row.figures["checkpointing"]): row for row in found.rows}
    assert {(k, r.r) for (name, k, _), r in rows.items() if name == "teamlora-mlp"} == {(2, 4), (4, 2)}
    for (variant, _, checkpointing), row in rows.items():
        figures = row.figures
        assert figures["tokens_per_s"] == pytest.approx(48 / figures["ms"] * 1000, rel=0.01)
        assert figures["peak_gib"] > figures["step_gib"] > 0 and figures["over_checkpointed"] > 0
        assert (figures["ratio"] == 1) or variant != "peft-lora"
        assert figures["over_checkpointed"] == figures["ratio"] or not checkpointing
    assert not found.checks  # a limit of 7B's shapes
    paths = write(tmp_path, "train", settings.to_dict(), found)
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert [row.to_dict() for row in read_rows(paths[0])] == [row.to_dict() for row in found.rows]


def test_what_does_not_fit_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train.peak_bytes

    def too_much(step: Any, device: torch.device) -> int:
        if "Loop" in {type(module).__name__ for module in step.model.modules()}:
            raise torch.OutOfMemoryError("not that much")
        return whole(step, device)

    monkeypatch.setattr(train, "peak_bytes", too_much)
    settings = TrainSettings(
        k=(2,), r=4, variants=VARIANTS, size="tiny", samples=1, tokens=20, rounds=1, dtype=("fp32",)
    )
    found: Found = train.run(settings, silent)
    assert {row.variant for row in found.rows} == {"peft-lora", "teamlora-mlp"}
    assert "moelora-loop, k = 2, without checkpointing: does not fit the device" in found.notes


def test_the_papers_figure_is_drawn_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert PAPER["TeamLoRA, the paper's"][4] == pytest.approx(1.134)
    rows = [{"variant": "moelora-loop", "k": k, "r": 8, "dtype": "bf16", "ratio": 1.0 + k} for k in (2, 4)]
    path, out = tmp_path / "step.json", tmp_path / "fig4a.png"
    path.write_text(json.dumps({"rows": rows}))
    assert main(["bench", "figure", str(path), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="several numbers of experts"):
        fig_4a([Row("moelora-loop", 2, 8, "bf16", {"ratio": 1.0})])
    path.write_text("[]")
    assert main(["bench", "figure", str(path), "--out", str(out)]) == 1
    assert "step.json: is no file of llava-teamlora bench" in capsys.readouterr().err
