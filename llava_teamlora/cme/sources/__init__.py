"""The 22 sets of the mix: where their files lie, what a row is, how many to take.

The paper trains on "2.5M … from 22 datasets" and lists them in an appendix that was never published. Eleven are the
tasks' own training splits; the others are inferred from the 132 example records that its authors published
(Lin-Tianwei/TeamLoRA at a39bc7d, train_example.json), or are our choice where those are silent: ``basis`` says which.
Record counts are those of the editions named; a build's manifest says what was read.
"""

from __future__ import annotations

from llava_teamlora.cme.sources.instructions import OTHERS
from llava_teamlora.cme.sources.source import MixSource
from llava_teamlora.cme.sources.tasks import TASKS
from llava_teamlora.errors import UserError, nearest

SOURCES: dict[str, MixSource] = {source.name: source for source in (*TASKS, *OTHERS)}


def get_source(name: str) -> MixSource:
    """The set of that name.

    Raises:
        UserError: an unknown name.
    """
    if name not in SOURCES:
        raise UserError(f"{name!r} is no set of the mix (known: {', '.join(SOURCES)}){nearest(name, SOURCES)}")
    return SOURCES[name]
