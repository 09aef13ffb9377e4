"""``evaluate run`` and ``evaluate predict``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.evaluation.runner import Plan
    from llava_teamlora.evaluation.types import Benchmark
    from llava_teamlora.generation import Decoding

_RUN = """\
Predict, score and print the table. In the folder --out:
  predictions.jsonl   one answer a line, in LLaVA's answers format plus a unique key
  manifest.json       model, adapter and data hashes, decoding, versions, seconds, memory
  scores.json         total and sub-scores with standard errors, baselines on the same questions
  scores.rows.jsonl   every question: prompt, answer, how it was parsed, its score
"""
_PREDICT = "The first half of run: writes predictions.jsonl and manifest.json (see evaluate run --help)."


def add(commands: Any) -> None:
    """Mount both."""
    for name, summary, description, action in (
        ("run", "Predict, score and print the table", _RUN, _run),
        ("predict", "Write predictions.jsonl; go on where it stopped", _PREDICT, _predict),
    ):
        leaf = commands.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _add_model_arguments(leaf)
        leaf.set_defaults(run=action)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("benchmark", metavar="BENCH", help="a benchmark's name (llava-teamlora evaluate list)")
    add("--model", required=True, metavar="PATH", help="a run folder, one of its checkpoints, or an untuned base")
    add("--model_base", metavar="PATH", help="where a run's base lies now; what an original LLaVA's LoRA lies on")
    add("--vision_tower", metavar="PATH", help="likewise the tower of a base put together, or an original LLaVA's")
    add("--out", type=Path, metavar="DIR", help="default: RUN/evaluation/BENCH; runs/base-evaluation/… for a base")
    add("--data_root", type=Path, metavar="DIR", help="the benchmark's files, if not in their usual place")
    add("--batch_size", type=int, default=128, metavar="N", help="questions at once (default: 128)")
    add("--limit", type=int, metavar="N", help="only the first N questions; the scores are then named partial")
    add("--overwrite", action="store_true", help="drop earlier answers in --out instead of going on from them")
    add("--device", help="torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on an accelerator, else float32)")
    add("--bits", type=int, choices=(16, 8, 4), help="of the language model (default: as trained; a base: 16)")
    add("--attn_implementation", default="auto", metavar="NAME", help="auto, sdpa, eager or flash_attention_2")
    add("--max_new_tokens", type=int, metavar="N", help="longest answer (default: the benchmark's own)")
    add("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    add("--top_p", type=float, default=1.0, help="with a temperature: nucleus to sample from (default: 1)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search above 1 (default: 1)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")


def _prepare(arguments: argparse.Namespace) -> tuple[Benchmark, Loaded, Decoding, Plan]:
    """Check the arguments, then load the model: a mistake is told before the wait."""
    from llava_teamlora.evaluation.benchmarks import get_benchmark
    from llava_teamlora.evaluation.runner import Plan

    benchmark = get_benchmark(arguments.benchmark)
    plan = {name: getattr(arguments, name) for name in ("batch_size", "limit", "overwrite", "data_root")}
    Plan(Path(), **plan)

    from llava_teamlora.generation import Decoding
    from llava_teamlora.generation.loading import load_quietly

    decoding = Decoding(
        max_new_tokens=benchmark.max_new_tokens if arguments.max_new_tokens is None else arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        num_beams=arguments.num_beams,
        seed=arguments.seed,
    )
    loaded = load_quietly(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        model_base=arguments.model_base,
        vision_tower=arguments.vision_tower,
        bits=arguments.bits,
    )
    out = arguments.out or default_out(loaded.manifest["kind"], arguments.model, benchmark.name)
    return benchmark, loaded, decoding, Plan(out, **plan)


def default_out(kind: str, model: str, benchmark: str) -> Path:
    """Inside a run folder; never inside a base, which may be shared or committed."""
    folder = Path(model)
    if kind == "run":
        return folder / "evaluation" / benchmark
    return Path("runs", "base-evaluation", folder.resolve().name, benchmark)


def _run(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.report import build_report, print_report
    from llava_teamlora.evaluation.runner import SCORES, evaluate

    benchmark, loaded, decoding, plan = _prepare(arguments)
    scores = evaluate(benchmark, loaded, decoding, plan)
    cost = scores["manifest"]["cost"]
    print_report(build_report([str(plan.out / SCORES)]))
    print(
        f"{cost['answered']} questions in {cost['predict_seconds']:.1f} s, at most {cost['peak_mem_mib']} MiB\n"
        f"scores: {plan.out / SCORES}"
    )
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.runner import predict

    benchmark, loaded, decoding, plan = _prepare(arguments)
    print(f"answers: {predict(benchmark, loaded, decoding, plan)}")
    return 0
