"""LLaVA-Bench's rubric: the judge reads captions, question and two answers, and writes two marks from 1 to 10.

Follows LLaVA's eval_gpt_review_bench.py: GPT-4's answer is Assistant 1, the model's Assistant 2. The instruction is
taken from LLaVA's ``llava/eval/table/rule.json`` where that is given as ``--judge_prompt``; else the words below are
used, and the metric says "own prompt": such scores are not comparable with published ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.llava_bench import CATEGORIES, REVIEWED, read_captions, read_references
from llava_teamlora.evaluation.endpoint import Reply
from llava_teamlora.evaluation.judging.provenance import OFFICIAL, answer_digest
from llava_teamlora.evaluation.judging.rubric import Grade, Message, Rubric
from llava_teamlora.evaluation.reading import read_json_object, take
from llava_teamlora.evaluation.types import Sample

_OFFICIAL_SHA256 = "2ae6e82801b24f2c2e6f63fcf35be02b07edf028637660c2ef1bb4bf4d54bd5c"
# The words of eval_gpt_review_bench.py's system turn.
_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."

_OWN = """\
Two assistants answered the user's question about a picture. You cannot see it; the lines under [Context] say what it \
shows. Judge how helpful, relevant, accurate and detailed each answer is, and give each a mark from 1 to 10; higher is \
better. The first line of your reply holds the two marks and nothing else: Assistant 1's, a space, Assistant 2's. From \
the second line on give your reasons. Do not favour an answer for its length or for standing first."""


class LlavaBenchRubric(Rubric):
    """See the module's text.

    Args:
        prompt_file: LLaVA's ``rule.json``; None for the package's own words.
        data_root: where the captions and GPT-4's answers lie; see ``Benchmark.load``.

    Raises:
        UserError: a file is missing or broken.
    """

    max_tokens = 1024
    # Differs from eval_gpt_review_bench.py: it asks once and writes [-1, -1] where it cannot read the marks.
    temperatures = (0.2, 0.2, 0.2)
    suffix = ".jsonl"
    most_runs = 1

    def __init__(self, prompt_file: Path | None = None, data_root: Path | None = None) -> None:
        own = {category: ("Assistant", _OWN) for category in CATEGORIES}
        self._rules: dict[str, tuple[str, str]] = own if prompt_file is None else _read_rules(prompt_file)
        self.prompt = json.dumps(self._rules, sort_keys=True)
        if hashlib.sha256(self.prompt.encode()).hexdigest() == _OFFICIAL_SHA256:
            self.prompt_name = OFFICIAL
        else:
            self.prompt_name = "own prompt" if prompt_file is None else f"prompt of {prompt_file.name}"
        self._captions = read_captions(data_root)
        self._references = read_references(data_root)

    def messages(self, sample: Sample, answer: str, again: bool) -> list[Message]:
        """System and user turn, the parts under headings in brackets."""
        role, instruction = self._rules[sample.group]
        if sample.cluster not in self._captions:
            raise UserError(f"context.jsonl has no caption of {sample.cluster!r}, which question {sample.key} is about")
        parts = [
            f"[Context]\n{self._captions[sample.cluster]}",
            f"[Question]\n{sample.prompt}",
            f"[{role} 1]\n{self._references[sample.key][0]}",
            f"[End of {role} 1]",
            f"[{role} 2]\n{answer}",
            f"[End of {role} 2]",
            f"[System]\n{instruction}",
        ]
        content = "".join(f"{part}\n\n" for part in parts)
        return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}]

    def parse(self, reply: Reply) -> tuple[float, ...] | None:
        """The two numbers of the first line, each from 0 to 10."""
        # Differs from eval_gpt_review_bench.py: "8, 7" and "8  7" are read too, not only "8 7" and "8,7".
        words = reply.text.split("\n")[0].replace(",", " ").split()
        try:
            marks = tuple(float(word) for word in words)
        except ValueError:
            return None
        return marks if len(marks) == 2 and all(0 <= mark <= 10 for mark in marks) else None

    def file(self, samples: Sequence[Sample], answers: Sequence[str], grades: Mapping[str, Sequence[Grade]]) -> str:
        """JSON lines, as LLaVA's summarize_gpt_review.py reads them."""
        rows = [
            {
                "id": number,
                "question_id": sample.question_id,
                "answer1_id": self._references[sample.key][1],
                "answer2_id": answer_digest(answer),
                "category": REVIEWED + sample.group,
                "content": grades[sample.key][0].content,
                "tuple": list(grades[sample.key][0].scores),
            }
            for number, (sample, answer) in enumerate(zip(samples, answers, strict=True), start=1)
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)


def _read_rules(path: Path) -> dict[str, tuple[str, str]]:
    """Category -> (role, instruction)."""
    content = read_json_object(path)
    rules: dict[str, tuple[str, str]] = {}
    for category in CATEGORIES:
        rule = take(content, REVIEWED + category, dict, str(path))
        where = f"{path}, {REVIEWED + category}"
        rules[category] = (take(rule, "role", str, where), take(rule, "prompt", str, where))
    return rules
