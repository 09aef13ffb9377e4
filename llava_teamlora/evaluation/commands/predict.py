"""``evaluate run`` and ``evaluate predict``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError, tell_launcher

if TYPE_CHECKING:
    from llava_teamlora.evaluation.prediction.plan import Job
    from llava_teamlora.evaluation.prediction.processes import Processes
    from llava_teamlora.evaluation.prediction.responses import Answerer

_RUN = """\
Predict, score and print the table. In the folder --out:
  predictions.jsonl   one answer a line, in LLaVA's answers format plus a unique key, in the benchmark's order
  manifest.json       model, adapter and data hashes, decoding, the first prompt as the model read it, versions, cost
  scores.json         total and sub-scores with standard errors, baselines on the same questions
  scores.rows.jsonl   every question: prompt, answer, how it was parsed, its score
  export/             instead of scores: what a test server, or a judge, takes
Several benchmarks (or all whose files are there) take one loading of the model. If one fails, the others go on.
"""
_PREDICT = "The first half of run: writes predictions.jsonl and manifest.json (see evaluate run --help)."
_EXAMPLES = """\
examples:
  llava-teamlora evaluate run mme pope --model runs/my-run
  llava-teamlora evaluate run all --model liuhaotian/llava-v1.5-7b --mode paper --out runs/llava
  torchrun --nproc_per_node 8 -m llava_teamlora.cli evaluate run all --model runs/my-run      eight GPUs
  llava-teamlora evaluate run arc mmlu --model models/Llama-2-7b-hf --version cme
  llava-teamlora evaluate run seed --model runs/my-run --answer_by likelihood --out runs/seed-ranked
  llava-teamlora evaluate run pope --endpoint http://localhost:8000/v1 --concurrency 32
Killed or interrupted, the same command goes on where it stopped, also with another number of processes.
"""


def add(commands: Any) -> None:
    """Mount both."""
    for name, summary, description, scored in (
        ("run", "Predict, score and print the table", _RUN, True),
        ("predict", "Write predictions.jsonl; go on where it stopped", _PREDICT, False),
    ):
        leaf = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_work(leaf)
        _add_model(leaf.add_argument_group("a model to load"))
        _add_endpoint(leaf.add_argument_group("or a server to ask"))
        _add_decoding(leaf.add_argument_group("how it answers"))
        leaf.set_defaults(run=_run, scored=scored)


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("benchmarks", nargs="+", metavar="BENCH", help="names (llava-teamlora evaluate list), cme for its eleven "
        "tasks, or all")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder; of several benchmarks, with one folder each in it "
        "(default: RUN/evaluation/BENCH; runs/base-evaluation/… or runs/endpoint-evaluation/…)")  # fmt: skip
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    add("--limit", type=int, metavar="N", help="only the first N questions; the scores are then named partial")
    add("--overwrite", action="store_true", help="drop earlier answers in --out instead of going on from them")


def _add_model(group: Any) -> None:
    add = group.add_argument
    add("--model", metavar="PATH", help="a run folder, one of its checkpoints, an original LLaVA, or an untuned base")
    add("--model_base", metavar="PATH", help="where a run's base lies now; what an original LLaVA's LoRA lies on")
    add("--vision_tower", metavar="PATH", help="likewise the tower of a base put together, or an original LLaVA's")
    add("--version", metavar="NAME", help="conversation template of an untuned base, as v1, cme for CME's tasks, chat "
        "for its own chat template (default: v1; a run folder names its own)")  # fmt: skip
    add("--device", help="torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on an accelerator, else float32)")
    add("--bits", type=int, choices=(16, 8, 4), help="of the language model (default: as trained; a base: 16)")
    add("--attn_implementation", metavar="NAME", help="auto (the default), sdpa, eager or flash_attention_2")
    add("--static_cache", action="store_true", default=None, help="keys and values in a cache of fixed size")
    add("--compile", action="store_true", default=None, help="compiled steps (on CUDA a graph), in a cache of fixed "
        "size; minutes to start, for many or long answers")  # fmt: skip
    add("--batch_size", type=int, metavar="N", help="questions at once (default: 16)")
    add("--mode", choices=("fast", "paper"), help="paper: as LLaVA does, one question at a time, greedily, with its "
        "own length of answer (default: fast)")  # fmt: skip
    add("--answer_by", choices=("generation", "likelihood"), help="likelihood: choose the likeliest option instead of "
        "writing (SEED-Bench's own way; default: generation)")  # fmt: skip


def _add_endpoint(group: Any) -> None:
    add = group.add_argument
    add("--endpoint", metavar="URL", help="an OpenAI-compatible server, as http://localhost:8000/v1")
    add("--endpoint_model", metavar="NAME", help="what to ask there (default: the one model that it serves)")
    add("--concurrency", type=int, metavar="N", help="questions under way at once (default: 8)")
    add("--api_key_file", type=Path, metavar="FILE", help="holds the key (default: OPENAI_API_KEY, if it is set)")


def _add_decoding(group: Any) -> None:
    add = group.add_argument
    add("--max_new_tokens", type=int, metavar="N", help="longest answer (default: the benchmark's own)")
    add("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    add("--top_p", type=float, default=1.0, help="with a temperature: nucleus to sample from (default: 1)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search above 1 (default: 1)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")


def _run(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.prediction.processes import joined
    from llava_teamlora.evaluation.prediction.setup import expect_same, make_answerer, make_jobs

    with joined() as processes:
        with processes.together():  # a mistake is told before a model is loaded, and by the first process
            answerer = make_answerer(arguments, processes)
            jobs, failures = make_jobs(arguments, answerer.folder, processes)
        expect_same(jobs, failures, processes)
        with processes.together():
            ready = answerer.load()
        status = _answer(jobs, ready, processes, failures, arguments.scored)
        processes.gather(None)  # the first process has spoken; only now may another one's end stop it
    return status


def _answer(jobs: list[Job], answerer: Answerer, processes: Processes, failures: dict[str, str], scored: bool) -> int:
    """One benchmark after the other; what went wrong is told at the end."""
    from llava_teamlora.evaluation.prediction.conclusion import conclude, print_summary
    from llava_teamlora.evaluation.runner import answer_job

    endings = []
    for job in jobs:
        try:
            answer_job(job, answerer, processes)
            with processes.together():
                if processes.first:
                    endings.append((job, conclude(job, scored)))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*[_kept(job)] if processes.first else []) from None
        except UserError as error:
            if len(jobs) == 1 and not failures:
                raise
            failures[job.benchmark.name] = str(error)
    if processes.first:
        print_summary(endings)
        for name, reason in failures.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if failures:
            tell_launcher("; ".join(f"failed: {name}: {reason}" for name, reason in failures.items()))
    return 1 if failures else 0


def _kept(job: Job) -> str:
    """What an interrupted run leaves, and how to go on."""
    from llava_teamlora.evaluation.prediction.journal import answered

    found = answered(job.plan.out)
    count = sum(sample.key in found for sample in job.asked)
    return (
        f"interrupted; {count} of {len(job.asked)} answers are in {job.plan.out}, and the same command goes on "
        "from there"
    )
