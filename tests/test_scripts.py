"""The front door as a stranger opens it, shortened: few steps, few questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEYS = [
    "run", "accuracy", "stderr", "majority", "question_only", "untuned", "train_seconds", "total_seconds",
    "peak_mem_mib", "trainable_parameters",
]  # fmt: skip


def finetune(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # The environment the tests run in counts as active, whether or not a shell activated it.
    own = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "finetune_teamlora.sh"), *arguments],
        env={**os.environ, **own, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> dict:
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_embedded_chain_from_data_to_table(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = finetune("--max_steps", "3", OUT=str(out), LIMIT="40", SEED="1")
    summary = last_line(result)
    assert list(summary) == KEYS
    assert summary["run"] == str(out) and 0 <= summary["accuracy"] <= 1 and summary["trainable_parameters"] > 1e5
    assert 0.3 < summary["majority"] < summary["question_only"] < 0.9
    assert summary["peak_mem_mib"] < 3000
    assert "question-only" in result.stdout and f"llava-teamlora cli {out}" in result.stdout
    assert len((out / "evaluation" / "easy_vqa" / "predictions.jsonl").read_text().splitlines()) == 40
    # Given once more, the command has nothing left to train or to answer, and tells the same.
    again = last_line(finetune("--max_steps", "3", OUT=str(out), LIMIT="40", SEED="1"))
    assert {**again, "total_seconds": 0, "peak_mem_mib": 0} == {**summary, "total_seconds": 0, "peak_mem_mib": 0}


@pytest.mark.parametrize(("launcher", "gpus"), [("python", "1"), ("torchrun", "2")])
def test_ones_own_model_and_data(
    launcher: str, gpus: str, tiny: str, colors: tuple[Path, Path], tmp_path: Path
) -> None:
    data, images = colors
    out = tmp_path / "run"
    result = finetune(
        "--use_cpu", "True", "--max_steps", "2", "--report_to", "none", MODEL=tiny, DATA=str(data), IMAGES=str(images),
        OUT=str(out), GPUS=gpus, LAUNCHER=launcher, BATCH="4", METHOD="lora", OMP_NUM_THREADS="1",
    )  # fmt: skip
    summary = last_line(result)
    assert summary["accuracy"] is None and summary["train_seconds"] > 0
    assert (out / "adapter_model.safetensors").is_file()
    assert "--gradient_checkpointing" not in result.stderr


def test_dry_run_stops_before_training(tmp_path: Path) -> None:
    result = finetune("--dry-run", "True", "--output_dir", str(tmp_path / "run"), METHOD="lora")
    assert result.returncode == 0, result.stderr
    assert "match_params" in result.stdout and "ASSISTANT:" in result.stdout
    assert not (tmp_path / "run").exists()


def test_mistakes_end_in_one_line(tiny: str, tmp_path: Path) -> None:
    out = str(tmp_path / "o")
    for variables, message in (
        ({"MODEL": tiny}, "MODEL is set, so DATA"),
        ({"MODEL": tiny, "DATA": "x.json"}, "MODEL is set, so OUT"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out}, "x.json: no such file"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out, "LAUNCHER": "slurm"}, "LAUNCHER=slurm is not torchrun"),
        ({"MODEL": tiny, "DATA": "x.json", "OUT": out, "LIMIT": "3"}, "LIMIT is for the embedded chain"),
        ({"DATA": "x.json"}, "DATA is set but MODEL is not"),
        ({"METHOD": "teamlor", "OUT": out}, "did you mean 'teamlora'?"),
    ):
        result = finetune(**variables)
        assert result.returncode == 1
        assert message in result.stderr.strip().splitlines()[-1]


def test_help_teaches() -> None:
    result = finetune("--help")
    assert result.returncode == 0 and "VISION_TOWER" in result.stdout and "set -euo" not in result.stdout
