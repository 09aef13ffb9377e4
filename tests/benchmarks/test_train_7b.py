"""Bases of random weights, the dry run of a 7B, and the path that measures one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import random_llava
import torch
import train_7b
from safetensors import safe_open

from llava_teamlora.models.build import BaseSpec, load_base

ROOT = Path(__file__).parents[2]

HIDDEN, FFN, LAYERS, VISION, RANK, EXPERTS = 4096, 11008, 32, 1024, 8, 4


def environment(**variables: str) -> dict[str, str]:
    # The environment the tests run in counts as active, whether or not a shell activated it.
    own = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1", "COLUMNS": "150", **variables}


def teamlora_parameters() -> int:
    """TeamLoRA of rank r with k experts on gate, up and down of every layer, counted by hand."""
    total = 0
    for d_in, d_out in ((HIDDEN, FFN), (HIDDEN, FFN), (FFN, HIDDEN)):
        a, b = EXPERTS * RANK * d_in, d_out * EXPERTS * RANK
        router, interaction = EXPERTS * d_in, EXPERTS * EXPERTS
        total += a + b + router + interaction
    return LAYERS * total


def test_dry_run_of_a_7b_needs_no_weights(colors: tuple[Path, Path], tmp_path: Path) -> None:
    data, images = colors
    llm, clip = random_llava.write_configs(tmp_path, "7b")
    assert not list(tmp_path.rglob("*.safetensors"))
    variables = {
        "MODEL": str(llm), "VISION_TOWER": str(clip), "PROJECTOR": "none", "DATA": str(data), "IMAGES": str(images),
        "OUT": str(tmp_path / "run"), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts" / "finetune_teamlora.sh"), "--dry_run", "True"]
    result = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    shown = result.stdout
    projector = VISION * HIDDEN + HIDDEN + HIDDEN * HIDDEN + HIDDEN
    adapter = teamlora_parameters()
    assert adapter == 48_858_624 and projector == 20_979_712
    assert f"{projector:,}" in shown and f"{adapter + projector:,}" in shown
    assert "7,062,902,784" in shown  # vicuna, the tower and the projector
    # A picture is 24 x 24 patches; the batch is as long as its longest sample.
    assert "pixel_values [10, 3, 336, 336]" in shown and "input_ids [16, 6" in shown
    assert "1 steps an epoch of 128 samples each" in shown
    memory = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in shown.splitlines() if "│" in line}
    assert memory["frozen weights"] == "26.31"  # 7,062,902,784 in float32 on a machine without a GPU
    assert memory["optimizer states"] == "0.52" and float(memory["activations"]) > 1
    assert "⟦red</s>⟧" in shown and "weights not read" in shown
    assert not (tmp_path / "run").exists()


def test_random_bases_load_whole_and_in_many_shards(tmp_path: Path) -> None:
    llm, clip = random_llava.write_base(tmp_path, "tiny", shard_bytes=100_000)
    index = json.loads((llm / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in llm.glob("*.safetensors"))
    assert len(files) > 3 and sorted(set(index["weight_map"].values())) == files
    for name in files:
        with safe_open(llm / name, "pt") as shard:
            assert all(index["weight_map"][key] == name for key in shard.keys())  # noqa: SIM118  it is no dict
    base = load_base(BaseSpec(str(llm), str(clip)), torch.bfloat16)  # refuses missing and unexpected weights
    weights = dict(base.model.named_parameters())
    drawn = weights["model.language_model.layers.0.mlp.up_proj.weight"].float()
    assert drawn.std().item() == pytest.approx(random_llava.STD, rel=0.1)
    assert weights["model.language_model.norm.weight"].float().eq(1).all()


def test_a_7b_is_not_measured_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_7b.main(["--work", str(tmp_path), "--out", str(tmp_path / "r.json")]) == 1
    assert "a 7B is trained on a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_measurements_path_on_the_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "result.json"
    flags = ["--steps", "2", "--batch", "2", "--tokens", "96", "--use_cpu", "True"]
    assert train_7b.main(["--size", "tiny", "--work", str(tmp_path / "work"), "--out", str(out), *flags]) == 0
    found = json.loads(out.read_text())
    assert found["device"] == "cpu" and found["results"]["steps"] == 2 and len(found["losses"]) == 2
    assert found["results"]["tokens"] == 2 * 2 * 96  # every sample is as long as it may be
    assert found["results"]["peak_mem_mib"] > 0 and found["estimate"]["complete"]
