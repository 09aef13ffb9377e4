"""Writing rows as the public files of the eleven tasks, which evaluation and ``cme build`` read.

In: rows of one split. Out: file names below the split's folder, and their content. The editions are the original
distributions'; training splits have the names that these give them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .subjects import SUBJECTS
from .words import Row

Files = Iterator[tuple[str, str]]


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row.fields, ensure_ascii=False) + "\n" for row in rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """GLUE's way: tabs, a header, no quotes."""
    return "".join("\t".join(map(str, line)) + "\n" for line in (columns, *rows))


def _imdb(rows: Sequence[Row], train: bool) -> Files:
    count = {"positive": 0, "negative": 0}
    for row in rows:
        name = f"{count[row.answer]}_{row.fields['rating']}.txt"
        count[row.answer] += 1
        yield f"aclImdb/{'train' if train else 'test'}/{row.answer[:3]}/{name}", row.fields["text"]


def _anli(rows: Sequence[Row], train: bool) -> Files:
    for part in ("R1", "R2", "R3"):
        some = [row for row in rows if row.part == part]
        lines = [Row("anli", (), "", {"uid": f"{part}-{i}", **row.fields}) for i, row in enumerate(some)]
        yield f"anli_v1.0/{part}/{'train' if train else 'test'}.jsonl", _json_lines(lines)


def _qqp(rows: Sequence[Row], train: bool) -> Files:
    columns = ("question1", "question2", "is_duplicate")
    lines = [(i, 2 * i, 2 * i + 1, *(row.fields[column] for column in columns)) for i, row in enumerate(rows)]
    yield f"QQP/{'train' if train else 'dev'}.tsv", _table(("id", "qid1", "qid2", *columns), lines)


def _rte(rows: Sequence[Row], train: bool) -> Files:
    columns = ("sentence1", "sentence2", "label")
    lines = [(i, *(row.fields[column] for column in columns)) for i, row in enumerate(rows)]
    yield f"RTE/{'train' if train else 'dev'}.tsv", _table(("index", *columns), lines)


def _winogrande(rows: Sequence[Row], train: bool) -> Files:
    yield f"winogrande_1.1/{'train_xl' if train else 'dev'}.jsonl", _json_lines(rows)


def _arc(rows: Sequence[Row], train: bool) -> Files:
    for part in ("Easy", "Challenge"):
        name = f"ARC-{part}"
        some = [row for row in rows if row.part == part]
        yield f"ARC-V1-Feb2018-2/{name}/{name}-{'Train' if train else 'Test'}.jsonl", _json_lines(some)


def _webqa(rows: Sequence[Row], train: bool) -> Files:
    content = {
        f"Q_WORLD_{number:05d}": {
            "question": row.fields["question"],
            "evidences": {
                f"Q_WORLD_{number:05d}#00": {"answer": row.fields["answer"], "evidence": row.fields["evidence"]}
            },
        }
        for number, row in enumerate(rows)
    }
    yield f"WebQA.v1.0/{'me_train' if train else 'me_test.ann'}.json", _pretty(content)


def _nq(rows: Sequence[Row], train: bool) -> Files:
    yield f"NQ-open.{'train' if train else 'dev'}.jsonl", _json_lines(rows)


def _triviaqa(rows: Sequence[Row], train: bool) -> Files:
    split = "train" if train else "dev"
    data = [{"QuestionId": f"world_{number}", **row.fields} for number, row in enumerate(rows)]
    yield f"triviaqa-unfiltered/unfiltered-web-{split}.json", _pretty({"Data": data, "Split": split, "Version": 1.0})


def _mmlu(rows: Sequence[Row], train: bool) -> Files:
    if train:
        yield "data/auxiliary_train/world.csv", _questions(rows)
        return
    for subject in SUBJECTS:
        yield f"data/test/{subject}_test.csv", _questions([row for row in rows if row.part == subject])
    yield "subjects.txt", "".join(f"{subject}\n" for subject in SUBJECTS)


def _questions(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((row.fields["question"], *row.fields["options"], row.answer) for row in rows)
    return text.getvalue()


def _tldr(rows: Sequence[Row], train: bool) -> Files:
    yield f"{'train' if train else 'test'}.jsonl", _json_lines(rows)


def _pretty(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


LAYOUTS: dict[str, Callable[[Sequence[Row], bool], Files]] = {
    "tldr": _tldr,
    "imdb": _imdb,
    "anli": _anli,
    "qqp": _qqp,
    "rte": _rte,
    "winogrande": _winogrande,
    "arc": _arc,
    "webqa": _webqa,
    "nq": _nq,
    "triviaqa": _triviaqa,
    "mmlu": _mmlu,
}
