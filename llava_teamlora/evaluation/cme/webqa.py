"""WebQA: 3024 Chinese questions of fact -> their answers.

Data: Baidu's WebQA 1.0, ``me_test.ann.json`` (training ``me_train.json``): ``{id: {question, evidences: {id:
{answer: […], evidence}}}}``; the evidence is not shown. All answers of a question's evidences are accepted, the one
most evidences have first; ``no_answer`` is none, and a question of which every evidence says so is left out, and
counted, for nobody knows its answer. Or the hub's suolyer/webqa, JSON lines of id, input, output in
``{train,validation,test}.json``.

The authors' records of WebQA answer in the form ``answer。evidence``, with ``<e>`` between evidences, and so may the
hub's file: of an output its first sentence is the answer. Here training writes that alone.
# Differs from the authors' records: the evidence behind the answer would be learnt by heart and cannot be scored.
For models that were trained as theirs, an answer is right if it is an accepted one as a whole or by its first
sentence.

Metric: exact match, which the size of Table 2's numbers suggests (inferred), after ``chinese_form``; beside it
``char_f1``, the share of the longest run of characters in common (after CMRC 2018's F1; see ``run_f1``), and
``strict``, exact match of the whole alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.files import rows
from llava_teamlora.evaluation.cme.open_answers import OpenQuestion, best_f1, chinese_form, run_f1
from llava_teamlora.evaluation.cme.streaming import stream_members
from llava_teamlora.evaluation.cme.task import Item, Source, take_words
from llava_teamlora.evaluation.reading import expect_object, stream_json_lines, take
from llava_teamlora.evaluation.types import Sample, Verdict

_NO_ANSWER = "no_answer"
_SENTENCE_END = re.compile("。|｡|\n|<e>")


def first_sentence(text: str) -> str:
    """``"安徽。安徽口子酒业……"`` -> ``"安徽"``."""
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0].strip()


class WebQa(OpenQuestion):
    """See the module's text."""

    name = folder = "webqa"
    summary = "WebQA's 3024 Chinese test questions of fact; text only"
    version = 1
    form = staticmethod(chinese_form)
    headline = ("char_f1",)
    tests = (
        Source(
            ("WebQA.v1.0/me_test.ann.json", "me_test.ann.json", "test.json", "test.jsonl", "test*.parquet"),
            "the test split, 3024 questions",
            "Baidu's WebQA 1.0 (arXiv 1607.06275; kexue.fm/archives/4338 has it without features), or suolyer/webqa on "
            "the hub",
            "test",
        ),
    )

    def items(self, path: Path, group: str = "") -> Iterator[Item]:
        """Of Baidu's ``me_*.json``, or of rows of id, input, output."""
        if path.name.startswith("me_"):
            for where, key, content in stream_members(path):
                row = expect_object(content, where)
                question = take_words(row, "question", where)
                yield Item(key, question, _answers(row, where), where, (question,))
            return
        # The hub's files are JSON lines, whatever their ending says.
        for index, (where, row) in enumerate(rows(path) if path.suffix != ".json" else stream_json_lines(path)):
            question, output = take_words(row, "input", where), take_words(row, "output", where)
            answer = first_sentence(output) or output
            yield Item(str(row.get("id", index)), question, (answer,), where, (question,))

    def judge(self, sample: Sample, text: str) -> Verdict:
        """See the module's text. What counts as understood is the first sentence, if the whole is not right."""
        accepted = [chinese_form(target) for target in sample.targets]
        whole, first = chinese_form(text), chinese_form(first_sentence(text))
        parsed = whole if whole in accepted else first
        extra = {"char_f1": best_f1(run_f1, parsed, accepted), "strict": float(whole in accepted)}
        return Verdict(parsed, float(parsed in accepted), extra)


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The different answers of a question's evidences, the commonest first."""
    found: Counter[str] = Counter()
    for name, content in take(row, "evidences", dict, where).items():
        place = f"{where}, {name!r}"
        answers = take(expect_object(content, place), "answer", list, place)
        if not all(isinstance(answer, str) for answer in answers):
            raise UserError(f"{place}: 'answer' must be a list of texts, found {answers!r:.80}")
        found.update(answer.strip() for answer in answers if answer.strip() not in ("", _NO_ANSWER))
    return tuple(answer for answer, _ in found.most_common())
