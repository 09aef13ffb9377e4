"""MM-Vet's rubric: a table of graded examples, whose last row the judge completes with a number from 0 to 1.

Follows mm-vet_evaluator.py of yuweihao/MM-Vet. Its examples are of MM-Vet's own questions (CC BY-NC 4.0) and are not
in this package: give that very file as ``--judge_prompt``, or a text file. Else the examples below are used, and the
metric says "own prompt": such grades are not comparable with published ones.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.endpoint import Reply
from llava_teamlora.evaluation.judging.provenance import OFFICIAL
from llava_teamlora.evaluation.judging.rubric import Grade, Message, Rubric
from llava_teamlora.evaluation.reading import read_text
from llava_teamlora.evaluation.types import Sample

_OFFICIAL_SHA256 = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
# Sent after the table where a reply could not be read; the words are mm-vet_evaluator.py's.
_AGAIN = "\nPredict the correctness of the answer (digit): "

_OWN = """\
You grade answers to questions about pictures which you cannot see. Every row of the table has a question, the correct \
answer, an answer to grade and its grade, from 0.0 (wrong) to 1.0 (right) in steps of 0.1. If the correct answer has \
parts joined by <AND>, all of them are needed for 1.0, and each that is there counts. If it has alternatives joined by \
<OR>, one is enough. Meaning counts, not wording; what an answer adds matters only where it contradicts the correct \
one. Complete the last row with its grade and write nothing else.

Question | Correct answer | Answer to grade | Grade
--- | --- | --- | ---
Which fruits lie on the plate? | apple <AND> pear | There are bananas on it. | 0.0
Which fruits lie on the plate? | apple <AND> pear | I see an apple. | 0.5
Which fruits lie on the plate? | apple <AND> pear | A pear and a red apple. | 1.0
What colour is the van? | dark red <OR> maroon | It is maroon. | 1.0
What does the sign tell drivers? | Bridges freeze before roads do, so drivers should slow down in winter. | It warns \
that the bridge may be icy. | 0.7
"""


class MmVetRubric(Rubric):
    """See the module's text.

    Args:
        prompt_file: ``mm-vet_evaluator.py`` or a text file; None for the package's own examples.

    Raises:
        UserError: the file holds no prompt.
    """

    max_tokens = 3
    # Five replies are read before the official tool gives up; the second is asked for at 0 again.
    temperatures = (0.0, 0.0, 0.5, 1.0, 1.5)
    zero = (0.0,)

    def __init__(self, prompt_file: Path | None = None) -> None:
        self.prompt = _OWN if prompt_file is None else _read_prompt(prompt_file)
        if hashlib.sha256(self.prompt.encode()).hexdigest() == _OFFICIAL_SHA256:
            self.prompt_name = OFFICIAL
        else:
            self.prompt_name = "own prompt" if prompt_file is None else f"prompt of {prompt_file.name}"

    def messages(self, sample: Sample, answer: str, again: bool) -> list[Message]:
        """The table and the row to complete, as one user's turn."""
        truth = sample.targets[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        row = " | ".join([sample.prompt, truth, answer, ""])
        return [{"role": "user", "content": f"{self.prompt}\n{row}{_AGAIN if again else ''}"}]

    def parse(self, reply: Reply) -> tuple[float, ...] | None:
        """The first word, if it is a number from 0 to 1."""
        word = reply.text.split(" ")[0].strip()
        # Differs from mm-vet_evaluator.py: a number that the token limit may have cut ("0." of "0.7") is not read as 0.
        if reply.finish == "length" and word == reply.text.strip() and word in ("0", "0."):
            return None
        try:
            score = float(word)
        except ValueError:
            return None
        # Differs from mm-vet_evaluator.py: "nan" is no grade.
        return (score,) if 0 <= score <= 1 else None

    def file(self, samples: Sequence[Sample], answers: Sequence[str], grades: Mapping[str, Sequence[Grade]]) -> str:
        """{id: {model: […], content: […], score: […]}}, one entry a run."""
        content = {
            sample.key: {
                "model": [grade.model for grade in grades[sample.key]],
                "content": [grade.content for grade in grades[sample.key]],
                "score": [grade.scores[0] for grade in grades[sample.key]],
            }
            for sample in samples
        }
        return json.dumps(content, indent=4)


def _read_prompt(path: Path) -> str:
    text = read_text(path)
    if path.suffix in (".ipynb", ".json"):
        raise UserError(f"{path}: is no text of a prompt; give mm-vet_evaluator.py or a text file (--judge_prompt)")
    if path.suffix != ".py":
        if not text.strip():
            raise UserError(f"{path}: is empty, so it is no prompt (--judge_prompt)")
        return text
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}: is not Python ({error.msg}, line {error.lineno})") from error
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == "prompt" for target in node.targets)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            return node.value.value
    raise UserError(f'{path}: has no line prompt = """…""", as MM-Vet\'s mm-vet_evaluator.py has (--judge_prompt)')
