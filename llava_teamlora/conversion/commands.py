"""``llava-teamlora merge``, ``llava-teamlora convert`` and ``llava-teamlora convert-adapter``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError

_RAW = argparse.RawDescriptionHelpFormatter

_MERGE = """\
Write a run's model as one plain model folder in transformers' layout: weights, tokenizer and processor, without peft.
`llava-teamlora cli`, `evaluate` and `train` take it as a base.

LoRA, MoSLoRA, AdaLoRA and IA3 merge exactly, in float32 (four bytes a weight of memory); the weights are rounded once,
when they are written. The largest difference of logits from the run's is printed, before the rounding and after it.

TeamLoRA, MoELoRA and HydraLoRA do not: their update depends on the input, so no weight holds it. --approximate mean
folds each expert in at its mean weight over a calibration set, in float32. That is another model. How far from the
run's is measured and printed: loss before and after, logits, KL divergence and agreement of the first choice, on four
fifths of the data (where the means were taken) and on the held out fifth (which tells what to expect).

All of it is written to merge.json.
"""
_MERGE_EXAMPLES = """\
examples:
  llava-teamlora merge runs/lora --output runs/lora-merged
  llava-teamlora merge runs/teamlora --output runs/teamlora-mean --approximate mean \\
      --data_path train.json --image_folder images --limit 256
"""
_CONVERT = """\
Turn the adapter of a run folder (or of a bare adapter folder) into another one; no base model is loaded.

  lora    -> teamlora, moelora   a warm start: slices of a LoRA of rank k*r, equal output at the start (--num_experts k)
  moelora -> teamlora            equal; the interaction matrix starts at the identity and may be trained on
  teamlora -> moelora            equal if M is the identity; else refused, or kept with --keep_interaction

Surgery, also without --to:
  --drop_expert J                the other experts add exactly what they did; J's place stays, empty
  --drop_expert J --renormalise  J is gone, k is smaller; the router's softmax over the rest takes its share over
  --clone_expert J               J twice; each token's update is scaled by (1 + 1/k) / (1 + phi_J), else unchanged
  --clone_expert all             every expert twice; equal output

docs/conversions.md says why each is equal or cannot be.
"""
_CONVERT_EXAMPLES = """\
examples:
  llava-teamlora convert-adapter runs/lora --to teamlora --num_experts 4 --output runs/warm
  llava-teamlora convert-adapter runs/teamlora --drop_expert 2 --renormalise --output runs/three-experts
"""
_LAYOUT = """\
Write a LLaVA in the other layout: LLaVA's own (haotian-liu/LLaVA) or transformers'. SOURCE is

  an original folder or hub id: whole, a LoRA or a projector       --to transformers, a whole model
  an original LoRA or projector                                    --to original, a whole model too
  a LLaVA in transformers' layout, such as llava-hf/*              --to original
  a run folder of method full                                      --to original, a whole model
  a run folder of method lora                                      --to original, LLaVA's LoRA folder
  a run folder of method projector                                 --to original, mm_projector.bin

Weights are not changed, but for a LoRA's, which is merged in float32; all are read again after writing and compared.
docs/checkpoints.md has the details.
"""
_LAYOUT_EXAMPLES = """\
examples:
  llava-teamlora convert liuhaotian/llava-v1.5-7b --to transformers --output llava-1.5-7b
  llava-teamlora convert liuhaotian/llava-v1.5-7b-lora --to transformers --output merged \\
      --model_base lmsys/vicuna-7b-v1.5
  llava-teamlora convert llava-hf/llava-1.5-7b-hf --to original --output llava-v1.5-7b \\
      --vision_tower openai/clip-vit-large-patch14-336
  llava-teamlora convert runs/lora --to original --output llava-v1.5-7b-lora-mine
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``merge``, ``convert`` and ``convert-adapter`` on the program's subparsers; each sets ``run``."""
    _add_merge(subparsers)
    _add_layout(subparsers)
    _add_convert(subparsers)


def _add_merge(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="write a run as one plain model folder",
        description=_MERGE,
        epilog=_MERGE_EXAMPLES,
        formatter_class=_RAW,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="RUN_FOLDER", help="a run folder, or one of its checkpoints")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to make; it must not hold anything yet")
    add("--approximate", choices=("mean",), help="for routed methods: fold the mean weight of each expert in")
    add("--data_path", type=Path, metavar="JSON", help="calibration conversations, LLaVA's JSON")
    add("--image_folder", type=Path, metavar="DIR", help="folder the pictures' paths are relative to")
    add("--limit", type=int, default=256, metavar="N", help="conversations used, evenly spread (default: 256)")
    add("--batch_size", type=int, default=8, metavar="N", help="conversations at once (default: 8)")
    add("--model_base", metavar="PATH", help="where the run's base lies now, if it has moved")
    add("--vision_tower", metavar="PATH", help="likewise its vision tower, if the base was put together with one")
    add("--device", help="torch device (default: cpu; to calibrate, the accelerator if there is one)")
    add("--dtype", help="float32, bfloat16 or float16, of the written weights (default: the base's own)")
    parser.set_defaults(run=_merge)


def _add_layout(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="write a LLaVA in LLaVA's own layout or in transformers'",
        description=_LAYOUT,
        epilog=_LAYOUT_EXAMPLES,
        formatter_class=_RAW,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder or hub id of a LLaVA, or a run folder")
    add("--to", required=True, choices=("original", "transformers"), help="layout to write")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to make; it must not hold anything yet")
    add("--model_base", metavar="PATH", help="what a LoRA, a projector or a run lies on, if not what it names itself")
    add("--vision_tower", metavar="PATH", help="where an original's tower lies; of a new original: what it names")
    add("--dtype", help="float32, bfloat16 or float16, of the written weights (default: the source's own)")
    add("--max_shard_size", default="5GB", metavar="SIZE", help="largest weight file (default: 5GB)")
    parser.set_defaults(run=_layout)


def _add_convert(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert-adapter",
        help="turn an adapter into another method's, drop or clone experts",
        description=_CONVERT,
        epilog=_CONVERT_EXAMPLES,
        formatter_class=_RAW,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="RUN_OR_ADAPTER", help="a run folder, one of its checkpoints, or peft's folder")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to make; it must not hold anything yet")
    add("--to", choices=("teamlora", "moelora"), help="method to convert to")
    add("--num_experts", type=int, metavar="K", help="from a LoRA: experts to cut its rank into")
    add("--interaction_init", choices=("identity", "uniform", "literal"), help="from a LoRA: M (default: identity)")
    add("--keep_interaction", action="store_true", help="to moelora: keep a learned interaction matrix")
    add("--drop_expert", type=int, nargs="+", default=[], metavar="J", help="experts to drop, counted from 0")
    add("--renormalise", action="store_true", help="with --drop_expert: the rest take over the dropped share")
    add("--clone_expert", metavar="J", help="an expert to double, counted from 0, or all")
    parser.set_defaults(run=_convert)


def _merge(arguments: argparse.Namespace) -> int:
    from llava_teamlora.conversion.calibration import DataPlan
    from llava_teamlora.conversion.merging import MergePlan, merge_run
    from llava_teamlora.run_card import read_run_card

    data = None
    if arguments.approximate is not None:
        if arguments.data_path is None:
            raise UserError("--approximate mean needs --data_path, conversations to take the means over")
        length = read_run_card(arguments.folder).arguments.get("model_max_length", 2048)
        data = DataPlan(
            arguments.data_path, arguments.image_folder, arguments.limit, arguments.batch_size, max_length=length
        )
    elif arguments.data_path is not None or arguments.image_folder is not None:
        raise UserError("--data_path and --image_folder go with --approximate mean")
    plan = MergePlan(
        arguments.folder,
        arguments.output,
        data,
        arguments.device,
        arguments.dtype,
        arguments.model_base,
        arguments.vision_tower,
    )
    report = merge_run(plan)
    if report["approximate"] is not None:
        _print_costs(report["approximate"])
    else:
        _print_differences(report["exact"], report["dtype"])
    merged = report["merged"]
    if merged["version"] != "v1":
        print(f"Ask it as it was trained: template {merged['version']!r}; a plain model folder does not say so itself")
    print(f"model: {arguments.output}")
    return 0


def _layout(arguments: argparse.Namespace) -> int:
    from llava_teamlora.conversion.llava import LayoutPlan, convert_layout

    names = ("source", "to", "output", "model_base", "vision_tower", "dtype", "max_shard_size")
    for note in convert_layout(LayoutPlan(**{name: getattr(arguments, name) for name in names})):
        print(note)
    print(f"{arguments.to} layout: {arguments.output}")
    return 0


def _print_differences(report: dict[str, float], dtype: str) -> None:
    found, written = (f"{report[name]:.2g}" for name in ("logit_difference", "logit_difference_as_written"))
    print(
        f"logits differ from the run's by at most {found} in float32, {written} with the weights rounded to {dtype} "
        f"(the largest is {report['largest_logit']:.2g})"
    )


def _print_costs(report: dict[str, Any]) -> None:
    """A table: calibration beside held-out data."""
    from rich.console import Console
    from rich.table import Table

    columns = {"calibration": report["calibration"], "held out": report["held_out"]}
    columns = {title: cost for title, cost in columns.items() if cost is not None}
    table = Table(title="before: the run; after: the merged model", title_justify="left")
    table.add_column("")
    for title in columns:
        table.add_column(title, justify="right")
    for name in report["calibration"]:
        values = [cost[name] for cost in columns.values()]
        shown = ["-" if v is None else str(v) if isinstance(v, int) else f"{v:.5g}" for v in values]
        table.add_row(name.replace("_", " "), *shown)
    Console(highlight=False).print(table)


def _convert(arguments: argparse.Namespace) -> int:
    from llava_teamlora.conversion.adapters import ALL, Change, convert_folder
    from llava_teamlora.tuners.routed.adapter import method_name

    clone = arguments.clone_expert
    if clone not in (None, ALL):
        if not clone.isdecimal():
            raise UserError(f"--clone_expert {clone!r} is neither an expert's number nor {ALL}")
        clone = int(clone)
    change = Change(
        to=arguments.to,
        num_experts=arguments.num_experts,
        interaction_init=arguments.interaction_init,
        keep_interaction=arguments.keep_interaction,
        drop=tuple(arguments.drop_expert),
        renormalise=arguments.renormalise,
        clone=clone,
    )
    adapter = convert_folder(arguments.folder, arguments.output, change)
    config: Any = adapter.config
    weights = sum(weight.numel() for layer in adapter.layers().values() for weight in layer.values())
    print(
        f"{arguments.output}: {method_name(config)}, {config.num_experts} experts of rank {config.r} on "
        f"{len(adapter.layers())} linears, {weights:,} parameters"
    )
    return 0
