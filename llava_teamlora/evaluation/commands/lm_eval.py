"""``evaluate lm_eval``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_LM_EVAL = """\
Evaluate by lm-eval's protocol: its tasks over your local files, its prompts without any conversation template, and the
likeliest of the given answers instead of one that the model writes (nq and triviaqa are written). In the folder --out:
  lm_eval.json          metrics of every task with standard errors, versions, settings, the model
  lm_eval.rows.jsonl    every document: prompt, target, answers, metrics
Its figures are not those of evaluate run, and no table mixes them. Needs pip install 'llava-teamlora[lm-eval]'; nothing
is downloaded, and one process answers. tldr, imdb and webqa have no task there.
"""
_EXAMPLES = """\
examples:
  llava-teamlora evaluate lm_eval arc mmlu --model runs/my-text-run
  llava-teamlora evaluate lm_eval cme --model models/Llama-2-7b-hf --out runs/llama-2
  llava-teamlora evaluate lm_eval mmlu --num_fewshot 5 --model runs/my-text-run
  llava-teamlora evaluate lm_eval arc_challenge --limit 100 --model runs/my-text-run
"""


def add(commands: Any) -> None:
    """Mount it."""
    parser = commands.add_parser(
        "lm_eval",
        help="Evaluate text tasks by lm-eval's log-likelihoods; another protocol than run",
        description=_LM_EVAL,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tasks", nargs="+", metavar="TASK", help="names of CME's tasks, or lm-eval's (anli_r1, arc_easy, mmlu_anatomy "
        "…), or cme for all")  # fmt: skip
    add("--model", required=True, metavar="PATH", help="a run folder, one of its checkpoints, or an untuned base")
    add("--model_base", metavar="PATH", help="where a run's base lies now")
    add("--out", type=Path, metavar="DIR", help="default: lm_eval in the run's folder evaluation, or "
        "runs/base-evaluation/NAME/lm_eval")  # fmt: skip
    add("--data_root", type=Path, metavar="DIR", help="folder of the benchmarks (default: playground/data/eval)")
    add("--num_fewshot", type=int, metavar="N", help="examples before each question, from the training split beside "
        "the files (MMLU: dev; default: none)")  # fmt: skip
    add("--limit", type=int, metavar="N", help="only the first N documents of each task")
    add("--batch_size", type=int, default=16, metavar="N", help="contexts at once (default: 16)")
    add("--device", help="torch device (default: the accelerator if there is one, else cpu)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on an accelerator, else float32)")
    add("--bits", type=int, choices=(16, 8, 4), help="of the language model (default: as trained; a base: 16)")
    parser.set_defaults(run=_lm_eval)


def _lm_eval(arguments: argparse.Namespace) -> int:
    from llava_teamlora.evaluation.lm_eval.run import RESULTS, Settings, chosen, require_lm_eval, run_lm_eval

    settings = Settings(arguments.batch_size, arguments.num_fewshot, arguments.limit)
    require_lm_eval()
    wanted = chosen(arguments.tasks, arguments.data_root)

    from llava_teamlora.evaluation.prediction.setup import default_folder
    from llava_teamlora.generation.loading import load_quietly

    out = arguments.out or default_folder(arguments.model) / "lm_eval"
    loaded = load_quietly(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        model_base=arguments.model_base,
        bits=arguments.bits,
    )
    content = run_lm_eval(loaded, wanted, settings, out, arguments.data_root)
    print("\n".join(_lines(content)))
    print(f"written: {out / RESULTS}")
    return 0


def _lines(content: dict[str, Any]) -> list[str]:
    """One a task, with its metrics in percent."""
    found = [f"lm-eval {content['lm_eval']}, {content['model']} ({content['note']})"]
    tasks, groups = content["tasks"], content["groups"]
    if groups:  # of MMLU, whose 57 subjects they stand for
        tasks = {name: one for name, one in tasks.items() if one["benchmark"] != "mmlu"}
    for name, one in {**tasks, **groups}.items():
        measured = (f"{metric} {_percent(figure)}" for metric, figure in one["metrics"].items())
        part = f"  {one['n']} of {one['of']}" if one.get("n") != one.get("of") else ""
        found.append(f"{name:<20} {'  '.join(measured)}{part}")
    if content["contexts_cut"]:
        found.append(
            f"{content['contexts_cut']} contexts lost their beginning: they are longer than the model's positions"
        )
    return found


def _percent(figure: dict[str, float | None]) -> str:
    value, stderr = figure["value"], figure["stderr"]
    assert value is not None
    return f"{100 * value:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")
