"""eval/*.sh as a stranger runs them: the embedded model over the fixtures, and the mistakes of a tired user."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EVAL = ROOT / "eval"
# LLaVA's own names of its scripts under scripts/v1_5/eval, but Q-Bench's.
LLAVAS = {
    "gqa": "gqa", "llavabench": "llava_bench", "mmbench": "mmbench", "mmbench_cn": "mmbench_cn", "mme": "mme",
    "mmvet": "mmvet", "pope": "pope", "seed": "seed", "sqa": "sqa", "textvqa": "textvqa", "vizwiz": "vizwiz",
    "vqav2": "vqav2",
}  # fmt: skip
SCRIPTS = {**LLAVAS, "easy_vqa": "easy_vqa"}
ELEVEN = ["tldr", "imdb", "anli", "qqp", "rte", "winogrande", "arc", "webqa", "nq", "triviaqa", "mmlu"]


def environment(**variables: str) -> dict[str, str]:
    # The environment the tests run in counts as active, whether or not a shell activated it.
    own = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **own, **variables}


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(EVAL / name), *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def shown(name: str, *arguments: str, **variables: str) -> list[list[str]]:
    """Words of the commands that a script would run."""
    result = script(name, *arguments, SHOW="1", **variables)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def value(words: list[str], flag: str) -> str:
    return words[len(words) - words[::-1].index(flag)]


def test_llavas_scripts_have_their_counterparts() -> None:
    assert {path.stem for path in EVAL.glob("*.sh")} == SCRIPTS.keys() | {"all", "cme", "common"}


@pytest.mark.parametrize("name", [*SCRIPTS, "all", "cme"])
def test_help_teaches(name: str) -> None:
    result = script(f"{name}.sh", "--help")
    assert result.returncode == 0 and f"bash eval/{name}.sh" in result.stdout and "DATA_ROOT" in result.stdout
    assert "set -euo" not in result.stdout


@pytest.mark.parametrize(("name", "benchmark"), SCRIPTS.items())
def test_a_script_checks_then_runs_its_benchmark(name: str, benchmark: str) -> None:
    check, run = shown(f"{name}.sh", "--limit", "3", MODEL="runs/x/", OUT="answers")
    assert check == ["llava-teamlora", "evaluate", "check", benchmark]
    assert run == [
        *("llava-teamlora", "evaluate", "run", benchmark),
        *("--out", f"answers/{benchmark}", "--model", "runs/x/", "--limit", "3"),
    ]


def test_variables_become_flags() -> None:
    variables = {"DATA_ROOT": "d", "MODEL_BASE": "b", "BATCH": "8", "MODE": "paper", "LIMIT": "5", "GPUS": "4"}
    _, words = shown("mme.sh", "--limit", "7", MODEL="hub/llava-lora", **variables)
    assert words[:8] == [
        *("torchrun", "--nproc_per_node", "4", "--standalone", "-m", "--", "llava_teamlora.cli", "evaluate"),
    ]
    expected = {
        "--data_root": "d", "--model": "hub/llava-lora", "--model_base": "b", "--batch_size": "8", "--mode": "paper",
        "--limit": "7", "--out": "runs/base-evaluation/llava-lora/mme",
    }  # fmt: skip
    assert {flag: value(words, flag) for flag in expected} == expected  # the later --limit wins


def test_a_runs_answers_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").touch()
    assert value(shown("pope.sh", MODEL=str(tmp_path))[1], "--out") == f"{tmp_path}/evaluation/pope"


def test_anothers_version_is_no_template() -> None:
    """Shells export a VERSION for many reasons."""
    assert "--version" not in shown("mme.sh", MODEL="m", VERSION="1.2.3")[1]


def test_an_endpoint_answers() -> None:
    _, words = shown("mme.sh", ENDPOINT="http://127.0.0.1:1/v1", MODEL="served/llava")
    assert "--model" not in words and value(words, "--endpoint") == "http://127.0.0.1:1/v1"
    assert value(words, "--endpoint_model") == "served/llava"
    assert value(words, "--out") == "runs/endpoint-evaluation/llava/mme"


def test_with_nothing_set_the_embedded_model_answers_fixtures_and_says_so() -> None:
    result = script("mme.sh", SHOW="1")
    assert "no scores of anything" in result.stderr
    words = shlex.split(result.stdout.splitlines()[1])
    expected = {"--model": "playground/tiny", "--data_root": "eval/fixtures", "--out": "runs/eval-fixtures/mme"}
    assert {flag: value(words, flag) for flag in expected} == expected


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({"LIMIT": "x"}, [], "LIMIT=x is no whole number above 0"),
        ({"GPUS": "0"}, [], "GPUS=0 is no whole number above 0"),
        ({"MODE": "exact"}, [], "MODE=exact is neither fast nor paper"),
        ({"DATA_ROOT": "."}, [], "DATA_ROOT is set, so MODEL (or ENDPOINT) is needed too"),
        ({"MODEL_BASE": "b"}, [], "MODEL_BASE is set, so MODEL is needed too"),
        ({"TEMPLATE": "cme"}, [], "TEMPLATE is set, so MODEL is needed too"),
        (
            {"TEMPLATE": "cme", "MODEL": "m", "ENDPOINT": "u"},
            [],
            "TEMPLATE=cme: with ENDPOINT the server puts the prompt",
        ),
        ({"MODEL": "m", "DATA_ROOT": "/nowhere"}, [], "DATA_ROOT=/nowhere: no such folder"),
        ({"ENDPOINT": "http://x", "GPUS": "2"}, [], "GPUS=2: with ENDPOINT nothing runs on this machine's GPUs"),
        ({}, ["--out=x"], "write --out VALUE, not --out=VALUE"),
    ],
)
def test_mistakes_end_in_one_line(variables: dict[str, str], arguments: list[str], message: str) -> None:
    result = script("mme.sh", *arguments, **variables)
    assert result.returncode == 1 and result.stdout == ""
    assert message in result.stderr.strip().splitlines()[-1]


def test_all_checks_runs_and_reports() -> None:
    check, run, report = shown("all.sh", "--limit", "3", MODEL="m", OUT="o", BENCHMARKS="mme pope")
    assert check == ["llava-teamlora", "evaluate", "check", "mme", "pope"]
    assert run == ["llava-teamlora", "evaluate", "run", "mme", "pope", "--out", "o", "--model", "m", "--limit", "3"]
    assert report == ["llava-teamlora", "evaluate", "report", "o"]
    assert sorted(shown("all.sh", MODEL="m")[0][3:]) == sorted(LLAVAS.values())
    result = script("all.sh", "--out", "x", SHOW="1")
    assert result.returncode == 1 and "name the folder with OUT=DIR" in result.stderr


def test_what_is_not_ready_says_why(tmp_path: Path) -> None:
    none = {"count": 0, "first": []}
    lacks = {
        "ready": False,
        "absent": [],
        "absent_pictures": none,
        "empty_pictures": none,
        "pictures": 3,
        "error": None,
    }
    checked = {
        "mme": {**lacks, "empty_pictures": {"count": 2, "first": ["a.png", "b.png"]}},
        "pope": {**lacks, "absent_pictures": {"count": 1, "first": ["c.png"]}},
        "sqa": {**lacks, "error": "pid_splits.json: broken JSON"},
    }
    file = tmp_path / "checked.json"
    file.write_text(json.dumps({"benchmarks": checked}))
    summary = [sys.executable, str(ROOT / "eval" / "summary.py"), "ready", str(file)]
    assert subprocess.run(summary, capture_output=True, text=True, check=True).stderr.splitlines() == [
        "not there: mme: 2 of 3 pictures have 0 bytes, first a.png",
        "not there: pope: 1 of 3 pictures are missing, first c.png",
        "not there: sqa: pid_splits.json: broken JSON",
    ]


def test_cme_is_all_of_eleven_text_tasks() -> None:
    check, run, report = shown("cme.sh", "--limit", "3", MODEL="m", OUT="o", TEMPLATE="cme")
    assert check == ["llava-teamlora", "evaluate", "check", *ELEVEN]
    flags = ["--out", "o", "--model", "m", "--version", "cme", "--limit", "3"]
    assert run == ["llava-teamlora", "evaluate", "run", *ELEVEN, *flags]
    assert report == ["llava-teamlora", "evaluate", "report", "o"]
    _, run = shown("cme.sh", BENCHMARKS="nq arc")
    assert run[3:5] == ["nq", "arc"] and value(run, "--version") == "cme"
    assert value(run, "--model") == "playground/tiny_text" and value(run, "--data_root") == "eval/fixtures"


def last_line(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "benchmark"), [("mmvet", "mmvet"), ("llavabench", "llava_bench")])
def test_a_judge_grades_where_one_is_named(name: str, benchmark: str) -> None:
    judge = {"JUDGE_ENDPOINT": "http://127.0.0.1:1/v1", "JUDGE": "gpt", "JUDGE_PROMPT": "rule.json"}
    *_, grade, score = shown(f"{name}.sh", MODEL="m", OUT="o", DATA_ROOT="d", **judge)
    answers, grades = f"o/{benchmark}/predictions.jsonl", value(grade, "--out")
    assert grade[2:4] == ["grade", benchmark] and score[2:4] == ["score", benchmark]
    assert value(grade, "--answers") == value(score, "--answers") == answers and value(score, "--grades") == grades
    flags = {"--endpoint": "http://127.0.0.1:1/v1", "--judge": "gpt", "--judge_prompt": "rule.json"}
    assert {flag: value(grade, flag) for flag in flags} == flags
    assert value(grade, "--data_root") == value(score, "--data_root") == "d"
    result = script(f"{name}.sh", JUDGE="gpt")
    assert result.returncode == 1 and "go with JUDGE_ENDPOINT or JUDGE_PATH" in result.stderr


def test_all_on_the_fixtures(tmp_path: Path) -> None:
    """With nothing set: every benchmark ends as it can, and the last line says how."""
    result = script("all.sh", OUT=str(tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "no scores of anything" in result.stderr and "no average for" in result.stdout
    summary = last_line(result)
    assert list(summary) == ["benchmarks", "average", "model", "out", "seconds"]
    assert set(summary["benchmarks"]) == set(LLAVAS.values())
    ends = {name: end["state"] for name, end in summary["benchmarks"].items()}
    exported = {"vizwiz", "vqav2", "mmvet", "llava_bench"}
    assert ends == {name: "exported" if name in exported else "scored" for name in ends}
    for name, end in summary["benchmarks"].items():
        if end["state"] == "exported":
            assert end["files"] and all(Path(file).is_file() for file in end["files"])
        else:
            total = json.loads((tmp_path / name / "scores.json").read_text())["total"]
            assert end["value"] == pytest.approx(total["value"] * end["maximum"], abs=1e-4)
    assert summary["benchmarks"]["mme"]["maximum"] == 2000 and summary["average"] is None


def test_cme_on_the_fixtures(tmp_path: Path) -> None:
    """With nothing set: eleven scores, and no average missing."""
    result = script("cme.sh", OUT=str(tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "playground/tiny_text over eval/fixtures" in result.stderr
    summary = last_line(result)
    assert list(summary["benchmarks"]) == ELEVEN
    assert {end["state"] for end in summary["benchmarks"].values()} == {"scored"}
    mean = sum(end["value"] for end in summary["benchmarks"].values()) / len(ELEVEN)
    assert summary["average"] == pytest.approx(mean, abs=1e-3)


def test_what_is_missing_is_named_and_what_fails_fails_alone(tmp_path: Path) -> None:
    data, out = tmp_path / "eval", tmp_path / "out"
    shutil.copytree(EVAL / "fixtures", data)
    shutil.rmtree(data / "MME" / "MME_Benchmark_release_version")
    picture = next((data / "textvqa" / "train_images").iterdir())
    picture.write_bytes(picture.read_bytes()[:40])
    settings = {"MODEL": str(ROOT / "playground" / "tiny"), "DATA_ROOT": str(data), "OUT": str(out), "GPUS": "1"}
    result = script("all.sh", BENCHMARKS="mme textvqa easy_vqa", **settings)
    assert result.returncode == 1
    summary = last_line(result)
    ends = {name: end["state"] for name, end in summary["benchmarks"].items()}
    assert ends == {"mme": "missing", "textvqa": "failed", "easy_vqa": "scored"}
    assert "MME_Benchmark_release_version is missing" in summary["benchmarks"]["mme"]["why"]
    assert picture.name in result.stderr  # the damaged one


def test_nothing_to_run_and_no_model_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = script("all.sh", MODEL="m", DATA_ROOT=str(tmp_path / "empty"), GPUS="1")
    assert result.returncode == 1 and result.stderr.count("not there: ") == len(LLAVAS)
    assert "no benchmark's files are complete" in result.stderr.splitlines()[-1]
    settings = {"DATA_ROOT": str(EVAL / "fixtures"), "OUT": str(tmp_path / "out"), "GPUS": "1"}
    result = script("mme.sh", MODEL="runs/nowhere", **settings)
    assert result.returncode == 1 and "runs/nowhere" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def answered_lines(folder: Path) -> int:
    """Answers that stand in a folder, be they of one process or of several."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("**/predictions*.jsonl"))


def test_killed_in_the_middle_and_run_again_gives_the_same_file(tmp_path: Path) -> None:
    settings = {"MODEL": str(ROOT / "playground" / "tiny"), "BATCH": "2", "LIMIT": "60", "GPUS": "1"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    result = script("easy_vqa.sh", OUT=str(straight), **settings)
    assert result.returncode == 0, result.stderr[-2000:]
    process = subprocess.Popen(
        ["bash", str(EVAL / "easy_vqa.sh")],
        env=environment(OUT=str(killed), **settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while answered_lines(killed) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)  # the shell and all that it started
    process.wait()
    assert 4 <= answered_lines(killed) < 60, "was not killed in the middle"
    result = script("easy_vqa.sh", OUT=str(killed), **settings)
    assert result.returncode == 0, result.stderr[-2000:]
    name = Path("easy_vqa", "predictions.jsonl")
    assert (killed / name).read_bytes() == (straight / name).read_bytes()
    scores = [json.loads((folder / "easy_vqa" / "scores.json").read_text()) for folder in (killed, straight)]
    assert scores[0]["total"] == scores[1]["total"] and scores[0]["total"]["n"] == 60


def test_after_an_interruption_what_is_of_use_comes_last(tmp_path: Path) -> None:
    """A torchrun of our own, which ends as the real one does: in a traceback."""
    launcher, up = tmp_path / "torchrun", tmp_path / "up"
    lines = (
        "#!/usr/bin/env bash",
        "trap 'echo Traceback >&2; exit 1' INT",
        f"touch {up}",
        "while :; do sleep 0.05; done",
    )
    launcher.write_text("\n".join(lines))
    launcher.chmod(0o755)
    variables = "GPUS=2 MODEL=m MODEL_BASE= TEMPLATE= ENDPOINT= DATA_ROOT= BATCH= MODE= LIMIT= SHOW="
    running = subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail; source {EVAL / 'common.sh'}; {variables}; run pope out; echo went on"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not up.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    said, complained = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, "")
    assert complained == "Traceback\ninterrupted; the answers so far are kept, the same command goes on\n"
