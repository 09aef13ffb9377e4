"""What a mix is made of, in numbers: ``<mix>.manifest.json`` beside it.

Of every set: rows read = bad + duplicates (of its own, of a set before it) + over its cap + beyond the scale + dropped
as leaks + kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora import __version__
from llava_teamlora.cme.parts import Tally
from llava_teamlora.cme.plan import Plan
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_json_object
from llava_teamlora.files import beside

if TYPE_CHECKING:
    from llava_teamlora.cme.build import Made

_COUNTS = (
    "rows",
    "bad_rows",
    "duplicates",
    "duplicates_of_others",
    "over_cap",
    "beyond_scale",
    "leaks_dropped",
    "kept",
)


def manifest_path(out: Path) -> Path:
    """Its place."""
    return beside(out, ".manifest.json")


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a mix.

    Raises:
        UserError: missing, or no manifest.
    """
    path = manifest_path(out)
    manifest = read_json_object(path)
    if not isinstance(manifest.get("made_from"), dict) or "sha256" not in manifest:
        raise UserError(f"{path}: is no manifest of cme build; move it elsewhere, or name the mix otherwise")
    return manifest


def make_manifest(
    plan: Plan,
    made_from: dict[str, Any],
    made: Sequence[Made],
    tallies: Sequence[Tally],
    items: int,
    digest: str,
) -> dict[str, Any]:
    """Put it together.

    Args:
        plan: of the build.
        made_from: see ``Plan.made_from``.
        made: what became of each set.
        tallies: of each set.
        items: of evaluation, that rows were compared with.
        digest: of the mix, SHA-256.
    """
    sets = {one.given.source.name: _of_set(one, found) for one, found in zip(made, tallies, strict=True)}
    leaks: Counter[str] = Counter()
    for one in tallies:
        leaks.update(one.leaks)
    return {
        "records": sum(one.kept for one in tallies),
        "sha256": digest,
        "program": f"llava-teamlora {__version__}",
        "total": {name: sum(one[name] for one in sets.values()) for name in _COUNTS},
        "sets": sets,
        "leaks": {
            "evaluation_items": items,
            "compared_with": {e.task.name: [str(path) for path, _ in e.files] for e in plan.evaluations if e.files},
            "not_compared_with": [f"{e.task.name}: {s.what}" for e in plan.evaluations for s in e.missing],
            "found": dict(sorted(leaks.items())),
        },
        "made_from": made_from,
    }


def _of_set(one: Made, found: Tally) -> dict[str, Any]:
    source, choice = one.given.source, one.choice
    return {
        "licence": source.licence,
        "basis": source.basis,
        "files": one.sha256,
        "missing": [missing.what for missing in one.given.missing],
        "known_rows": source.rows,
        "rows": one.rows + len(one.bad_rows),
        "bad_rows": len(one.bad_rows),
        "duplicates": choice.duplicates,
        "duplicates_of_others": choice.duplicates_of_others,
        "over_cap": choice.over_cap,
        "beyond_scale": choice.beyond_scale,
        "leaks_found": found.leaks,
        "leaks_dropped": found.dropped,
        "first_leaks": [{name: leak[name] for name in ("where", "reason", "evaluation")} for leak in found.first],
        "kept": found.kept,
    }
