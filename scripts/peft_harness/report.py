"""Outcomes of tests -> counts, a table for people and a dictionary for JSON."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

STATUSES = ("passed", "refused", "skipped", "failed")


@dataclass(frozen=True)
class Outcome:
    """How one test ended.

    Args:
        method: as in ``--method``.
        suite: as in ``--suite``.
        test: pytest's id of the test.
        status: one of STATUSES; "refused" is a test that merges and ended in the method's refusal, as it must.
        reason: why it was skipped, else empty.
    """

    method: str
    suite: str
    test: str
    status: str
    reason: str = ""


def count(outcomes: Iterable[Outcome], methods: Sequence[str], suites: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each method and suite: method, suite, and a number for each of STATUSES."""
    found = Counter((outcome.method, outcome.suite, outcome.status) for outcome in outcomes)
    return [
        {"method": method, "suite": suite, **{status: found[method, suite, status] for status in STATUSES}}
        for method in methods
        for suite in suites
    ]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = "| method | suite | passed | refused as designed | skipped | failed |\n|---|---|---:|---:|---:|---:|"
    cells = ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join([head, *cells])


def skip_reasons(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How often each reason was given, whatever class or method it names."""
    reasons = (outcome.reason for outcome in outcomes if outcome.status == "skipped")
    named = re.compile(r"<class '[^']*'>|\w+Config\(.*\)", re.DOTALL)
    return Counter(named.sub("this class", reason.removeprefix("Skipped: ")) for reason in reasons)


def problems(rows: Iterable[dict[str, Any]], *, whole: bool = True) -> list[str]:
    """What makes a run fail: failed tests and, in a `whole` run, suites of which nothing passed."""
    found = []
    for row in rows:
        where = f"{row['method']}, {row['suite']}"
        if row["failed"]:
            found.append(f"{where}: {row['failed']} failed")
        if whole and not row["passed"]:
            found.append(f"{where}: no test passed")
    return found


def as_json(
    rows: list[dict[str, Any]], outcomes: Collection[Outcome], left_out: Counter[str], unrepresented: Sequence[str]
) -> dict[str, Any]:
    """Everything that was counted, and with which versions."""
    packages = ("peft", "torch", "transformers", "accelerate", "pytest")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "counts": rows,
        "skipped": dict(skip_reasons(outcomes).most_common()),
        "failed": sorted(outcome.test for outcome in outcomes if outcome.status == "failed"),
        "left_out": dict(sorted(left_out.items())),
        "models_without_stand_in": list(unrepresented),
    }
