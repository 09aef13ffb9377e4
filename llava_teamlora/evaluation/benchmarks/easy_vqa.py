"""easy-VQA: 9673 questions about 1000 pictures of one coloured shape each.

Data: the test split inside the PyPI package ``easy-vqa`` 1.0 (MIT), read in place. Prompt: the question as it is.
Metric: exact match after stripping, lower-casing and dropping one trailing period. The package has no official
scorer. Its answers are 13 words: yes and no, 8 colours, 3 shapes. A model that was not tuned on them may answer in
sentences; ``lenient`` beside the metric takes the first word in the answer that is of the kind asked for.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Scores, Verdict

_GROUPS = {
    "yes/no": ("yes", "no"),
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
}


def default_root() -> Path:
    """The installed package's data folder, found without importing it.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError("easy_vqa: the package with the pictures is not installed; pip install easy-vqa==1.0")
    return Path(spec.origin).parent / "data"


def folder_of(data_root: Path | None) -> Path:
    """``easy-vqa`` under a folder of benchmarks, laid out as the package's data; without one, the package's own.

    Raises:
        UserError: the package is not installed.
    """
    return default_root() if data_root is None else data_root / "easy-vqa"


def image_folder(split: Literal["train", "test"], root: Path | None = None) -> Path:
    """Where a split's pictures lie, named ``<number>.png``."""
    return (root or default_root()) / split / "images"


def read_questions(root: Path, split: Literal["train", "test"]) -> list[tuple[str, str, int]]:
    """(question, answer, picture number) of a split, in the package's order.

    Raises:
        UserError: the file is missing or broken.
    """
    path = root / split / "questions.json"
    try:
        return [(str(q), str(a), int(i)) for q, a, i in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is {root} easy-vqa's data folder?") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is not a list of [question, answer, picture number] ({error})") from error


def group_of(answer: str) -> str:
    """``yes/no``, ``color`` or ``shape``: the kind of question that has this answer.

    Raises:
        UserError: not one of easy-VQA's 13 answers.
    """
    for name, answers in _GROUPS.items():
        if answer in answers:
            return name
    raise UserError(f"{answer!r} is not an answer of easy-VQA; is the data of another edition?")


class EasyVqa(Benchmark):
    """See the module's text and ``evaluation.types.Benchmark``."""

    name = "easy_vqa"
    summary = "9673 questions (yes/no, color, shape) about 1000 pictures; inside the easy-vqa package"
    metric = "accuracy"
    version = 1
    max_new_tokens = 16
    groups: tuple[str, ...] = tuple(_GROUPS)

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """The test split. A key is ``test/<row>``."""
        root = folder_of(data_root)
        return [
            Sample(
                key=f"test/{row}",
                question_id=row,
                prompt=question,
                targets=(answer,),
                image=image_folder("test", root) / f"{picture}.png",
                group=group_of(answer),
                cluster=str(picture),
                metadata={"picture": picture},
            )
            for row, (question, answer, picture) in enumerate(read_questions(root, "test"))
        ]

    def parse(self, text: str) -> str:
        """``" Yes. "`` -> ``"yes"``."""
        return text.strip().lower().removesuffix(".")

    def judge(self, sample: Sample, text: str) -> Verdict:
        """1 for an exact match; ``lenient`` as the module's text says."""
        parsed = self.parse(text)
        words = (word for word in re.findall(r"[a-z]+", text.lower()) if word in _GROUPS[sample.group])
        lenient = float(next(words, None) in sample.targets)
        return Verdict(parsed, float(parsed in sample.targets), {"lenient": lenient})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Accuracy, standard errors clustered by picture."""
        return grouped_mean(samples, verdicts, self.groups)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """Questions of both splits, and the test pictures."""
        root = folder_of(data_root)
        source = "the package easy-vqa 1.0 (pip install easy-vqa==1.0), its data folder"
        return [
            Need(root / "test" / "questions.json", "the questions", source),
            Need(root / "train" / "questions.json", "training answers, for the baselines", source),
            Need(root / "test" / "images", "the pictures", source, pictures=True),
        ]

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """What the training answers alone give: by the very same question, and the commonest of all."""
        train = read_questions(folder_of(data_root), "train")
        per_question: dict[str, Counter[str]] = defaultdict(Counter)
        for question, answer, _ in train:
            per_question[question][answer] += 1
        majority = _commonest(Counter(answer for _, answer, _ in train))
        lookup = {question: _commonest(counts) for question, counts in per_question.items()}
        return {
            "question-only": Baseline(
                "the commonest training answer to the same question, the picture unseen",
                {sample.key: lookup.get(sample.prompt, majority) for sample in samples},
            ),
            "majority": Baseline(
                f"always the commonest training answer, {majority!r}",
                {sample.key: majority for sample in samples},
            ),
        }


def _commonest(counts: Counter[str]) -> str:
    """The most frequent answer; the alphabet decides between equals."""
    return min(counts, key=lambda answer: (-counts[answer], answer))
