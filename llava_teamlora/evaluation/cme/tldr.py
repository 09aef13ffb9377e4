"""TL;DR: 6553 posts of Reddit's -> their summaries (OAI-Sum in Table 2).

Data: OpenAI's filtered TL;DR (openai/summarize-from-feedback, ``tldr_3_filtered``): ``{train,valid,test}.jsonl`` of
id, subreddit, title, post, summary; or the hub's conversions of it, where ``prompt`` is ``SUBREDDIT: … TITLE: …
POST: … TL;DR:`` and ``label`` (or ``completion``) the summary. Both give the same text: as the authors' records
show, the post alone, whole, without title and subreddit.

Metric: F1 of ROUGE-L without stemming, which Table 2's 27 suggests: trlX published 26.1 for GPT-J, fine-tuned on
these summaries, by the library evaluate, whose default is no stemming. ``rouge1``, ``rouge2`` and ``rougeL_stem``
(Porter's stems) stand beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.rouge import rouge
from llava_teamlora.evaluation.cme.task import Item, Source, TextTask, take_words
from llava_teamlora.evaluation.reading import take
from llava_teamlora.evaluation.types import Baseline, Sample, Verdict

_PROMPT = re.compile(r"SUBREDDIT:.*?\n\s*TITLE:.*?\n\s*POST:(?P<post>.*)\n\s*TL;DR:\s*", re.DOTALL)
_SENTENCE = re.compile(r".+?(?:[.!?。！？](?=\s|$)|\n|$)", re.DOTALL)


class Tldr(TextTask):
    """See the module's text."""

    name = folder = "tldr"
    summary = "TL;DR's 6553 test posts to be summarized; text only"
    metric = "ROUGE-L F1"
    version = 1
    max_new_tokens = 96  # references were chosen to have at most 48 of GPT-2's tokens
    groups: tuple[str, ...] = ()
    headline = ("rouge1", "rouge2")
    instruction = "Summarize this post in one or two sentences."
    paraphrases = (
        "Say briefly what the following text is about.",
        "What are the main points of the text below? Answer with a short summary.",
        "Shorten this text to its essence.",
        "Give the gist of the following post.",
        "Write a short summary of what this person tells.",
        "Sum up the passage below, keeping only what matters most.",
        "Put the following text into a few words that its author would agree with.",
    )
    tests = (
        Source(
            ("test.jsonl", "tldr_3_filtered/test.jsonl", "data/test-*.parquet", "test*.parquet"),
            "the test split, 6553 posts",
            "openai/summarize-from-feedback, datasets/tldr_3_filtered; CarperAI/openai_summarize_tldr on the hub",
            "test",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of JSON lines or parquet, in either form."""
        for index, (where, row) in enumerate(rows(path)):
            post, summary = _post(row, where), _summary(row, where)
            key = take(row, "id", str, where) if "id" in row else str(index)
            yield Item(key, post, (summary,), where, (post,))

    def judge(self, sample: Sample, text: str) -> Verdict:
        """See the module's text."""
        found = rouge(sample.targets[0], text)
        return Verdict(text.strip(), found.pop("rougeL"), found)

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """``lead``: the post's first sentence. ``majority``: always the same summary."""
        asked = f"{self.instruction}\n"
        first = {sample.key: _SENTENCE.match(sample.prompt.removeprefix(asked)) for sample in samples}
        lead = {key: found[0].strip() if found else "" for key, found in first.items()}
        return {"lead": Baseline("the post's first sentence", lead), **super().baselines(samples, data_root)}


def _post(row: Mapping[str, Any], where: str) -> str:
    if "prompt" not in row:
        return take_words(row, "post", where)
    prompt = take_words(row, "prompt", where)
    found = _PROMPT.fullmatch(prompt)
    if not found or not found["post"].strip():
        raise UserError(f"{where}: 'prompt' must read SUBREDDIT: … TITLE: … POST: … TL;DR:, found {prompt!r:.80}")
    return found["post"].strip()


def _summary(row: Mapping[str, Any], where: str) -> str:
    return take_words(row, next((name for name in ("label", "completion") if name in row), "summary"), where)
