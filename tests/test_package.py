"""Importing the package is light, and makes its methods known to peft whichever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "gradio", "deepspeed", "datasets")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_is_light() -> None:
    loaded = run(f"import sys, llava_teamlora; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import llava_teamlora, peft",
        pytest.param("import peft, llava_teamlora", marks=pytest.mark.heavy),
        pytest.param("from llava_teamlora import TeamLoraConfig", marks=pytest.mark.heavy),
        "import llava_teamlora; from transformers.utils import is_peft_available as f; f(); f(); import peft",
    ],
)
def test_peft_knows_the_methods(imports: str) -> None:
    code = f"{imports}; from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; print('TEAMLORA' in m)"
    assert run(code) == "True"


def test_without_this_package_peft_is_as_it_was() -> None:
    assert run("from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; print('TEAMLORA' in m)") == "False"


def test_unknown_names_are_attribute_errors() -> None:
    import llava_teamlora

    with pytest.raises(AttributeError, match="no attribute 'TeamLoRAConfig'"):
        _ = llava_teamlora.TeamLoRAConfig
    assert "TeamLoraConfig" in dir(llava_teamlora)
