"""The Triton kernels without a GPU: run in triton's interpreter, compiled for GPUs not here, and left alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_teamlora.kernels import fits, power_of_2, usable

HERE = Path(__file__).parent
# CI installs triton: there a missing one is a failure, not a reason to skip.
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and not os.environ.get("CI"), reason="triton is not installed"
)


def python(*arguments: str, **environment: str) -> str:
    """Run python in a process of its own; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=kept | environment, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs_triton
def test_kernels_equal_the_loops() -> None:
    tests = str(HERE / "test_kernel_equations.py")
    printed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, TRITON_INTERPRET="1")
    assert " passed" in printed and "skipped" not in printed


@needs_triton
def test_kernels_compile(tmp_path: Path) -> None:
    """The interpreter takes what the compiler refuses."""
    python(str(HERE / "compile_worker.py"), TRITON_CACHE_DIR=str(tmp_path))


def test_nothing_is_imported_without_a_gpu() -> None:
    code = """
import sys
import torch
from llava_teamlora.tuners.routed.gradients import mix_routed
from llava_teamlora.tuners.routed.swiglu import swiglu
swiglu(torch.ones(2, 3), torch.ones(2, 3))
mix_routed(torch.ones(2, 4), torch.ones(2, 2), None, 2, 1.0)
assert not any(name.startswith("llava_teamlora.kernels.") for name in sys.modules)
"""
    assert python("-W", "error", "-c", code) == ""


def test_kernels_can_be_kept_off() -> None:
    code = "import torch; from llava_teamlora.kernels import usable; print(usable(torch.ones(1)))"
    assert python("-c", code, TRITON_INTERPRET="1", LLAVA_TEAMLORA_TRITON="0") == "False\n"


def test_meta_and_cpu_tensors_have_plain_operations() -> None:
    assert not usable(torch.ones(1)) and not usable(torch.ones(1, device="meta"))


def test_sizes() -> None:
    assert [power_of_2(n) for n in (1, 2, 3, 4, 5, 100)] == [1, 2, 4, 4, 8, 128]
    assert fits(4, 32) and fits(16, 8) and fits(64, 64) and fits(1, 4096)
    assert not fits(65, 1) and not fits(4, 1025)
