"""``llava-teamlora data inspect``: what the trainer sees of a data file, without a model.

In: a data file, a template's name, a folder with a tokenizer. Out: coloured samples, or their ids as JSON lines.
Records are read and encoded by the trainer's own code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from llava_teamlora.data.dataset import ConversationDataset

_SHOWN = 5
_INSPECT = """\
Show conversations as they are trained on: rendered by the template, tokenized, cut to --model_max_length. What
carries a loss stands in green between ⟦ and ⟧. With --json nothing is shown and FILE gets one line a record, in LLaVA's
ids: {"id": …, "input_ids": […], "labels": […], "n_images": …}, each picture one -200. No weights are read.
"""
_EXAMPLES = """\
examples:
  llava-teamlora data inspect --data_path train.json --version v1 --tokenizer lmsys/vicuna-7b-v1.5
  llava-teamlora data inspect --data_path train.json --image_folder images --version v1 \\
      --tokenizer models/llava-v1.5-7b --limit 1000 --json ids.jsonl
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``data`` on the program's subparsers; each leaf sets ``run``, arguments -> exit status."""
    parser = subparsers.add_parser("data", help="look into training data", description="Look into training data.")
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    leaf = commands.add_parser(
        "inspect",
        help="conversations as they are trained on",
        description=_INSPECT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = leaf.add_argument
    add("--data_path", required=True, metavar="FILE", help="LLaVA JSON")
    add("--version", required=True, metavar="NAME", help="conversation template, as in training: v1, cme, chat, …")
    add("--tokenizer", required=True, metavar="MODEL", help="folder or hub id of the language model or LLaVA")
    add("--image_folder", metavar="DIR", help="also see that the pictures are there and can be read")
    add("--model_max_length", type=int, default=2048, metavar="N", help="tokens, pictures expanded (default: 2048)")
    add("--tokens_per_image", type=int, metavar="N", help="tokens a picture becomes (default: a LLaVA's own, else 576)")
    add("--limit", type=int, metavar="N", help=f"first N records (default: {_SHOWN}; with --json all)")
    add("--json", type=Path, metavar="FILE", help="write ids as JSON lines there")
    leaf.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from llava_teamlora.data.inspect import decoded_sample, encoded_row
    from llava_teamlora.files import write_atomically

    for name in ("model_max_length", "tokens_per_image", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    dataset = _dataset(arguments)
    console = Console(highlight=False, soft_wrap=True)
    if arguments.json is None:
        for index in range(len(dataset)):
            console.print(decoded_sample(dataset, index), end="\n\n")
        return 0
    rows = (json.dumps(encoded_row(dataset, index)) for index in range(len(dataset)))
    write_atomically(arguments.json, "".join(f"{row}\n" for row in rows))
    console.print(f"{arguments.json}: {len(dataset)} records", markup=False)
    return 0


def _dataset(arguments: argparse.Namespace) -> ConversationDataset:
    """The records to look at, read and encoded as in training."""
    from llava_teamlora.constants import IMAGE_TOKEN_INDEX
    from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
    from llava_teamlora.data.images import check_images
    from llava_teamlora.data.records import load_records
    from llava_teamlora.data.templates import get_template
    from llava_teamlora.data.tokenize import check_end

    get_template(arguments.version)  # a mistyped name is told before a long file is read
    tokenizer, marks = _tokenizer(arguments.tokenizer)
    template = get_template(arguments.version, marks).for_tokenizer(tokenizer)
    check_end(template, tokenizer)
    limit = arguments.limit or (None if arguments.json else _SHOWN)
    records = load_records(arguments.data_path)[:limit]
    if arguments.image_folder is not None:
        check_images(records, arguments.image_folder)
    # Only names are looked at: neither pictures nor an image processor are needed for ids.
    vision = VisionFormat(None, IMAGE_TOKEN_INDEX, _tokens_per_image(arguments, any(r.images for r in records)), "pad")
    return ConversationDataset(
        records, template, tokenizer, arguments.model_max_length, vision, arguments.image_folder or ""
    )


def _tokens_per_image(arguments: argparse.Namespace, matters: bool) -> int:
    """As said, as the LLaVA in transformers' layout has it, or LLaVA-1.5's 576, which is told."""
    from llava_teamlora.models.original import find_original

    if arguments.tokens_per_image is not None:
        return arguments.tokens_per_image
    if find_original(arguments.tokenizer) is None and (Path(arguments.tokenizer) / "config.json").is_file():
        from transformers import AutoConfig, LlavaConfig

        from llava_teamlora.models.vision import tokens_per_image

        config = AutoConfig.from_pretrained(arguments.tokenizer)
        if isinstance(config, LlavaConfig):
            return tokens_per_image(config)
    if matters:
        print("a picture is taken for 576 tokens, as LLaVA-1.5's; --tokens_per_image says otherwise", file=sys.stderr)
    return 576


def _tokenizer(name: str) -> tuple[Any, bool]:
    """A base's tokenizer, and whether ``<im_start>`` and ``<im_end>`` stand around its pictures."""
    from llava_teamlora.models.original import find_original, read_json
    from llava_teamlora.models.tokenizer import load_tokenizer

    original = find_original(name)
    if original is not None:
        tokenizer = load_tokenizer(name, original.language_config())
        tokenizer.add_special_tokens({"additional_special_tokens": list(original.extra_tokens)})
        return tokenizer, bool(original.setting("mm_use_im_start_end", False))
    config = Path(name) / "config.json"
    return load_tokenizer(name), config.is_file() and bool(read_json(config).get("mm_use_im_start_end", False))
