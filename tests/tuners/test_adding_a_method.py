"""docs/adding_a_method.md, followed to the letter: its files, its entry, and the matrix over the new method."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llava_teamlora

PAGE = Path(llava_teamlora.__file__).parents[1] / "docs" / "adding_a_method.md"

# A pytest plugin: the package as it would be with the page's folder and entry in it.
NEWCOMER = """
from pathlib import Path
import llava_teamlora.tuners as tuners
from llava_teamlora.tuners.method import ours
tuners.__path__.append(str(Path(__file__).parent))
from llava_teamlora.tuners.relulora.config import ReluLoraConfig
import llava_teamlora.tuners.relulora
tuners.METHODS.update({ENTRY})
"""


def test_the_page_works(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"`llava_teamlora/tuners/(relulora/\w+\.py)`\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in files] == ["relulora/config.py", "relulora/model.py", "relulora/__init__.py"]
    for name, content in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    lines = [line for _, content in files for line in content.splitlines() if line.strip()]
    assert len(lines) + 2 <= 40
    entry = re.search(r"^ {4}(\"relulora\": ours\(.*\)),$", text, flags=re.MULTILINE)
    assert entry is not None
    (tmp_path / "newcomer.py").write_text(NEWCOMER.replace("ENTRY", entry.group(1)), encoding="utf-8")
    here = Path(__file__).parent
    paths = [str(tmp_path), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "newcomer"]
    command += ["-k", "relulora and llama", str(here / "test_matrix.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None and int(passed.group(1)) >= 10
