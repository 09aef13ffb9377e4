"""``bench decode --model``: all ways decode the same prompts, and the figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_teamlora.bench.cases import Case
from llava_teamlora.bench.measuring import Times
from llava_teamlora.bench.random_llava import build_random_llava
from llava_teamlora.bench.settings import DecodeSettings
from llava_teamlora.bench.whole_decode import _checks, _way, model_of
from llava_teamlora.cli import main
from llava_teamlora.tuners.routed.inference import is_prepared

SETTINGS = DecodeSettings(k=(2,), r=4, model="tiny", prompt=9, answer=5, tokens=2, dtype=("fp32",))
VARIANTS = ("peft-lora", "moelora-loop", "teamlora-mlp", "teamlora-packed")


@pytest.fixture(scope="module")
def base() -> Any:
    torch.manual_seed(0)
    return build_random_llava("tiny", torch.float32, "cpu").eval()


def case(variant: str) -> Case:
    return Case(variant, 2, 4, "fp32").of(variant)


def greedily(model: Any, ids: Tensor, count: int) -> Tensor:
    """Logits after so many tokens, all computed anew for each."""
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        return model(input_ids=ids).logits[:, -1]


@pytest.mark.parametrize("variant", ["base", *VARIANTS])
def test_what_is_timed_is_the_models_answer(base: Any, variant: str) -> None:
    before = {name: weight.data_ptr() for name, weight in base.named_parameters()}
    way = _way(base, case(variant), SETTINGS)
    ids = torch.randint(3, 511, (2, 9), generator=torch.Generator().manual_seed(0))
    model = model_of(base, case(variant), SETTINGS)
    assert is_prepared(model) == (variant == "teamlora-packed") and not model.training
    expected = greedily(model, ids, 5)
    for _ in range(2):  # the second in the cache of the first
        torch.testing.assert_close(way(), expected, rtol=1e-4, atol=1e-5)
    assert {name: weight.data_ptr() for name, weight in base.named_parameters()} == before
    own = greedily(base, ids, 5)
    assert torch.equal(own, expected) == (variant == "base")


def test_it_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "decode", "--quick", "--model", "tiny", "--over", "base", "--rounds", "2", "--answer", "3"]
    assert main([*line, "--out", str(tmp_path), "--variants", *VARIANTS]) == 0
    assert "tokens/s" in capsys.readouterr().out
    content = json.loads((tmp_path / "decode.json").read_text())
    assert content["settings"]["model"] == "tiny" and content["checks"] == []
    rows = {row["variant"]: row for row in content["rows"]}
    assert set(rows) == {"base", *VARIANTS} and rows["base"]["ratio"] == 1
    for row in rows.values():
        assert {"k", "r", "dtype", "twin"} <= set(row) and row["q1"] <= row["ratio"] <= row["q3"]
        assert row["tokens_per_s"] == pytest.approx(1000 / row["ms"], rel=0.01)
    assert (tmp_path / "decode.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("seconds", "twin", "holds"), [(1.04, 1, True), (1.1, 1, False), (1.04, 1.2, None)])
def test_more_tokens_are_better(seconds: float, twin: float, holds: bool | None) -> None:
    ours, reference = case("teamlora-packed"), case("base")
    times = Times({reference: [1.0] * 3, ours: [seconds] * 3, "twin": [twin] * 3}, {reference: "twin"})
    settings = DecodeSettings(model="7b", over="base")
    (found,) = _checks([reference, ours], times, settings)
    assert found.holds is holds and found.found == pytest.approx(1 / seconds, rel=1e-3) and ">= 0.95" in found.what


def test_mistakes_are_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "decode", "--quick", "--model", "tiny"]
    assert main([*line, "--prompt", "510"]) == 1
    assert "--prompt 510 and --answer 4: the model has 512 positions" in capsys.readouterr().err
    assert main([*line, "--dtype", "amp"]) == 1
    assert "--dtype amp is how a training computes" in capsys.readouterr().err
