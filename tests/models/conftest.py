"""A language model and vision towers on disk, to be put together."""

from __future__ import annotations

import pytest
from made_bases import make_clip, make_language_model, make_siglip


@pytest.fixture(scope="session")
def parts(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of a tiny Llama (whose tokenizer has no <image>) and a tiny whole CLIP."""
    root = tmp_path_factory.mktemp("parts")
    return make_language_model(root / "llm", tiny), make_clip(root / "clip", tiny)


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny whole SigLIP."""
    return make_siglip(tmp_path_factory.mktemp("towers") / "siglip")
