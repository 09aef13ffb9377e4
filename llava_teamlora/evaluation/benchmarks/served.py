"""Splits whose truth is not public: predicted and exported here, scored by a server elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.types import Benchmark, Sample, Scores, Verdict


class ServedSplit(Benchmark):
    """A benchmark with ``server`` set; scoring it is a mistake that says what to do."""

    def judge(self, sample: Sample, text: str) -> Verdict:
        """Raise UserError: there is no truth to judge by."""
        raise self._no_truth()

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Raise UserError: there is no truth to judge by."""
        raise self._no_truth()

    def _no_truth(self) -> UserError:
        return UserError(f"{self.name}: its true answers are not public, so it cannot be scored here; {self.server}")
