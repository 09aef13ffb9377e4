"""Lets the tests import what lies beside the scripts and not in the package; makes the embedded CME once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that scripts/cme_data.py makes by default."""
    from cme_world.build import Plan, build

    out = tmp_path_factory.mktemp("world") / "embedded"
    assert build(out, Plan())
    return out
