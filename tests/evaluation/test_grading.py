"""A judge behind a real server grades the fixtures: what is asked, read, kept, asked again, and refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Canned, Played, fails, play, says

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.mmvet import MmVet
from llava_teamlora.evaluation.endpoint import Reply
from llava_teamlora.evaluation.judging.cache import Cache, Place
from llava_teamlora.evaluation.judging.llava_bench import LlavaBenchRubric
from llava_teamlora.evaluation.judging.mmvet import MmVetRubric
from llava_teamlora.evaluation.judging.provenance import answer_digest
from llava_teamlora.evaluation.judging.rubric import Grade
from llava_teamlora.evaluation.scoring import load_answered

ROOT = Path(__file__).parents[2] / "eval" / "fixtures"
ANSWERS = ROOT / "mm-vet" / "answers" / "example.jsonl"
QUESTIONS = 6
KEY = "sk-never-written-anywhere"

Say = Callable[[dict[str, Any], int], Canned]


def last_row(body: dict[str, Any]) -> str:
    """The row that the judge is to complete."""
    return body["messages"][-1]["content"].split("\n\n", 2)[-1]


def always(text: str) -> Say:
    return lambda body, count: says(text, model="judge-0613")


def by_question(body: dict[str, Any], count: int) -> Canned:
    """A grade that depends on the question only; the first asked are the slowest to be answered."""
    number = sum(map(ord, last_row(body))) % 11
    reply = says(f"{number / 10:.1f}", model="judge-0613")
    return Canned(body=reply.body, wait_s=0.02 if count % 4 == 0 else 0.0)


@pytest.fixture
def grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Grade the fixture's answers with a played judge; returns (exit status, what was printed, server)."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(
        say: Say, *flags: str, bench: str = "mmvet", answers: Path = ANSWERS, serves: str = "judge"
    ) -> tuple[int, str, Played]:
        out = tmp_path / ("grades.json" if bench == "mmvet" else "grades.jsonl")
        with play(say, models=(serves,)) as server:
            status = main(
                ["evaluate", "grade", bench, "--answers", str(answers), "--out", str(out), "--endpoint", server.url]
                + ["--data_root", str(ROOT), "--retries", "0", *flags]
            )
        printed = capsys.readouterr()
        return status, printed.out + printed.err, server

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_official_form_and_its_manifest(grade: Callable[..., Any], tmp_path: Path) -> None:
    status, printed, server = grade(by_question, "--runs", "2")
    assert status == 0 and len(server.requests) == 2 * QUESTIONS
    assert "grades by own prompt" in printed
    content = read(tmp_path / "grades.json")
    assert list(content) == [f"v1_{number}" for number in range(QUESTIONS)]
    entry = content["v1_1"]
    assert entry["model"] == ["judge-0613"] * 2 and entry["content"] == [f"{s:.1f}" for s in entry["score"]]
    manifest = read(tmp_path / "grades.manifest.json")
    assert manifest["judge"] == {"name": "judge", "endpoint": server.url}
    assert manifest["served_models"] == ["judge-0613"] and manifest["runs"] == 2 and manifest["max_tokens"] == 3
    assert manifest["first_grade"] <= manifest["last_grade"] and manifest["first_grade"].endswith("+00:00")
    assert len(manifest["answers_sha256"]) == QUESTIONS
    assert server.keys[0] == f"Bearer {KEY}"
    assert not any(KEY in path.read_text() for path in tmp_path.glob("grades*"))


def test_what_mmvets_judge_is_asked(grade: Callable[..., Any]) -> None:
    _, _, server = grade(always("0.5"), "--concurrency", "1")
    body = server.requests[1]
    assert body["model"] == "judge" and body["temperature"] == 0.0 and body["max_tokens"] == 3
    ((role, content),) = [(m["role"], m["content"]) for m in body["messages"]]
    assert role == "user"
    # As mm-vet_evaluator.py: an empty line after the table, <AND> set apart by spaces, no grade yet.
    assert content.endswith("\n\nwhat color and what shape is it?  | red <AND> circle | a red shape | ")


def test_scores_name_the_judge_and_the_prompt(grade: Callable[..., Any], tmp_path: Path) -> None:
    grade(always("0.5"))
    grades, out = tmp_path / "grades.json", tmp_path / "scores.json"
    command = ["evaluate", "score", "mmvet", "--answers", str(ANSWERS), "--data_root", str(ROOT), "--out", str(out)]
    assert main([*command, "--grades", str(grades)]) == 0
    assert read(out)["metric"] == "MM-Vet score (judge, own prompt, 1 run)"
    assert read(out)["total"]["value"] == 0.5


def test_grades_of_other_answers_are_refused(
    grade: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grade(always("0.5"))
    other = tmp_path / "other.jsonl"
    other.write_text(ANSWERS.read_text().replace("a red shape", "a red circle"))
    command = ["evaluate", "score", "mmvet", "--data_root", str(ROOT), "--out", str(tmp_path / "scores.json")]
    command += ["--grades", str(tmp_path / "grades.json"), "--answers"]
    assert main([*command, str(other)]) == 1
    assert "was made for other answers than these (v1_1 differs" in capsys.readouterr().err
    edited = (tmp_path / "grades.json").read_text().replace("0.5", "0.9")
    (tmp_path / "grades.json").write_text(edited)
    assert main([*command, str(ANSWERS)]) == 1
    assert "was changed after grades.manifest.json was written" in capsys.readouterr().err


def test_nothing_is_asked_twice(grade: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(ANSWERS.read_text().replace("a red shape", "a red circle"))
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Grade.\n\nA | B | C | D\n")
    changes = (
        ([], QUESTIONS),
        ([], 0),  # though the server has another address now
        (["--runs", "2"], QUESTIONS),  # the second run only
        (["--answers", str(other)], 1),  # the changed answer only
        (["--judge_prompt", str(prompt)], QUESTIONS),
        (["--judge", "another"], QUESTIONS),
        ([], 0),
    )
    for flags, expected in changes:
        status, printed, server = grade(by_question, *flags, serves="another" if "another" in flags else "judge")
        assert status == 0 and len(server.requests) == expected
    assert "6 of 6 grades are taken from" in printed


def test_the_order_does_not_depend_on_who_is_fastest(grade: Callable[..., Any], tmp_path: Path) -> None:
    grade(by_question, "--concurrency", "1")
    one = (tmp_path / "grades.json").read_bytes()
    (tmp_path / "grades.cache.jsonl").unlink()
    grade(by_question, "--concurrency", "6")
    assert (tmp_path / "grades.json").read_bytes() == one


def test_several_are_asked_at_once(grade: Callable[..., Any]) -> None:
    slow = Canned(body=says("0.5").body, wait_s=0.25)
    started = time.perf_counter()
    assert grade(lambda body, count: slow, "--concurrency", "6")[0] == 0
    assert time.perf_counter() - started < 3 * 0.25  # one after the other it is six times


def test_a_judge_that_fails_keeps_what_was_graded(grade: Callable[..., Any], tmp_path: Path) -> None:
    def dies(body: dict[str, Any], count: int) -> Canned:
        return says("0.5") if count < 4 else fails(403, "quota is used up")

    status, printed, server = grade(dies, "--concurrency", "1", "--judge", "judge")
    assert status == 1 and len(server.requests) == 5  # none after the failure
    assert "quota is used up" in printed and "4 of 6 grades are kept in" in " ".join(printed.split())
    assert not (tmp_path / "grades.json").exists()
    kept = (tmp_path / "grades.cache.jsonl").read_text()
    assert len(kept.splitlines()) == 4


def test_a_question_that_a_judge_refuses_is_set_aside(grade: Callable[..., Any], tmp_path: Path) -> None:
    def refuses(body: dict[str, Any], count: int) -> Canned:
        return fails(400, "blocked") if "three" in last_row(body) else says("1.0")

    for _ in range(2):  # and again
        status, printed, server = grade(refuses, "--concurrency", "1")
        said = " ".join(printed.split())
        assert status == 1 and "1 of 6 questions to the judge failed (v1_2, run 1: " in said and "blocked" in said
        assert "5 of 6 grades are kept in" in said and not (tmp_path / "grades.json").exists()
    assert len(server.requests) == 1  # this one only


def test_a_judge_may_go_by_another_name_than_the_server_lists(grade: Callable[..., Any], tmp_path: Path) -> None:
    """Ollama serves llama3 as llama3:latest, and answers to both."""
    status, _, server = grade(always("0.5"), "--judge", "llama3", serves="llama3:latest")
    assert status == 0 and {body["model"] for body in server.requests} == {"llama3"}
    assert read(tmp_path / "grades.manifest.json")["judge"]["name"] == "llama3"


def test_a_judge_that_is_not_served_is_asked_once(grade: Callable[..., Any], tmp_path: Path) -> None:
    def unknown(body: dict[str, Any], count: int) -> Canned:
        return fails(404, "no model jugde")

    status, printed, server = grade(unknown, "--judge", "jugde", "--concurrency", "1")
    assert status == 1 and len(server.requests) == 1 and "no model jugde" in printed
    assert not list(tmp_path.glob("grades*"))


def test_where_nothing_was_kept_nothing_is_said_of_it(grade: Callable[..., Any], tmp_path: Path) -> None:
    for say in (lambda body, count: fails(400, "no quota"), always("hm")):
        status, printed, _ = grade(say, "--limit", "1")
        assert status == 1 and "no " in printed and "cache" not in printed and "kept" not in printed
    assert not (tmp_path / "grades.cache.jsonl").exists()


def test_half_a_character_survives(grade: Callable[..., Any], tmp_path: Path) -> None:
    """JSON may hold half of a pair of surrogates; UTF-8 may not. The cache and the digests must."""
    answers = tmp_path / "predictions.jsonl"
    lines = ANSWERS.read_text().replace("a red shape", "a red \\ud83d").splitlines(keepends=True)
    answers.write_text("".join(lines))
    pairs = load_answered(MmVet(), answers, ROOT).pairs
    assert pairs[1][1].text == "a red \ud83d"
    status, _, server = grade(always("0.5"), "--concurrency", "1", answers=answers)
    assert status == 0 and last_row(server.requests[1]).endswith("| a red \ufffd | ")
    command = ["evaluate", "score", "mmvet", "--answers", str(answers), "--data_root", str(ROOT)]
    assert main([*command, "--grades", str(tmp_path / "grades.json")]) == 0
    cache = Cache(tmp_path / "half.cache.jsonl")
    place = Place("judge", "0", "v1_1", 1)
    cache.add(place, Grade((0.5,), "0.5 \ud83d", "judge-0613"))
    assert Cache(cache.path)[place].grade.content == "0.5 \ud83d"
    assert answer_digest("a red \ud83d") != answer_digest("a red \\ud83d")


def test_grades_of_two_answers_files_do_not_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LLaVA keeps the answers of all models in one folder."""
    folder = tmp_path / "answers"
    folder.mkdir()
    with play(always("0.5")) as server:
        for name in ("llava-v1.5-7b.jsonl", "llava-v1.5-13b.jsonl", "predictions.jsonl"):
            (folder / name).write_text(ANSWERS.read_text())
            command = ["--answers", str(folder / name), "--data_root", str(ROOT)]
            assert main(["evaluate", "grade", "mmvet", "--endpoint", server.url, *command]) == 0
    expected = {"llava-v1.5-7b.grades.json", "llava-v1.5-13b.grades.json", "grades.json"}
    assert {path.name for path in folder.glob("*grades.json")} == expected
    assert len({*folder.glob("*grades.manifest.json"), *folder.glob("*grades.cache.jsonl")}) == 6


def test_a_torn_line_is_cut_off(grade: Callable[..., Any], tmp_path: Path) -> None:
    with play(always("0.5")) as server:
        command = ["evaluate", "grade", "mmvet", "--answers", str(ANSWERS), "--out", str(tmp_path / "grades.json")]
        command += ["--endpoint", server.url, "--data_root", str(ROOT)]
        assert main(command) == 0
        cache = tmp_path / "grades.cache.jsonl"
        whole = cache.read_bytes()
        cache.write_bytes(whole[:-10])
        assert main(command) == 0
        assert len(server.requests) == QUESTIONS + 1
        assert len(cache.read_bytes().splitlines()) == QUESTIONS
        cache.write_bytes(b"{broken\n" + whole)
        assert main(command) == 1


def test_an_unreadable_reply_is_asked_for_again(grade: Callable[..., Any], tmp_path: Path) -> None:
    """As mm-vet_evaluator.py: at 0 with a hint, then at 0.5, 1.0, 1.5."""

    def mumbles(body: dict[str, Any], count: int) -> Canned:
        return says("0.5" if body["temperature"] == 1.0 else "I think")

    status, _, server = grade(mumbles, "--limit", "1")
    assert status == 0 and [body["temperature"] for body in server.requests] == [0.0, 0.0, 0.5, 1.0]
    first, *others = [body["messages"][0]["content"] for body in server.requests]
    assert set(others) == {first + "\nPredict the correctness of the answer (digit): "}
    assert read(tmp_path / "grades.json")["v1_0"]["score"] == [0.5]


def test_a_question_without_a_readable_grade_is_an_error(grade: Callable[..., Any], tmp_path: Path) -> None:
    def never_for_one(body: dict[str, Any], count: int) -> Canned:
        return says("hm" if "three" in last_row(body) else "1.0")

    status, printed, _ = grade(never_for_one)
    said = " ".join(printed.split())
    assert status == 1 and "no grade could be read in 5 replies to each of 1 of 6 questions (v1_2, run 1: 'hm')" in said
    assert not (tmp_path / "grades.json").exists()
    assert len((tmp_path / "grades.cache.jsonl").read_text().splitlines()) == QUESTIONS - 1


def test_the_official_zero_is_named(grade: Callable[..., Any], tmp_path: Path) -> None:
    def never_for_one(body: dict[str, Any], count: int) -> Canned:
        return says("hm" if "three" in last_row(body) else "1.0")

    assert grade(never_for_one, "--unreadable", "zero")[0] == 0
    assert read(tmp_path / "grades.json")["v1_2"] == {"model": ["played-1"], "content": ["hm"], "score": [0.0]}
    assert read(tmp_path / "grades.manifest.json")["unreadable_as_zero"] == [{"key": "v1_2", "run": 1}]
    out = tmp_path / "scores.json"
    command = ["evaluate", "score", "mmvet", "--answers", str(ANSWERS), "--data_root", str(ROOT), "--out", str(out)]
    assert main([*command, "--grades", str(tmp_path / "grades.json")]) == 0
    assert read(out)["metric"] == "MM-Vet score (judge, own prompt, 1 unreadable as 0, 1 run)"


def official_parse(text: str) -> float | None:
    """What mm-vet_evaluator.py takes a reply for, stated anew."""
    head = re.split(" ", text, maxsplit=1)[0]
    try:
        value = float(head)
    except ValueError:
        return None
    return None if value > 1 or value < 0 or value != value else value


@pytest.mark.parametrize(
    "text",
    [
        "0.5",
        "1",
        "1.0\n",
        "0.5 because",
        " 0.5",
        "",
        "\n0.3",
        "0.7|",
        "1.1",
        "-0.1",
        "nan",
        "inf",
        "0,5",
        "0.5.",
        "５",
        "x",
    ]
    + [".5", "1e-1", "0.5\nx", "(0.5)", "0.0", "0" * 10_000],
)
def test_reading_mmvets_grade(text: str) -> None:
    expected = official_parse(text)
    assert MmVetRubric().parse(Reply(text, "stop", 3, "m")) == (None if expected is None else (expected,))


@pytest.mark.parametrize(
    ("text", "grade"), [("0.", None), ("0", None), (" 0", None), ("0.0", (0.0,)), ("1.", (1.0,)), ("0.7", (0.7,))]
)
def test_a_grade_that_the_token_limit_cut(text: str, grade: tuple[float, ...] | None) -> None:
    assert MmVetRubric().parse(Reply(text, "length", 3, "m")) == grade


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("8 7\nBoth are good.", (8.0, 7.0)),
        ("8,7", (8.0, 7.0)),
        ("8, 7\nx", (8.0, 7.0)),  # LLaVA's script reads no marks here
        ("8  7.5", (8.0, 7.5)),
        ("8", None),
        ("8 7 6", None),
        ("Assistant 1: 8", None),
        ("\n8 7", None),
        ("8 11", None),
        ("nan 8", None),
        ("", None),
    ],
)
def test_reading_llava_benchs_marks(text: str, marks: tuple[float, ...] | None) -> None:
    assert LlavaBenchRubric(None, ROOT).parse(Reply(text, "stop", 3, "m")) == marks


def test_llava_bench_from_answers_to_score(grade: Callable[..., Any], tmp_path: Path) -> None:
    answers = ROOT / "llava-bench-in-the-wild" / "answers" / "example.jsonl"
    rules = {f"llava_bench_{name}": {"role": "Helper", "prompt": f"rule of {name}"} for name in ("conv", "detail")}
    rules["llava_bench_complex"] = {"role": "Helper", "prompt": "rule of complex"}
    prompt = tmp_path / "my_rule.json"
    prompt.write_text(json.dumps(rules))
    status, _, server = grade(
        always("8 6\nWhy not."),
        "--judge_prompt",
        str(prompt),
        "--concurrency",
        "1",
        bench="llava_bench",
        answers=answers,
    )
    assert status == 0
    body = server.requests[2]
    assert body["temperature"] == 0.2 and body["max_tokens"] == 1024
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == (
        "[Context]\nA tall brown rectangle.\nAn orange disc at its upper right.\n\n"
        "[Question]\nwhat could it be a drawing of?\n\n"
        "[Helper 1]\nIt could be a door with the sun beside it.\n\n[End of Helper 1]\n\n"
        "[Helper 2]\nA door and the sun,\nor a book and a coin.\n\n[End of Helper 2]\n\n"
        "[System]\nrule of complex\n\n"
    )
    rows = [json.loads(line) for line in (tmp_path / "grades.jsonl").read_text().splitlines()]
    assert [(row["id"], row["question_id"], row["category"]) for row in rows][1] == (2, 1, "llava_bench_detail")
    assert rows[0]["tuple"] == [8.0, 6.0] and rows[0]["content"] == "8 6\nWhy not."
    out = tmp_path / "scores.json"
    command = [
        "evaluate",
        "score",
        "llava_bench",
        "--answers",
        str(answers),
        "--data_root",
        str(ROOT),
        "--out",
        str(out),
    ]
    assert main([*command, "--grades", str(tmp_path / "grades.jsonl")]) == 0
    assert read(out)["total"]["value"] == pytest.approx(0.75)
    assert read(out)["metric"] == "relative score to GPT-4's answers (judge, prompt of my_rule.json)"


def test_the_official_script_is_read_for_its_prompt(grade: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "mm-vet_evaluator.py"
    script.write_text('import nothing_that_is_installed\nprompt = """Grade:\n\nQ | T | P | C\n"""\nraise SystemExit\n')
    _, printed, server = grade(always("1"), "--judge_prompt", str(script), "--limit", "1")
    assert server.requests[0]["messages"][0]["content"].startswith("Grade:\n\nQ | T | P | C\n\nwhat shape is it?")
    assert "grades by prompt of mm-vet_evaluator.py" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--runs", "0"], "--runs 0 must be at least 1"),
        (["--concurrency", "0"], "--concurrency 0 must be at least 1"),
        (["--judge_path", "x"], "name one judge"),
        (["--judge_prompt", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--out", str(ANSWERS)], "is the answers file itself"),
        (["--api_key_file", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(flags: list[str], words: str, grade: Callable[..., Any]) -> None:
    status, printed, server = grade(always("1"), *flags)
    assert status == 1 and words in " ".join(printed.split()) and not server.requests


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", " \n", "is empty"),
        ("a.py", "prompt = 3", "has no line prompt ="),
        ("a.py", "prompt = (", "is not Python"),
        ("a.ipynb", "{}", "give mm-vet_evaluator.py"),
    ],
)
def test_a_file_without_a_prompt(name: str, content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        MmVetRubric(path)


def test_a_rule_file_without_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    path.write_text('{"llava_bench_conv": {"role": "Assistant", "prompt": "x"}}')
    with pytest.raises(UserError, match=r"rule.json: has no field 'llava_bench_detail'"):
        LlavaBenchRubric(path, ROOT)


def test_several_runs_do_not_fit_a_review_file(grade: Callable[..., Any]) -> None:
    answers = ROOT / "llava-bench-in-the-wild" / "answers" / "example.jsonl"
    for flags, words in (
        (["--runs", "2"], "holds 1 grade an answer"),
        (["--unreadable", "zero"], "has no 0 for a reply"),
    ):
        status, printed, server = grade(always("1"), *flags, bench="llava_bench", answers=answers)
        assert status == 1 and words in " ".join(printed.split()) and not server.requests


def test_other_benchmarks_have_no_judge(grade: Callable[..., Any]) -> None:
    status, printed, _ = grade(always("1"), bench="easy_vqa")
    assert status == 1 and "no judge grades it" in printed


def test_a_model_on_this_machine_grades(tiny: str, tmp_path: Path) -> None:
    """The embedded model knows no numbers from 0 to 1, so the official zero stands in and is named."""
    prompt = tmp_path / "short.txt"
    prompt.write_text("is it right?\n")
    out = tmp_path / "grades.json"
    command = ["evaluate", "grade", "mmvet", "--answers", str(ANSWERS), "--out", str(out), "--judge_path", tiny]
    command += ["--data_root", str(ROOT), "--judge_prompt", str(prompt), "--limit", "1", "--unreadable", "zero"]
    assert main(command) == 0
    manifest = read(tmp_path / "grades.manifest.json")
    assert manifest["judge"]["name"] == "tiny" and manifest["max_tokens"] == 16
    assert manifest["unreadable_as_zero"] == [{"key": "v1_0", "run": 1}]
    (entry,) = read(out).values()
    assert entry["score"] == [0.0] and entry["content"] != [""]
