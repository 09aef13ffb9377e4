"""Folders with LLaVA-1.5's shapes and random weights, to measure training where the real ones are not at hand.

    python benchmarks/random_llava.py --size 7b --out bases/random-7b

Out: ``OUT/llm`` (vicuna-7b-v1.5's shapes), ``OUT/clip`` (CLIP ViT-L/14-336's), each with config and sharded safetensors
in bfloat16, and a tokenizer (the embedded base's: fewer words than the model has rows). Speed and memory are those of
the real weights, the loss is not. Weights are drawn and written shard by shard: 7b needs 14 GiB of disk, 2 of memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel, LlamaForCausalLM

from llava_teamlora.bench.random_llava import SIZES, configs_of

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
STD = 0.02


def write_configs(out: Path, size: str) -> tuple[Path, Path]:
    """Write all but the weights.

    Args:
        out: folder to make ``llm`` and ``clip`` in.
        size: one of :data:`SIZES`.

    Returns:
        Folders of the language model and the tower.
    """
    text, vision = configs_of(size)
    llm, clip = out / "llm", out / "clip"
    text.save_pretrained(llm)
    vision.save_pretrained(clip)
    for name in TOKENIZER:
        shutil.copy(ROOT / "playground" / "tiny" / name, llm / name)
    side = vision.image_size
    processor = {
        "crop_size": {"height": side, "width": side}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": side},
    }  # fmt: skip
    (clip / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    return llm, clip


def write_weights(folder: Path, kind: Any, shard_bytes: int, seed: int = 0) -> None:
    """Draw the weights that a folder's config asks for: matrices N(0, 0.02), norms 1, biases 0.

    Args:
        folder: with a ``config.json``.
        kind: class of the model.
        shard_bytes: largest file.
        seed: of the draw.
    """
    with torch.device("meta"):
        model = kind(kind.config_class.from_pretrained(folder))
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if "position_ids" not in name}
    shards = list(_shards(shapes, shard_bytes))
    generator = torch.Generator().manual_seed(seed)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _draw(name, shapes[name], generator) for name in names}, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(names, file))
    total = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2))


def _shards(shapes: dict[str, tuple[int, ...]], shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = 2 * torch.Size(shape).numel()
        if names and size + more > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) < 2 and "class_embedding" not in name:
        fill = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, fill, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, STD, generator=generator)


def write_base(out: Path, size: str, shard_bytes: int = 2**30) -> tuple[Path, Path]:
    """Write both folders with weights; see :func:`write_configs`."""
    llm, clip = write_configs(out, size)
    write_weights(llm, LlamaForCausalLM, shard_bytes)
    write_weights(clip, CLIPVisionModel, shard_bytes, seed=1)
    return llm, clip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for folder in write_base(arguments.out, arguments.size):
        print(folder)


if __name__ == "__main__":
    main()
