"""``llava-teamlora merge``: a plain model folder, or a refusal that names the way."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import MakeRun, answers
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.conversion import merging
from llava_teamlora.models.build import BaseSpec
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.run_card import read_run_card, write_run_card

OPTIONS = {"adalora": {"r": 4, "total_step": 10}, "moslora": {"r": 4}, "lora": {"r": 4}, "ia3": {}}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_method_that_merges_gives_the_same_model(make_run: MakeRun, method: str, tmp_path: Path, tiny: str) -> None:
    run, out = make_run(method, **OPTIONS[method]), tmp_path / "out"
    assert main(["merge", str(run), "--output", str(out)]) == 0
    expected = answers(run)
    assert (expected - answers(tiny)).abs().max() > 1e-2
    torch.testing.assert_close(answers(out), expected, rtol=1e-4, atol=1e-4)
    assert json.loads((out / "merge.json").read_text())["merged"]["method"] == method
    assert not (out / "adapter_config.json").exists() and not (out / "run.yaml").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "data"}


def test_transformers_reads_the_folder_without_this_package(make_run: MakeRun, tmp_path: Path, tiny: str) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(make_run("lora", r=4)), "--output", str(out)]) == 0
    model, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.state_dict().keys() == LlavaForConditionalGeneration.from_pretrained(tiny).state_dict().keys()
    processor = AutoProcessor.from_pretrained(out, use_fast=False)
    inputs = processor(text="<image> what is it?", images=torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert sum(token == processor.image_token_id for token in inputs["input_ids"][0]) == 16


def test_the_weights_keep_the_dtype_asked_for(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(make_run("moslora", r=2)), "--output", str(out), "--dtype", "bfloat16"]) == 0
    model = LlavaForConditionalGeneration.from_pretrained(out)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_merge_is_rounded_once(
    make_run: MakeRun, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a bfloat16 base: base and update are added in float32, and the sum is written in the base's dtype."""
    half, run, out = tmp_path / "half", make_run("lora", r=4), tmp_path / "out"
    shutil.copytree(tiny, half)
    weights = {name: weight.bfloat16() for name, weight in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    spec = BaseSpec(str(half))
    write_run_card(run, replace(read_run_card(run), base=spec, base_fingerprint=base_fingerprint(spec)))

    assert main(["merge", str(run), "--output", str(out)]) == 0
    merged = load_model(run, device="cpu", dtype="float32").model.merge_and_unload()
    written = LlavaForConditionalGeneration.from_pretrained(out).state_dict()
    assert all(torch.equal(written[name], weight.bfloat16()) for name, weight in merged.state_dict().items())
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "config.json").read_text())
    assert {config["dtype"], *(config[part].get("dtype") for part in ("text_config", "vision_config"))} == {"bfloat16"}

    report = json.loads((out / "merge.json").read_text())
    exact = report["exact"]
    assert report["dtype"] == "bfloat16"
    assert exact["logit_difference"] < 1e-4 < exact["logit_difference_as_written"] < 0.1 * exact["largest_logit"]
    assert "in float32" in (printed := capsys.readouterr().out) and "rounded to bfloat16" in printed


@pytest.mark.parametrize("method", ["teamlora", "moelora", "hydralora"])
def test_a_routed_method_is_refused_in_words(
    make_run: MakeRun, method: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["merge", str(make_run(method, r=2)), "--output", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert f"{method} cannot be merged exactly" in message and "--approximate mean --data_path" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["teamlora", "hydralora"])
def test_the_mean_is_folded_in_and_its_cost_told(
    make_run: MakeRun, method: str, tmp_path: Path, colors: tuple[Path, Path], capsys: pytest.CaptureFixture, tiny: str
) -> None:
    run, out = make_run(method, r=2), tmp_path / "out"
    flags = ["--approximate", "mean", "--data_path", str(colors[0]), "--image_folder", str(colors[1]), "--limit", "12"]
    assert main(["merge", str(run), "--output", str(out), *flags, "--batch_size", "3", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "held out" in printed and "kl divergence" in printed and "top1 agreement" in printed
    report = json.loads((out / "merge.json").read_text())["approximate"]
    for part in ("calibration", "held_out"):
        cost = report[part]
        assert cost["positions"] > 0 and 0 < cost["kl_divergence"] < math.inf and 0 <= cost["top1_agreement"] <= 1
        assert math.isfinite(cost["loss_before"]) and cost["loss_before"] != cost["loss_after"]
    assert report["calibration"]["positions"] > report["held_out"]["positions"]
    assert len(report["mean_participation"]) == 12
    exact, merged, base = answers(run), answers(out), answers(tiny)
    assert 0 < (merged - exact).abs().mean() < (base - exact).abs().mean()


def test_the_mean_is_folded_in_from_the_adapters_own_dtype(
    make_run: MakeRun, tmp_path: Path, colors: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are rounded to the base's dtype once; the adapter's weights are not before."""
    found: set[torch.dtype] = set()
    merge = merging.approximate_merge

    def watched(model: Any, *rest: Any) -> Any:
        found.update(weight.dtype for name, weight in model.named_parameters() if "teamlora" in name)
        return merge(model, *rest)

    monkeypatch.setattr(merging, "approximate_merge", watched)
    flags = ["--approximate", "mean", "--data_path", str(colors[0]), "--image_folder", str(colors[1]), "--limit", "4"]
    line = ["merge", str(make_run("teamlora", r=2)), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert main([*line, *flags, "--batch_size", "4", "--device", "cpu"]) == 0
    assert found == {torch.float32}


def test_flags_that_do_not_go_together(
    make_run: MakeRun, tmp_path: Path, colors: tuple[Path, Path], capsys: pytest.CaptureFixture, tiny: str
) -> None:
    run, out = make_run("lora", r=2), tmp_path / "out"
    merge = ["merge", str(run), "--output", str(out)]
    mean = ["--approximate", "mean", "--data_path", str(colors[0]), "--image_folder", str(colors[1])]
    for extra, message in (
        (mean, "lora merges exactly; drop --approximate"),
        (mean[:2], "needs --data_path"),
        (mean[2:], "go with --approximate mean"),
        ([*mean, "--limit", "0"], "--limit 0 must be at least 1"),
    ):
        assert main([*merge, *extra]) == 1
        assert message in capsys.readouterr().err
    assert main(["merge", tiny, "--output", str(out)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    out.mkdir()
    (out / "mine.txt").touch()
    assert main(merge) == 1
    assert "is there already; choose another --output" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_virtual_tokens_are_no_weights(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["merge", str(make_run("prompt_tuning")), "--output", str(tmp_path / "out")]) == 1
    assert "prompt_tuning learns tokens in front of the input" in capsys.readouterr().err
