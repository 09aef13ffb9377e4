"""IMDB, ANLI, QQP, RTE, WinoGrande, ARC, MMLU: every edition of their files gives the same questions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cme_fixtures import FIXTURES, of_fixture, task

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.labels import LabelTask
from llava_teamlora.evaluation.types import Sample


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def parquet(path: Path, columns: dict[str, list[Any]], **classes: list[str]) -> Path:
    """As the hub's converter writes it, names of classes in the metadata."""
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    path.parent.mkdir(parents=True, exist_ok=True)
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    writer.write_table(pyarrow.table(columns).replace_schema_metadata(meta), path)
    return path


def hub_imdb(root: Path) -> None:
    items = of_fixture("imdb")
    labels = [("negative", "positive").index(item.answers[0]) for item in items]
    path = root / "imdb/plain_text/test-00000-of-00001.parquet"
    parquet(path, {"text": [item.input for item in items], "label": labels}, label=["neg", "pos"])


def hub_anli(root: Path) -> None:
    names = ["entailment", "neutral", "contradiction"]
    for source in task("anli").tests:
        items = list(task("anli").items(source.find(FIXTURES / "anli")[0]))
        columns = {
            "uid": [item.key for item in items],
            "premise": [item.texts[0] for item in items],
            "hypothesis": [item.texts[1] for item in items],
            "label": [names.index(item.answers[0]) for item in items],
            "reason": ["" for _ in items],
        }
        parquet(root / f"anli/plain_text/test_{source.prefix.lower()}-00000-of-00001.parquet", columns, label=names)


def hub_pairs(name: str, first: str, second: str, *names: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        items, found = of_fixture(name), task(name)
        assert isinstance(found, LabelTask)
        columns = {
            first: [item.texts[0] for item in items],
            second: [item.texts[1] for item in items],
            "label": [found.labels.index(item.answers[0]) for item in items],
            "idx": list(range(len(items))),
        }
        parquet(root / f"{name}/{name}/validation-00000-of-00001.parquet", columns, label=list(names))

    return write


def superglue_rte(root: Path) -> None:
    rows = [
        {"premise": item.texts[0], "hypothesis": item.texts[1], "label": item.answers[0], "idx": number}
        for number, item in enumerate(of_fixture("rte"))
    ]
    lines(root / "rte/RTE/val.jsonl", *rows)


def hub_winogrande(root: Path) -> None:
    items = of_fixture("winogrande")
    columns = {
        "sentence": [item.texts[0] for item in items],
        "option1": [item.choices[0] for item in items],
        "option2": [item.choices[1] for item in items],
        "answer": [{"A": "1", "B": "2"}[item.answers[0]] for item in items],
    }
    parquet(root / "winogrande/winogrande_xl/validation-00000-of-00001.parquet", columns)


def hub_arc(root: Path) -> None:
    for source, name in zip(task("arc").tests, ("ARC-Easy", "ARC-Challenge"), strict=True):
        items = list(task("arc").items(source.find(FIXTURES / "arc")[0]))
        columns = {
            "id": [item.key for item in items],
            "question": [item.texts[0] for item in items],
            "choices": [{"text": list(item.choices), "label": list("ABCDE"[: len(item.choices)])} for item in items],
            "answerKey": [item.answers[0] for item in items],
        }
        parquet(root / f"arc/{name}/test-00000-of-00001.parquet", columns)


def hub_mmlu(root: Path) -> None:
    items = of_fixture("mmlu")
    columns = {
        "question": [item.texts[0] for item in items],
        "subject": [item.group for item in items],
        "choices": [list(item.choices) for item in items],
        "answer": ["ABCD".index(item.answers[0]) for item in items],
    }
    parquet(root / "mmlu/all/test-00000-of-00001.parquet", columns, answer=list("ABCD"))
    shutil.copy(FIXTURES / "mmlu/subjects.txt", root / "mmlu")


EDITIONS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "imdb, parquet": ("imdb", hub_imdb),
    "anli, parquet": ("anli", hub_anli),
    "qqp, parquet": ("qqp", hub_pairs("qqp", "question1", "question2", "not_duplicate", "duplicate")),
    "rte, parquet": ("rte", hub_pairs("rte", "sentence1", "sentence2", "entailment", "not_entailment")),
    "rte, SuperGLUE": ("rte", superglue_rte),
    "winogrande, parquet": ("winogrande", hub_winogrande),
    "arc, parquet": ("arc", hub_arc),
    "mmlu, parquet": ("mmlu", hub_mmlu),
}


@pytest.mark.parametrize("edition", EDITIONS)
def test_another_edition_gives_the_same(edition: str, tmp_path: Path) -> None:
    name, write = EDITIONS[edition]
    write(tmp_path)
    expected, found = (task(name).load(root) for root in (FIXTURES, tmp_path))

    def said(sample: Sample) -> Any:
        return (sample.prompt, sample.targets, sample.group, sample.choices, sample.candidates)

    assert [said(sample) for sample in found] == [said(sample) for sample in expected]
    if name in ("anli", "arc", "mmlu"):  # which have ids, or are counted by subject
        assert [sample.key for sample in found] == [sample.key for sample in expected]


def test_rows_of_one_key_are_told_apart(tmp_path: Path) -> None:
    """Two shards, each of which counts from 0; a row that stands there twice is refused."""
    for shard, text in enumerate(("good", "bad")):
        path = tmp_path / f"imdb/plain_text/test-0000{shard}-of-00002.parquet"
        parquet(path, {"text": [text, f"{text} too"], "label": [0, 0]})
    assert [sample.key for sample in task("imdb").load(tmp_path)] == ["test/0", "test/1", "test/0#2", "test/1#2"]
    parquet(tmp_path / "imdb/plain_text/test-00001-of-00002.parquet", {"text": ["bad", "good too"], "label": [0, 0]})
    with pytest.raises(UserError, match=r"of-00002\.parquet, row\[1\]: '1' stands twice in the test split"):
        task("imdb").load(tmp_path)


def test_kaggles_and_the_releases_pairs_are_quoted(tmp_path: Path) -> None:
    header = '"id","qid1","qid2","question1","question2","is_duplicate"\n'
    content = header + '"7","1","2","Is ""so"", so?","Two\nlines?","1"\n'
    (tmp_path / "train.csv").write_text(content)
    (tmp_path / "quora_duplicate_questions.tsv").write_text(content.replace('","', '"\t"'))
    for name in ("train.csv", "quora_duplicate_questions.tsv"):
        (item,) = task("qqp").items(tmp_path / name)
        assert item.texts == ('Is "so", so?', "Two\nlines?") and item.answers == ("duplicate",) and item.key == "7"


def test_numbers_without_names_are_in_the_documented_order(tmp_path: Path) -> None:
    """A file whose metadata names no classes, as other tools write parquet."""
    path = parquet(tmp_path / "a.parquet", {"premise": list("xyz"), "hypothesis": list("xyz"), "label": [0, 1, 2]})
    answers = [item.answers[0] for item in task("anli").items(path)]
    assert answers == ["entailment", "neutral", "contradiction"]


def test_mmlus_training_questions_are_of_no_subject(tmp_path: Path) -> None:
    (tmp_path / "race.csv").write_text("Q?,a,b,c,d,D\n")
    wrapped = [{"question": "Q?", "subject": "", "choices": list("abcd"), "answer": 3}]
    for path in (tmp_path / "race.csv", parquet(tmp_path / "train.parquet", {"train": wrapped})):
        (item,) = task("mmlu").items(path)
        assert (item.input, item.answers, item.group) == ("Question: Q?\nChoices: A.a, B.b, C.c, D.d", ("D",), "")


def test_an_archive_that_was_unpacked_in_part(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "imdb", tmp_path / "imdb")
    (tmp_path / "imdb/aclImdb/test/pos/2_10.txt").unlink()
    with pytest.raises(UserError, match=r"pos: holds 2 reviews, but .*urls_pos\.txt lists 3; unpack"):
        task("imdb").load(tmp_path)


def test_an_empty_file_among_several(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "anli", tmp_path / "anli")
    (path,) = (tmp_path / "anli").rglob("R2/test.jsonl")
    path.write_text("")
    with pytest.raises(UserError, match=r"R2/test\.jsonl: holds no rows; was it downloaded"):
        task("anli").load(tmp_path)


def test_films_are_optional(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "imdb", tmp_path / "imdb")
    test = tmp_path / "imdb/aclImdb/test"
    (test / "urls_neg.txt").write_text("http://www.imdb.com/title/tt1/usercomments\n")
    with pytest.raises(UserError, match=r"urls_neg\.txt: has 1 lines, but there is a review of id 1"):
        task("imdb").load(tmp_path)
    for name in ("neg", "pos"):
        (test / f"urls_{name}.txt").unlink()
    assert {sample.cluster for sample in task("imdb").load(tmp_path)} == {""}
    assert [sample.key for sample in task("imdb").load(tmp_path)] == [s.key for s in task("imdb").load(FIXTURES)]
