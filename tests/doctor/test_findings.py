"""What is said of machines, made up and real."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.cli import main
from llava_teamlora.doctor import facts as facts_module
from llava_teamlora.doctor import run_check
from llava_teamlora.doctor.facts import Disk, Facts, Gpu, Package, gather, packages
from llava_teamlora.doctor.findings import GIB, Finding, judge, stops
from llava_teamlora.machine import DeviceMemory

A100 = Gpu("NVIDIA A100", 80 * GIB, (8, 0))
GOOD = Facts(
    python=(3, 11, 7),
    packages=(
        Package("torch", ">=2.11,<3", "2.13.0", None, True),
        Package("deepspeed", ">=0.19", "0.19.8", "train", True),
        Package("flash-attn", ">=2.7", "2.8", "flash", True),
    ),
    torch_cuda="13.0",
    gpus=(A100,),
    driver="580.1",
    driver_gpus=("NVIDIA A100",),
    bf16=True,
    attention="flash_attention_2",
    compiler="/usr/bin/g++",
    launchers=("torchrun", "deepspeed"),
    cores=16,
    memory=DeviceMemory("host memory", 128 * GIB),
    shared_memory_bytes=64 * GIB,
    disks=(Disk("here", "/data", 500 * GIB, False), Disk("hub cache", "/cache", 500 * GIB, False)),
)


def of(facts: Facts, subject: str) -> Finding:
    return next(finding for finding in judge(facts) if finding.subject == subject)


def test_a_good_machine_is_well_throughout() -> None:
    assert {finding.status for finding in judge(GOOD)} == {"ok"}
    assert not stops(judge(GOOD))


@pytest.mark.parametrize(
    ("changed", "subject", "status", "words"),
    [
        ({"python": (3, 9, 1)}, "Python", "problem", "3.10 or newer"),
        ({"packages": None}, "llava-teamlora", "warning", "pip install -e ."),
        ({"packages": (Package("torch", ">=2.11,<3", "2.4", None, False),)}, "torch", "problem", "2.4, not in >=2.11"),
        ({"packages": (Package("peft", ">=0.20", None, None, False),)}, "peft", "problem", "pip install 'peft>=0.20'"),
        (
            {"packages": (Package("deepspeed", ">=1", None, "train", False),)},
            "deepspeed",
            "ok",
            "llava-teamlora[train]",
        ),
        ({"packages": (Package("gradio", ">=6", "5.1", "chat", False),)}, "gradio", "warning", "5.1, not in >=6"),
        ({"torch_problem": "libtorch.so is missing"}, "import torch", "problem", "libtorch.so"),
        ({"gpus": (), "torch_cuda": None}, "GPU", "warning", "CPU build"),
        ({"gpus": ()}, "GPU", "warning", "built for CUDA 13.0"),
        ({"gpus": (), "driver_gpus": ()}, "GPU", "warning", "a 7B model needs a GPU"),
        ({"gpus": (replace(A100, capability=(7, 5)),), "bf16": False}, "GPU 0", "warning", "--fp16 True"),
        ({"attention": "sdpa"}, "attention", "warning", "llava-teamlora[flash]"),
        ({"compiler": None}, "DeepSpeed", "warning", "g++"),
        ({"launchers": ()}, "DeepSpeed", "warning", "PATH"),
        ({"omp_threads": "64"}, "CPU", "warning", "OMP_NUM_THREADS=16"),
        ({"omp_threads": "1", "gpus": ()}, "CPU", "warning", "unset OMP_NUM_THREADS"),
        ({"cores": 2}, "CPU", "warning", "4 cores a GPU"),
        ({"shared_memory_bytes": 64 * 2**20}, "/dev/shm", "warning", "--shm-size"),
        ({"disks": (Disk("hub cache", "/c", 3 * GIB),)}, "disk: hub cache", "warning", "HF_HOME"),
        ({"disks": (Disk("temporary files", "/tmp", GIB // 2),)}, "disk: temporary files", "problem", "TMPDIR"),
        ({"disks": (Disk("here", "/d", 500 * GIB, True),)}, "disk: here", "warning", "SSD"),
        ({"hub": "timed out"}, "model hub", "warning", "timed out"),
        ({"offline": ("HF_HUB_OFFLINE",)}, "model hub", "ok", "HF_HUB_OFFLINE"),
    ],
)
def test_each_lack_is_told_with_its_remedy(changed: dict[str, Any], subject: str, status: str, words: str) -> None:
    facts = replace(GOOD, **changed)
    finding = of(facts, subject)
    assert finding.status == status and words in finding.found + finding.remedy
    assert stops(judge(facts)) == (status == "problem")


def test_facts_are_this_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(facts_module, "_hub", lambda: pytest.fail("offline, nothing is asked"))
    facts = gather(str(tmp_path / "not" / "there"), {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "3", "CXX": "no-such"})
    assert facts.python == sys.version_info[:3] and facts.cores >= 1
    assert facts.offline == ("HF_HUB_OFFLINE",) and facts.omp_threads == "3" and facts.compiler is None
    run = next(disk for disk in facts.disks if disk.use == "run folder")
    assert run.path == str(tmp_path) and run.free_bytes > 0
    found = {package.name: package for package in packages() or ()}
    if found:  # run from its source, nothing names the ranges
        assert found["torch"].fits and found["torch"].extra is None and "pytest" not in found
        assert found["deepspeed"].extra == "train"


def test_an_unreachable_hub_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "refused" in facts_module._hub()


def test_the_command_prints_a_table_or_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_teamlora.doctor.facts.gather", lambda output_dir: replace(GOOD, python=(3, 9, 0)))
    assert main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"] and said["findings"][0]["status"] == "problem" and said["facts"]["cores"] == 16
    monkeypatch.setattr("llava_teamlora.doctor.facts.gather", lambda output_dir: GOOD)
    assert main(["doctor"]) == 0
    assert "0 problem" in capsys.readouterr().out


def test_a_runs_own_needs(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_teamlora.doctor.facts.gather", lambda output_dir: GOOD)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model_name_or_path: {tiny}\ndata_path: d.json\noutput_dir: {tmp_path / 'run'}\nuse_cpu: true\n"
        "model_max_length: 64\nsave_total_limit: 2\n"
    )
    assert main(["doctor", "--json", "--config", str(config)]) == 0
    said = json.loads(capsys.readouterr().out)
    trained = next(row for row in said["memory"]["rows"] if row["name"] == "trained weights")["size_bytes"]
    rows = {finding["subject"]: finding for finding in said["findings"]}
    assert rows["memory of this run"]["status"] == rows["disk of this run"]["status"] == "ok"
    assert f"{trained // 4:,} of" in rows["trains"]["found"] and "3 checkpoints" in rows["disk of this run"]["found"]
    monkeypatch.setattr(run_check.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    assert main(["doctor", "--json", "--config", str(config)]) == 1
    assert "another --output_dir" in capsys.readouterr().out
