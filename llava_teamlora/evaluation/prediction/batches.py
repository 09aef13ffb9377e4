"""Samples -> batches: which follow from the samples and the batch size alone, however many processes share them.

So a run that was killed goes on with the very batches it would have had, and gives the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_teamlora.evaluation.types import Picture, Sample


def make_batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Longest first, so that memory runs out at once if at all; a picture's questions side by side.

    Questions with a picture, whose patches are hundreds of tokens, are not put together with those without.
    """
    longest: dict[Picture | str, int] = {}
    for sample in samples:
        group = sample.image or sample.key
        longest[group] = max(longest.get(group, 0), len(sample.prompt))

    def order(sample: Sample) -> tuple[int, str, int]:
        group = sample.image or sample.key
        return (-longest[group], str(group), -len(sample.prompt))

    batches = []
    for pictured in (True, False):
        ordered = sorted((sample for sample in samples if (sample.image is not None) is pictured), key=order)
        batches += [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return batches
