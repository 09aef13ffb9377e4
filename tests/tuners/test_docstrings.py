"""Everything public in the tuners says what it is, and docstrings are wrapped where the line ends, not mid-phrase."""

import ast
from pathlib import Path

import pytest

from llava_teamlora import tuners

FILES = sorted(Path(str(tuners.__file__)).parent.rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def documented(path: Path) -> list[Documented]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    return [node for node in found if isinstance(node, ast.Module) or not node.name.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FILES[0].parent)))
def test_docstrings(path: Path) -> None:
    for node in documented(path):
        name = getattr(node, "name", "module")
        text = ast.get_docstring(node)
        assert text, f"{path}: {name} has no docstring"
        assert "\n" not in text.partition("\n\n")[0] or isinstance(node, ast.Module), f"{name}: summary of two lines"
        for line in text.splitlines()[1:]:
            assert len(line.split()) != 1 or line.endswith(":") or "``" in line, (
                f"{path}: {name}: a word alone, {line!r}"
            )
