"""``evaluate grade``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from llava_teamlora.evaluation.judging.judges import Judge
    from llava_teamlora.evaluation.judging.rubric import Rubric

_GRADE = """\
Let a judge model grade free answers (mmvet, llava_bench), and write the official tool's own grade file:
  grades.json           MM-Vet's grades, or grades.jsonl, LLaVA's reviews; evaluate score takes it as --grades
  grades.manifest.json  judge, prompt, temperatures, dates, digests of the graded answers
  grades.cache.jsonl    every grade as it came in: run the command again, and nothing is asked twice
Beside another answers file than predictions.jsonl, m.jsonl, they are m.grades.json and so on.
The judge is a model behind an OpenAI-compatible address (--endpoint) or in a folder on this machine (--judge_path).
Published scores are of the official prompt, which is not in this package: give MM-Vet's mm-vet_evaluator.py or
LLaVA's llava/eval/table/rule.json as --judge_prompt. Else our own prompt is used, and the metric's name says so.
"""
_LOCAL_TOKENS = 16  # many tokenizers need more than the official three tokens for " 0.5"


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "grade",
        help="Let a judge model grade free answers",
        description=_GRADE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="mmvet or llava_bench")
    add("--answers", type=Path, required=True, metavar="FILE", help="predictions.jsonl, ours or LLaVA's")
    add("--out", type=Path, metavar="FILE", help="default: beside the answers, see above")
    add("--judge", metavar="NAME", help="the served model's name (default: the only one that --endpoint serves)")
    add("--endpoint", metavar="URL", help="an OpenAI-compatible address, as http://localhost:8000/v1")
    add("--api_key_file", type=Path, metavar="FILE", help="its key (default: the environment's OPENAI_API_KEY)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds to wait for a reply (default: 120)")
    add("--retries", type=int, default=5, metavar="N", help="further tries after 429, 5xx, time-outs (default: 5)")
    add("--concurrency", type=int, default=4, metavar="N", help="questions asked at once (default: 4)")
    add("--judge_path", metavar="PATH", help="instead: a model's folder, loaded here")
    add("--device", help="with --judge_path: torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="with --judge_path: float32, bfloat16 or float16")
    add("--bits", type=int, choices=(16, 8, 4), help="with --judge_path: of the language model")
    add("--version", metavar="NAME", help="with --judge_path, of a base: its conversation template (default: v1)")
    add("--judge_prompt", type=Path, metavar="FILE", help="the official tool's prompt; see above")
    add("--judge_tokens", type=int, metavar="N", help="longest reply (default: the official tool's; 3 or 1024)")
    add("--runs", type=int, default=1, metavar="N", help="gradings of each answer (default: 1; MM-Vet's paper: 5)")
    add("--unreadable", choices=("error", "zero"), default="error", help="replies without a grade (default: error)")
    add("--partial", action="store_true", help="grade what is there of an incomplete answers file")
    add("--limit", type=int, metavar="N", help="grade only the first N questions")
    add("--data_root", type=Path, metavar="DIR", help="the benchmarks' files, if not in their usual place")
    parser.set_defaults(run=_grade)


def _grade(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.companions import default_out
    from llava_teamlora.evaluation.judging.grading import GradingPlan, grade
    from llava_teamlora.evaluation.scoring import load_answered

    benchmark = get_benchmark(arguments.benchmark)
    rubric = _rubric(benchmark.name, arguments)
    out = arguments.out or default_out(arguments.answers, f"grades{rubric.suffix}")
    if out.resolve() == arguments.answers.resolve():
        raise UserError(f"--out {out}: is the answers file itself")
    tokens = arguments.judge_tokens
    if tokens is None and arguments.judge_path is not None:
        tokens = max(rubric.max_tokens, _LOCAL_TOKENS)
    concurrency = arguments.concurrency if arguments.judge_path is None else 1
    plan = GradingPlan(out, arguments.runs, tokens, concurrency, arguments.unreadable)
    found = load_answered(
        benchmark, arguments.answers, arguments.data_root, partial=arguments.partial, limit=arguments.limit
    )
    grade(benchmark, rubric, _judge(arguments), found.pairs, plan)
    flags = f" --data_root {arguments.data_root}" if arguments.data_root else ""
    print(
        f"grades by {rubric.prompt_name}: {out}\nscore them: llava-teamlora evaluate score {benchmark.name} "
        f"--answers {arguments.answers} --grades {out}{flags}"
    )
    return 0


def _rubric(name: str, arguments: argparse.Namespace) -> Rubric:
    """What the judge is asked.

    Raises:
        UserError: no judge grades this benchmark, or the prompt's file is broken.
    """
    from llava_teamlora.evaluation.judging.llava_bench import LlavaBenchRubric
    from llava_teamlora.evaluation.judging.mmvet import MmVetRubric

    if name == "mmvet":
        return MmVetRubric(arguments.judge_prompt)
    if name == "llava_bench":
        return LlavaBenchRubric(arguments.judge_prompt, arguments.data_root)
    raise UserError(f"{name}: no judge grades it; score it with llava-teamlora evaluate score {name}")


def _judge(arguments: argparse.Namespace) -> Judge:
    """Who grades: a served model, or a folder, which is loaded.

    A name that is given is not looked up: servers take others than they list (``llama3`` for ``llama3:latest``), or
    list none, and one that they do not know ends the first question, and with it all, with status 404.

    Raises:
        UserError: neither or both are named, or no one model is there to be chosen.
    """
    from llava_teamlora.evaluation.endpoint import Endpoint, read_key
    from llava_teamlora.evaluation.judging.judges import EndpointJudge, LocalJudge

    if (arguments.endpoint is None) == (arguments.judge_path is None):
        raise UserError("name one judge: --endpoint URL --judge NAME, or --judge_path FOLDER")
    if arguments.judge_path is not None:
        if arguments.judge is not None:
            raise UserError("--judge names a served model; leave it out with --judge_path")
        from llava_teamlora.generation.loading import load_quietly

        options = {name: getattr(arguments, name) for name in ("device", "dtype", "bits", "version")}
        return LocalJudge(load_quietly(arguments.judge_path, **options))
    key = read_key(arguments.api_key_file)

    def endpoint(name: str) -> Endpoint:
        return Endpoint(arguments.endpoint, name, key, arguments.timeout, arguments.retries)

    if arguments.judge is None:
        served = endpoint("").models()
        if len(served) != 1:
            raise UserError(f"{arguments.endpoint}: serves {', '.join(served) or 'nothing'}; choose with --judge NAME")
        return EndpointJudge(endpoint(served[0]))
    return EndpointJudge(endpoint(arguments.judge))
