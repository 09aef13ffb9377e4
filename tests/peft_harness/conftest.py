"""Lets the tests import the harness of peft's suites, which lives beside the scripts and not in the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
