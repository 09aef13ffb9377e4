"""MMBench and MMBench-CN: multiple choice, each question in every rotation of its options.

Data: the TSV of a split, pictures inside. Prompt: ``[hint\\n]question``, the option lines, and the sentence that asks
for a letter, as LLaVA's ``model_vqa_mmbench.py --single-pred-prompt`` asks. Metric: circular accuracy, as VLMEvalKit's
``mcq_circular_eval``: the rows of one question have the same ``index % 1e6``, and it is right where every row is. An
answer is read by :func:`choices.infer_letter`, without a judge model; what names no option is wrong, and
``unparsed``.

``mmbench_llava`` and ``mmbench_cn_llava`` repeat LLaVA's own reading of the file, in which options that read ``None``
or ``NA`` are missing, with all after them. The truth of the test splits is not public: their answers go to the server.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.mmbench_files import Pictures, read_table, write_sheet
from llava_teamlora.evaluation.benchmarks.served import ServedSplit
from llava_teamlora.evaluation.choices import SUFFIX, ask, guesses, infer_letter
from llava_teamlora.evaluation.metrics import grouped_mean, mean_score
from llava_teamlora.evaluation.reading import data_folder
from llava_teamlora.evaluation.types import Baseline, Benchmark, Need, Sample, Score, Scores, Verdict

_SUFFIX_CN = "请直接回答选项字母。"
_OPTIONS = "ABCD"
_ROTATION = 1_000_000
_COLUMNS = ("index", "question", "hint", *_OPTIONS, "image")
_TRUTH = ("answer", "category", "l2-category")
_SOURCE = "https://download.openmmlab.com/mmclassification/datasets/mmbench/"
# What pandas.read_table takes for a missing value, and LLaVA's is_none on top of it.
_PANDAS_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>")
    + ("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
)

Options = Callable[[Mapping[str, str], str], tuple[str, ...]]


def missing_to_llava(cell: str) -> bool:
    """Whether LLaVA's script takes a cell for missing."""
    return cell in _PANDAS_MISSING or cell.lower() in ("nan", "none")


def all_options(row: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The row's options; only empty cells at the end are none.

    Raises:
        UserError: an option follows an empty one, or there are fewer than two.
    """
    cells = [row[letter] for letter in _OPTIONS]
    while cells and not cells[-1]:
        cells.pop()
    if "" in cells or len(cells) < 2:
        shown = ", ".join(letter for letter in _OPTIONS if row[letter]) or "none"
        raise UserError(f"{where}: options must fill the columns from A on, at least two; filled are {shown}")
    return tuple(cells)


def options_of_llava(row: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The row's options up to the first that LLaVA's script takes for missing."""
    cells = [row[letter] for letter in _OPTIONS]
    end = next((place for place, cell in enumerate(cells) if missing_to_llava(cell)), len(cells))
    return tuple(cells[:end])


class MmBench(Benchmark):
    """One split in one language; see the module's text and ``evaluation.types.Benchmark``."""

    metric = "circular accuracy"
    version = 1
    max_new_tokens = 1024
    groups: tuple[str, ...] = (
        "attribute_reasoning",
        "coarse_perception",
        "finegrained_perception (cross-instance)",
        "finegrained_perception (instance-level)",
        "logic_reasoning",
        "relation_reasoning",
    )
    headline = (*groups, "plain", "unparsed", "all rotations")

    def __init__(
        self,
        name: str,
        summary: str,
        file: str,
        folders: Sequence[str],
        *,
        suffix: str = SUFFIX,
        options: Options = all_options,
    ) -> None:
        """Describe a split.

        Args:
            name: as on the command line.
            summary: one line.
            file: the TSV.
            folders: where it may lie under the data root; the first is its usual place.
            suffix: what asks for a letter.
            options: reads a row's options.
        """
        self.name, self.summary = name, summary
        self._file, self._folders, self._suffix, self._options = file, folders, suffix, options

    def _path(self, data_root: Path | None) -> Path:
        places = [data_folder(data_root, folder) / self._file for folder in self._folders]
        return next((place for place in places if place.is_file()), places[0])

    def load(self, data_root: Path | None = None) -> list[Sample]:
        """One sample a row; the key is its index."""
        path = self._path(data_root)
        if not path.is_file():
            places = " nor in ".join(self._folders[1:])
            also = f" (nor in {places})" if places else ""
            raise UserError(f"{path}: no such file{also}; get it from {_SOURCE}{self._file}, or name --data_root")
        pictures = Pictures()
        rows: dict[str, tuple[str, dict[str, str]]] = {}
        for where, row in read_table(path, (*_COLUMNS, *(() if self.server else _TRUTH))):
            index = str(_index(row, where))
            if index in rows:
                raise UserError(f"{where}: index {index} again, as {rows[index][0].removeprefix(f'{path}, ')}")
            rows[index] = where, row | {"image": pictures.add(index, row["image"], where)}
        rotations = Counter(int(index) % _ROTATION for index in rows)
        return [
            self._sample(row, where, pictures.find(row["image"], where), rotations)
            for index, (where, row) in rows.items()
        ]

    def _sample(self, row: Mapping[str, str], where: str, image: Any, rotations: Mapping[int, int]) -> Sample:
        index, choices = _index(row, where), self._options(row, where)
        hint = "" if missing_to_llava(row["hint"]) else row["hint"]
        question = f"{hint}\n{row['question']}" if hint else row["question"]
        prompt = ask(question, choices, self._suffix)
        return Sample(
            key=str(index),
            question_id=index,
            prompt=prompt,
            targets=() if self.server else (_answer(row, where),),
            image=image,
            group=row.get("l2-category", ""),
            cluster=str(index % _ROTATION),
            choices=choices,
            # LLaVA's script records the prompt before it appends the sentence.
            llava_prompt=prompt.removesuffix(f"\n{self._suffix}"),
            metadata={
                "question": question,
                "hint": hint,
                "category": row.get("category", ""),
                "split": row.get("split", ""),
                "rotations": rotations[index % _ROTATION],
            },
        )

    def judge(self, sample: Sample, text: str) -> Verdict:
        """One row: 1 for the right letter."""
        letter = infer_letter(text, sample.choices)
        return Verdict(letter, float(letter in sample.targets), {"unparsed": float(not letter)})

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        """Circular accuracy, in total, by l2-category and by category.

        Beside it ``plain``, the share of rows that are right. Where only some rows of a question were answered, those
        decide, and ``all rotations`` is the share of questions that were answered in full.
        """
        questions, hits = _circular(samples, verdicts)
        order = dict.fromkeys((*self.groups, *sorted({sample.group for sample in questions})))
        circular = grouped_mean(questions, hits, list(order))
        extra = {"plain": mean_score(samples, verdicts)}
        extra["unparsed"] = mean_score(samples, [Verdict("", verdict.extra["unparsed"]) for verdict in verdicts])
        unfinished = _completeness(questions, Counter(sample.cluster for sample in samples))
        if unfinished.value < 1:
            extra["all rotations"] = unfinished
        return Scores(circular.total, circular.groups, extra | _by_category(questions, hits))

    def baselines(self, samples: Sequence[Sample], data_root: Path | None = None) -> dict[str, Baseline]:
        """Always A, and an option drawn by the question's key."""
        return guesses(samples)

    def needs(self, data_root: Path | None = None) -> list[Need]:
        """The TSV, pictures and all."""
        return [Need(self._path(data_root), "questions, answers and pictures", f"{_SOURCE}{self._file}")]

    def export(
        self, samples: Sequence[Sample], texts: Sequence[str], out: Path, data_root: Path | None = None
    ) -> list[Path]:
        """The XLSX of LLaVA's ``convert_mmbench_for_submission.py``, for the server; named like the TSV."""
        path = (out / self._file).with_suffix(".xlsx")
        truth = () if self.server else ("answer",)
        rows = [_upload_row(sample, text) for sample, text in zip(samples, texts, strict=True)]
        write_sheet(path, ("index", "question", *_OPTIONS, "prediction", *truth, "split"), rows)
        return [path]


def _index(row: Mapping[str, str], where: str) -> int:
    try:
        return int(row["index"])
    except ValueError as error:
        raise UserError(f"{where}: 'index' must be a whole number, found {row['index']!r:.80}") from error


def _answer(row: Mapping[str, str], where: str) -> str:
    """The right letter.

    Raises:
        UserError: it is no letter of an option.
    """
    answer = row["answer"]
    if answer not in tuple(_OPTIONS) or not row[answer]:
        filled = ", ".join(letter for letter in _OPTIONS if row[letter])
        raise UserError(f"{where}: 'answer' must be the letter of an option ({filled}), found {answer!r:.80}")
    return answer


def _circular(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> tuple[list[Sample], list[Verdict]]:
    """One sample a question, its first row's, and whether all its rows are right."""
    first: dict[str, Sample] = {}
    right: dict[str, float] = defaultdict(lambda: 1.0)
    for sample, verdict in zip(samples, verdicts, strict=True):
        first.setdefault(sample.cluster, sample)
        right[sample.cluster] = min(right[sample.cluster], verdict.score)
    return list(first.values()), [Verdict("", right[cluster]) for cluster in first]


def _completeness(questions: Sequence[Sample], answered: Mapping[str, int]) -> Score:
    full = [float(answered[sample.cluster] == sample.metadata["rotations"]) for sample in questions]
    return mean_score(questions, [Verdict("", value) for value in full])


def _by_category(questions: Sequence[Sample], hits: Sequence[Verdict]) -> dict[str, Score]:
    members: dict[str, list[tuple[Sample, Verdict]]] = defaultdict(list)
    for sample, hit in zip(questions, hits, strict=True):
        members[sample.metadata["category"]].append((sample, hit))
    return {
        f"category: {name}": mean_score([sample for sample, _ in members[name]], [hit for _, hit in members[name]])
        for name in sorted(members)
    }


def _upload_row(sample: Sample, text: str) -> list[str | int | None]:
    hint, question = sample.metadata["hint"], sample.metadata["question"]
    options = [sample.choices[place] if place < len(sample.choices) else None for place in range(len(_OPTIONS))]
    bare = question.removeprefix(f"{hint}\n") if hint else question
    return [int(sample.key), bare, *options, text, *sample.targets, sample.metadata["split"]]


class MmBenchTest(ServedSplit, MmBench):
    """A split whose truth the server keeps."""

    server = "hand the .xlsx of evaluate export in at https://mmbench.opencompass.org.cn/mmbench-submission"


_DEV, _DEV_CN = "mmbench_dev_20230712.tsv", "mmbench_dev_cn_20231003.tsv"
_TEST, _TEST_CN = "mmbench_test_20230712.tsv", "mmbench_test_cn_20231003.tsv"
_PLACES_CN = ("mmbench_cn", "mmbench")

MMBENCH = MmBench("mmbench", "4377 rows, 1176 questions in all rotations of their options, English", _DEV, ("mmbench",))
MMBENCH_CN = MmBench("mmbench_cn", "MMBench's questions in Chinese", _DEV_CN, _PLACES_CN, suffix=_SUFFIX_CN)
MMBENCH_LLAVA = MmBench(
    "mmbench_llava", "mmbench with options lost as in LLaVA's script", _DEV, ("mmbench",), options=options_of_llava
)
MMBENCH_CN_LLAVA = MmBench(
    "mmbench_cn_llava",
    "mmbench_cn with options lost as in LLaVA's script",
    _DEV_CN,
    _PLACES_CN,
    suffix=_SUFFIX_CN,
    options=options_of_llava,
)
MMBENCH_TEST = MmBenchTest("mmbench_test", "MMBench's test split, for the server", _TEST, ("mmbench",))
MMBENCH_CN_TEST = MmBenchTest("mmbench_cn_test", "the same in Chinese", _TEST_CN, _PLACES_CN, suffix=_SUFFIX_CN)
