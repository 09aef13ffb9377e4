"""What it saves not to run the vision tower: a step on pictures, and a step on features that are kept on disk.

The embedded base's language model with a larger, random tower, TeamLoRA, drawn JPEG pictures. Timed are whole steps:
making the batch (decoding pictures, or reading features), forward and backward. Filling the store is timed once.

  OMP_NUM_THREADS=1 python benchmarks/vision_cache.py --json benchmarks/results/vision_cache.json
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from PIL import Image, ImageDraw
from side_by_side import measure, write_results
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

from llava_teamlora import TeamLoraConfig
from llava_teamlora.bench.measuring import clock
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.features import FeatureStore
from llava_teamlora.data.records import load_records
from llava_teamlora.data.templates import get_template
from llava_teamlora.models.build import Base, BaseSpec, load_base
from llava_teamlora.models.feature_cache import Tower, keep_features

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """Of one measurement.

    Attributes:
        model: folder whose language model is used.
        width: of the tower.
        layers: of the tower.
        size: of its pictures in pixels.
        patch: of its patches in pixels.
        pictures: drawn, each of 640 x 480 pixels.
        batch: conversations a step.
        rounds: that count; each way trains on all pictures in every round.
        device: to train on.
    """

    model: str = "playground/tiny"
    width: int = 384
    layers: int = 12
    size: int = 224
    patch: int = 16
    pictures: int = 32
    batch: int = 8
    rounds: int = 10
    device: str = "cpu"


def draw(folder: Path, settings: Settings) -> Path:
    """Write pictures of random shapes and a conversation about each; the data file."""
    rng = random.Random(0)
    rows = []
    for index in range(settings.pictures):
        picture = Image.effect_noise((640, 480), 40).convert("RGB")
        for _ in range(20):
            x, y, color = rng.randrange(560), rng.randrange(400), tuple(rng.randrange(256) for _ in range(3))
            ImageDraw.Draw(picture).ellipse((x, y, x + 80, y + 80), fill=color)
        picture.save(folder / f"{index}.jpg", quality=90)
        turns = [{"from": "human", "value": "<image>\nwhat color is it?"}, {"from": "gpt", "value": "red"}]
        rows.append({"id": str(index), "image": f"{index}.jpg", "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def composed(folder: Path, settings: Settings) -> Base:
    """The embedded base's language model behind a larger tower, put together as the trainer does it."""
    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=settings.width, intermediate_size=4 * settings.width, num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 64, image_size=settings.size, patch_size=settings.patch,
    )  # fmt: skip
    CLIPVisionModel(tower).save_pretrained(folder / "tower")
    side = {"height": settings.size, "width": settings.size}
    CLIPImageProcessorPil(size={"shortest_edge": settings.size}, crop_size=side).save_pretrained(folder / "tower")
    whole: Any = load_base(BaseSpec(str(ROOT / settings.model)))
    alone = LlamaForCausalLM(whole.model.config.text_config)
    alone.model, alone.lm_head = whole.model.model.language_model, whole.model.lm_head
    alone.save_pretrained(folder / "llm")
    whole.tokenizer.save_pretrained(folder / "llm")
    return load_base(BaseSpec(str(folder / "llm"), str(folder / "tower")))


def worker(model: Any, dataset: ConversationDataset, settings: Settings) -> Callable[[], float]:
    """One pass of training over all pictures; says how many they were."""

    def work() -> float:
        for batch in DataLoader(dataset, settings.batch, collate_fn=Collator(0)):
            model(**{name: value.to(model.device) for name, value in batch.items()}).loss.backward()
            model.zero_grad()
        return len(dataset)

    return work


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure both ways, and how the store was filled."""
    data = draw(folder, settings)
    base = composed(folder, settings)
    vision, device = base.vision_format("pad"), torch.device(settings.device)
    assert vision is not None
    pictures = [folder / f"{index}.jpg" for index in range(settings.pictures)]
    start = clock(device)
    store = keep_features(folder / "cache", Tower(base.model, vision, device), pictures)
    filling = clock(device) - start
    model = get_peft_model(base.model, TeamLoraConfig(r=8, target_modules=r".*language_model.*\.(gate|up|down)_proj"))
    model = model.to(device).train()
    records, template = load_records(data), get_template("v1")

    def dataset(features: FeatureStore | None) -> ConversationDataset:
        return ConversationDataset(records, template, base.tokenizer, 2048, vision, folder, features)

    found = measure(
        {name: worker(model, dataset(features), settings) for name, features in (("pictures", None), ("kept", store))},
        settings.rounds,
        device,
    )
    return {
        "ways": found,
        "mb_a_picture": store.entry_bytes / 1e6,
        "filling_ms_a_picture": round(1e3 * filling / len(pictures), 1),
        "tower_parameters": sum(parameter.numel() for parameter in base.model.model.vision_tower.parameters()),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("width", "layers", "size", "patch", "pictures", "batch", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    settings = replace(Settings(), **arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = run(settings, Path(folder))
    for name, figures in found["ways"].items():
        print(f"{name:>9}: {figures['rate']} pictures/s, {figures['ratio']} x pictures")
    print(
        f"tower of {found['tower_parameters'] / 1e6:.0f} M parameters; {found['mb_a_picture']:.2f} MB a picture, "
        f"computed once in {found['filling_ms_a_picture']} ms each"
    )
    if path is not None:
        write_results(path, "benchmarks/vision_cache.py", settings, torch.device(settings.device), found)


if __name__ == "__main__":
    main()
