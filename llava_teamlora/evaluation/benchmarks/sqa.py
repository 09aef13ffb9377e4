"""ScienceQA, test split: 4241 multiple-choice questions, 2017 of them with a picture.

Data: ScienceQA's ``problems.json`` and ``pid_splits.json``, and LLaVA's ``llava_test_CQM-A.json``, whose prompts are
used. ``evaluate build`` makes it from the former two, like the one in LLaVA's eval.zip, which LLaVA-1.5's figures are
of; what LLaVA's ``convert_sqa_to_llava.py`` writes under that name has other prompts. Prompt:
``[Context: hint\\n]question``, the option lines, the sentence that asks for a letter; a question without a picture is
asked without one.

Parse: as LLaVA's ``eval_science_qa.py``. The total is its IMG-Accuracy, of the questions with a picture, which papers
call SQA-I; ``all`` is its accuracy over all. The groups are those of ScienceQA's ``tools/evaluate_acc.py``, over all
questions: subject, what stands in the context (text, image, nothing) and grade.

Differs from eval_science_qa.py: a missing answer is refused, or left out by name (``--partial``); there it is wrong,
and leaves the number of questions with a picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.question_files import EVAL_ZIP
from llava_teamlora.evaluation.choices import LETTERS, SUFFIX, context, guesses, option_lines
from llava_teamlora.evaluation.metrics import mean_score
from llava_teamlora.evaluation.reading import (
    data_folder,
    expect_object,
    read_json_list,
    read_json_object,
    take,
)
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict
from llava_teamlora.files import write_atomically

FOLDER = "scienceqa"
_PROBLEMS, _SPLITS, _QUESTIONS = "problems.json", "pid_splits.json", "llava_test_CQM-A.json"
_SPLIT = "test"
_OPTIONS = "ABCDE"
_IMAGE = "<image>"
_SOURCE = "https://github.com/lupantech/ScienceQA, data/scienceqa"
_STATED = re.compile(r"The answer is ([A-Z]).")
_GRADES = {f"grade{number}": number for number in range(1, 13)}
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}

Row = tuple[Sample, Verdict]


def parse(text: str) -> str:
    """The letter that LLaVA's script finds, or ``""``: alone, before ``". "``, or once in ``The answer is B.``."""
    if len(text) == 1 and text in _OPTIONS:
        return text
    if len(text) >= 3 and text[0] in _OPTIONS and text[1:3] == ". ":
        return text[0]
    stated = _STATED.findall(text)
    return stated[0] if len(stated) == 1 else ""


class ScienceQa(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "sqa"
    summary = "ScienceQA's 4241 test questions; the total is of the 2017 with a picture (SQA-I)"
    metric = "accuracy, questions with a picture"
    version = 1
    max_new_tokens = 1024
    groups: tuple[str, ...] = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """In the order of LLaVA's file; the key is ScienceQA's problem id."""
        folder = data_folder(data_root, FOLDER)
        problems = _read_problems(folder)
        if not (folder / _QUESTIONS).is_file():
            raise UserError(
                f"{folder / _QUESTIONS}: no such file; take it from {EVAL_ZIP} or make it: llava-teamlora evaluate "
                "build sqa"
            )
        samples: dict[str, Sample] = {}
        for where, row in read_json_list(folder / _QUESTIONS):
            identity = take(row, "id", str, where)
            if identity in samples or identity not in problems:
                kind = "stands twice" if identity in samples else f"is not in the {_SPLIT} split of {_SPLITS}"
                raise UserError(f"{where}: id {identity!r} {kind}; are the files of one edition?")
            samples[identity] = _sample(row, where, problems[identity], f"{folder / _PROBLEMS}, {identity!r}", folder)
        missing = [identity for identity in problems if identity not in samples]
        if missing:
            raise UserError(
                f"{folder / _QUESTIONS}: lacks {len(missing)} of the {len(problems)} questions of the {_SPLIT} split "
                f"({missing[0]} is the first); make it anew: llava-teamlora evaluate build sqa"
            )
        return list(samples.values())

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for the right letter; one beyond the options is none."""
        letter = parse(text)
        valid = letter if letter in tuple(LETTERS[: len(sample.choices)]) else ""
        return Verdict(valid, float(valid in sample.targets), {"unparsed": float(not valid)})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Accuracy of the questions with a picture; of all, by subject, context and grade.

        Raises:
            UserError: none of them has a picture.
        """
        rows = list(zip(samples, verdicts, strict=True))
        parts = {name: _mean([row for row in rows if member(row[0])]) for name, member in _MEMBERS.items()}
        groups = {name: score for name, score in parts.items() if score is not None}
        if "IMG" not in groups:
            raise UserError(
                f"{self.name}: none of the {len(rows)} answered questions has a picture; answer more of them"
            )
        unparsed = mean_score(samples, [Verdict("", verdict.extra["unparsed"]) for verdict in verdicts])
        return Scores(groups["IMG"], groups, {"all": mean_score(samples, verdicts), "unparsed": unparsed})

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Always A, and an option drawn by the question's id."""
        return guesses(samples)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Problems, their splits, LLaVA's questions, pictures."""
        folder = data_folder(data_root, FOLDER)
        official = (
            Need(folder / _PROBLEMS, "questions, options and answers", _SOURCE),
            Need(folder / _SPLITS, "which questions are the test split", _SOURCE),
        )
        return [
            *official,
            Need(folder / _QUESTIONS, "LLaVA's prompts", EVAL_ZIP, made_from=official),
            Need(folder / "images" / _SPLIT, "the pictures", f"{_SOURCE}, tools/download.sh", pictures=True),
        ]

    def build(self, data_root: Path | None = None) -> dict[Path, list[dict[str, Any]]]:
        """LLaVA's question file, a record a question in the split's order."""
        folder = data_folder(data_root, FOLDER)
        rows = [
            _llava_row(identity, problem, f"{folder / _PROBLEMS}, {identity!r}")
            for identity, problem in _read_problems(folder).items()
        ]
        return {folder / _QUESTIONS: rows}

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """What ScienceQA's ``tools/evaluate_acc.py`` takes, as eval_science_qa.py writes it: id -> option's number."""
        answers = dict(zip((sample.key for sample in samples), texts, strict=True))
        results = {
            sample.key: LETTERS.find(self.judge(sample, text).parsed or "-")
            for sample, text in zip(samples, texts, strict=True)
        }
        path = out / "sqa_results.json"
        content = {"results": results, "outputs": answers}
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return [path]


def _read_problems(folder: Path) -> dict[str, dict[str, Any]]:
    """The test split's problems by id, in the split's order.

    Raises:
        UserError: a file is missing or broken, or they do not belong together.
    """
    path = folder / _PROBLEMS
    problems, splits = read_json_object(path), read_json_object(folder / _SPLITS)
    identities = take(splits, _SPLIT, list, str(folder / _SPLITS))
    strange = [identity for identity in identities if not isinstance(identity, str)]
    if strange:
        raise UserError(f"{folder / _SPLITS}: {_SPLIT!r} must hold ids as texts, found {strange[0]!r:.80}")
    absent = [identity for identity in identities if identity not in problems]
    if absent:
        raise UserError(
            f"{path}: lacks {len(absent)} of the {len(identities)} questions of {_SPLITS}'s {_SPLIT!r} "
            f"({absent[0]} is the first); are they of one edition?"
        )
    return {identity: expect_object(problems[identity], f"{path}, {identity!r}") for identity in identities}


def _choices(problem: Mapping[str, Any], where: str) -> tuple[str, ...]:
    choices = take(problem, "choices", list, where)
    if not 2 <= len(choices) <= len(_OPTIONS) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: 'choices' must be 2 to {len(_OPTIONS)} texts, found {choices!r:.80}")
    return tuple(choices)


def _answer(problem: Mapping[str, Any], choices: Sequence[str], where: str) -> str:
    number = take(problem, "answer", int, where)
    if not 0 <= number < len(choices):
        raise UserError(f"{where}: 'answer' must be the number of one of {len(choices)} options from 0, found {number}")
    return LETTERS[number]


def _question(problem: Mapping[str, Any], where: str) -> str:
    """The question with its context, without the options."""
    hint, question = take(problem, "hint", str, where), take(problem, "question", str, where)
    return f"Context: {hint}\n{question}" if hint else question


def _sample(row: Mapping[str, Any], where: str, problem: Mapping[str, Any], problem_where: str, folder: Path) -> Sample:
    identity, picture = row["id"], take(row, "image", str, where) if "image" in row else None
    if (picture is None) != (take(problem, "image", (str, type(None)), problem_where) is None):
        raise UserError(f"{where}: whether {identity!r} has a picture is not as {problem_where} has it; build it anew")
    choices = _choices(problem, problem_where)
    turns = take(row, "conversations", list, where)
    human = take(expect_object(turns[0] if turns else None, f"{where}, conversations[0]"), "value", str, where)
    prompt = f"{human.replace(_IMAGE, '').strip()}\n{SUFFIX}"
    front = context(prompt, take(problem, "question", str, problem_where), choices)
    if front is None or (front and not front.startswith("Context:")):
        raise UserError(
            f"{where}: the prompt {prompt!r:.200} does not ask the question and the options A., B., … that "
            f"{problem_where} has ({problem['question']!r:.120}); convert_sqa_to_llava.py writes other prompts, and "
            "other editions other questions; take LLaVA's file or make it anew: llava-teamlora evaluate build sqa"
        )
    facts = {name: take(problem, name, str, problem_where) for name in ("subject", "topic", "grade")}
    _check_grade(facts["grade"], problem_where)
    return Sample(
        key=identity,
        question_id=identity,
        prompt=prompt,
        targets=(_answer(problem, choices, problem_where),),
        image=folder / "images" / _SPLIT / picture if picture else None,
        group=_SUBJECTS.get(facts["subject"], facts["subject"]),
        choices=choices,
        # LLaVA's script records the marker of the picture, and its scorer looks for it there.
        llava_prompt=f"{_IMAGE}\n{prompt}" if picture else None,
        metadata={"question": _question(problem, problem_where), "hint": bool(problem["hint"]), **facts},
    )


def _llava_row(identity: str, problem: Mapping[str, Any], where: str) -> dict[str, Any]:
    """As in LLaVA's eval.zip; like LLaVA's converter, it makes one space of two."""
    choices, picture = _choices(problem, where), take(problem, "image", (str, type(None)), where)
    text = f"{_question(problem, where)}\n{option_lines(choices)}".replace("  ", " ").strip()
    return {
        "id": identity,
        **({"image": f"{identity}/{picture}"} if picture else {}),
        "conversations": [
            {"from": "human", "value": f"{_IMAGE}\n{text}" if picture else text},
            {"from": "gpt", "value": _answer(problem, choices, where)},
        ],
    }


def _check_grade(grade: str, where: str) -> None:
    if grade not in _GRADES:
        raise UserError(f"{where}: 'grade' must be grade1 to grade12, found {grade!r:.80}")


# ScienceQA's nine columns less the last, its average, which is "all".
_MEMBERS: dict[str, Callable[[Sample], bool]] = {
    "NAT": lambda sample: sample.group == "NAT",
    "SOC": lambda sample: sample.group == "SOC",
    "LAN": lambda sample: sample.group == "LAN",
    "TXT": lambda sample: sample.metadata["hint"],
    "IMG": lambda sample: sample.image is not None,
    "NO": lambda sample: sample.image is None and not sample.metadata["hint"],
    "G1-6": lambda sample: _GRADES[sample.metadata["grade"]] <= 6,
    "G7-12": lambda sample: _GRADES[sample.metadata["grade"]] >= 7,
}


def _mean(rows: Sequence[Row]) -> Score | None:
    return mean_score([sample for sample, _ in rows], [verdict for _, verdict in rows]) if rows else None
