"""The direction of imports: a module imports only from rows above its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llava_teamlora"

# The rooms from top to bottom, as CONTRIBUTING.md shows them. A row may import from itself and from rows above.
ROWS = (
    ("constants", "errors", "files", "machine"),
    ("kernels",),
    ("tuners",),
    ("data",),
    ("models",),
    ("run_card",),
    ("checkpoint",),
    ("training",),
    ("generation",),
    ("conversion",),
    ("evaluation",),
    ("cme",),
    ("sweep",),
    ("analysis",),
    ("bench",),
    ("doctor",),
    ("serving",),
    ("cli",),
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_rooms(source: str) -> set[str]:
    """First part after ``llava_teamlora.`` of everything a module imports, at any depth of its code."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "llava_teamlora":
                names = [f"llava_teamlora.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("llava_teamlora.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_upwards(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in RANK, f"{room} has no place in ROWS"
    for other in imported_rooms(path.read_text(encoding="utf-8")):
        assert RANK[other] <= RANK[room], f"{path.name} imports {other}, which stands below {room}"


def test_a_reverse_import_would_be_seen() -> None:
    assert imported_rooms("def f():\n    from llava_teamlora.cli import main") == {"cli"}
    assert imported_rooms("from llava_teamlora import training") == {"training"}
    assert RANK["cli"] > RANK["data"]


def test_tuners_know_nothing_of_llava() -> None:
    for path in (PACKAGE / "tuners").rglob("*.py"):
        assert imported_rooms(path.read_text(encoding="utf-8")) <= {"tuners", "kernels"}, path
