"""WebQA, NQ-Open, TriviaQA: every edition of their files, broken ones, and scores by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.nq import Nq
from llava_teamlora.evaluation.cme.open_answers import OpenQuestion
from llava_teamlora.evaluation.cme.triviaqa import TriviaQa
from llava_teamlora.evaluation.cme.webqa import WebQa, first_sentence
from llava_teamlora.evaluation.types import Sample

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
TASKS: dict[str, OpenQuestion] = {"webqa": WebQa(), "nq": Nq(), "triviaqa": TriviaQa()}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(*targets: str) -> Sample:
    return Sample("k", "k", "question", targets)


def total(name: str, *texts: str) -> dict[str, float]:
    """Of answers to the fixture's questions."""
    task, samples = TASKS[name], TASKS[name].load(FIXTURES)
    scores = task.aggregate(samples, [task.judge(s, text) for s, text in zip(samples, texts, strict=True)])
    return {"": scores.total.value} | {name: score.value for name, score in scores.extra.items()}


@pytest.mark.parametrize("name", TASKS)
def test_a_question_is_its_own_instruction(name: str) -> None:
    sample = TASKS[name].load(FIXTURES)[0]
    item = next(iter(TASKS[name].items(TASKS[name].tests[0].find(FIXTURES / name)[0])))
    assert sample.prompt == item.input and item.texts == (item.input,) and not TASKS[name].instruction


def test_golden_scores() -> None:
    # 林远舟 as a whole; 3.5公里 by its first sentence; "1949" of "1949年": 4 characters of 4 and 5: 8/9.
    found = total("webqa", "林远舟。", "3.5 公里。青石桥很长。", "1949")
    assert found == pytest.approx({"": 2 / 3, "char_f1": (1 + 1 + 8 / 9) / 3, "strict": 1 / 3})
    # The article goes, the month alone is 1 word of 1 and of 2 ("may 1931"), a niña no answer, "Two." right.
    found = total("nq", "The Ada  Finch", "May", "niña", "Two.")
    assert found == pytest.approx({"": 2 / 4, "f1": (1 + 2 / 3 + 0 + 1) / 4})
    # An alias; curly double quotes, which TriviaQA's form keeps; "mary" of "mary odel" and "mary odell".
    found = total("triviaqa", "the Winn", "“half-moon”", "Mary Odel")
    assert found == pytest.approx({"": 1 / 3, "f1": (1 + 0 + 1 / 2) / 3})


# --- WebQA


def evidences(*answers: list[str]) -> dict[str, Any]:
    return {f"Q#{n:02}": {"answer": one, "evidence": "…"} for n, one in enumerate(answers)}


def test_webqa_takes_the_commonest_answer_first(tmp_path: Path) -> None:
    content = {
        "Q_TRN_1": {"question": " 桥多长？ ", "evidences": evidences(["3500米"], ["3.5公里", "七里"], ["3.5公里"])},
        "Q_TRN_2": {"question": "谁？", "evidences": evidences(["no_answer"])},
    }
    item, unanswered = WebQa().items(write(tmp_path / "me_train.json", content))
    assert (item.key, item.input, item.answers) == ("Q_TRN_1", "桥多长？", ("3.5公里", "3500米", "七里"))
    assert (unanswered.key, unanswered.answers) == ("Q_TRN_2", ())


def test_questions_that_nobody_answers_are_counted_and_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "Q_TST_1": {"question": "桥多长？", "evidences": evidences(["3500米"])},
        "Q_TST_2": {"question": "谁？", "evidences": evidences(["no_answer"], ["no_answer"])},
        "Q_TST_3": {"question": "哪里？", "evidences": {}},
    }
    file = write(tmp_path / "me_test.ann.json", content)
    assert [sample.key for sample in load(WebQa(), file, tmp_path, file.name)] == ["test/Q_TST_1"]
    assert capsys.readouterr().err.endswith("me_test.ann.json: 2 questions have no answer, and are left out\n")


def test_webqas_hub_edition(tmp_path: Path) -> None:
    rows = [
        {"id": "Q_TST_7", "input": "口子镇在哪个省", "output": "安徽。口子镇是安徽的一个镇。<e>口子镇在皖北。"},
        {"id": 8, "input": "哪一年", "output": "1949年"},
    ]
    items = list(WebQa().items(lines(tmp_path / "test.json", *rows)))
    assert [(item.key, item.answers) for item in items] == [("Q_TST_7", ("安徽",)), ("8", ("1949年",))]
    assert [sample.key for sample in load(WebQa(), lines(tmp_path / "b.jsonl", *rows), tmp_path, "test.jsonl")] == [
        *("test/Q_TST_7", "test/8")
    ]


def load(task: OpenQuestion, file: Path, root: Path, name: str) -> list[Sample]:
    place = root / "root" / task.folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    file.rename(place)
    return task.load(root / "root")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("安徽。安徽口子酒业", "安徽"),
        ("3.5公里", "3.5公里"),
        ("甲\n乙", "甲"),
        ("甲<e>乙", "甲"),
        ("", ""),
        ("。甲", ""),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("text", "score", "strict", "char_f1"),
    [
        ("安徽", 1, 1, 1),
        ("《安徽》！", 1, 1, 1),
        ("安徽。在中国东部。", 1, 0, 1),
        ("安徽省", 0, 0, 4 / 5),
        ("在安徽。", 0, 0, 4 / 5),
        ("河北。不是安徽", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_webqas_answers(text: str, score: float, strict: float, char_f1: float) -> None:
    verdict = WebQa().judge(asked("安徽", "皖"), text)
    assert (verdict.score, verdict.extra) == (score, pytest.approx({"char_f1": char_f1, "strict": strict}))


def test_an_answer_with_a_full_stop_inside_can_be_right() -> None:
    assert WebQa().judge(asked("来了。走了"), "来了。走了").score == 1


# --- NQ-Open


def test_nqs_editions_agree(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    rows = [
        {"question": "who kept it", "answer": ["Ada Finch", "Ada"]},
        {"question": 'what did "they" say', "answer": ['it\'s "so"']},
    ]
    one = list(Nq().items(lines(tmp_path / "NQ-open.dev.jsonl", *rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "validation-0.parquet")
    with (tmp_path / "nq-test.qa.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([row["question"], str(row["answer"])] for row in rows)
    for name in ("validation-0.parquet", "nq-test.qa.csv"):
        others = list(Nq().items(tmp_path / name))
        assert [(i.key, i.input, i.answers) for i in others] == [(i.key, i.input, i.answers) for i in one]
    assert one[0].answers == ("Ada Finch", "Ada") and one[1].key == "1"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "q"}', "line 1: has no field 'answer'"),
        ("a.jsonl", '{"question": "q", "answer": []}', "must be a list of texts, at least one"),
        ("a.jsonl", '{"question": "q", "answer": [3]}', "must be a list of texts"),
        ("a.jsonl", '{"question": " ", "answer": ["a"]}', "'question' is empty"),
        ("a.csv", "q\tnot a list", "line 1: its answers are no list"),
        ("a.csv", "q\t__import__('os')", "line 1: its answers are no list"),
        ("a.csv", "q\t'text'", "'answer' must be list"),
        ("a.csv", "q", "has 1 fields, expected 2"),
    ],
)
def test_nqs_broken_rows_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"{content}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        list(Nq().items(tmp_path / name))


# --- TriviaQA


def trivia(**answer: Any) -> dict[str, Any]:
    return {
        "Question": "Who?",
        "QuestionId": "tc_1",
        "Answer": {"Value": "Mary", "NormalizedAliases": ["mary"], **answer},
    }


def test_triviaqas_editions_agree(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    original = [trivia(), trivia(Value="The Half-Moon", NormalizedAliases=["half moon", "halfmoon"])]
    hub = [
        {"question": row["Question"], "question_id": row["QuestionId"], "answer": {
            "value": row["Answer"]["Value"], "normalized_aliases": row["Answer"]["NormalizedAliases"], "type": "x"}}
        for row in original
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(hub), tmp_path / "validation-0.parquet")
    one = list(TriviaQa().items(write(tmp_path / "unfiltered-web-dev.json", {"Data": original, "Version": 1.0})))
    other = list(TriviaQa().items(tmp_path / "validation-0.parquet"))
    assert [(i.key, i.input, i.answers) for i in one] == [(i.key, i.input, i.answers) for i in other]
    assert [i.key for i in one] == ["tc_1", "tc_1#2"]  # rc has a row for each page of a question
    assert one[1].answers == ("The Half-Moon", "half moon", "halfmoon")


def test_what_people_answered_counts() -> None:
    assert TASKS["triviaqa"].load(FIXTURES)[2].targets[-1] == "M. O'Dell"
    assert TriviaQa().judge(TASKS["triviaqa"].load(FIXTURES)[2], "M O’Dell").score == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "q", "QuestionId": "tc_1"}, r"Data\[0\]: has no 'Answer'; a split without answers"),
        (trivia(NormalizedAliases="mary"), "'NormalizedAliases' must be list"),
        (trivia(NormalizedAliases=[3]), "must be lists of texts"),
        (trivia(Value=""), "'Value' is empty"),
        (trivia(Value="<unk>"), "a split without answers"),
        (trivia() | {"Question": ""}, "'Question' is empty"),
        (trivia() | {"Answer": "Mary"}, "'Answer' must be dict"),
    ],
)
def test_triviaqas_broken_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(TriviaQa().items(write(tmp_path / "unfiltered-web-dev.json", {"Data": [row]})))
