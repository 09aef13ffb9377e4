"""How many tokens a second are trained on: padded batches, batches of like lengths, packed rows.

All three train the embedded base with TeamLoRA on the same drawn conversations, whose lengths have the long tail of
instruction data; a step has about as many conversations each way. Counted are tokens that are no padding, pictures'
tokens among them; making batches is timed too. On a CPU a second is one of computing, whatever else runs there.

  OMP_NUM_THREADS=1 python benchmarks/packing.py --json benchmarks/results/packing.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from PIL import Image
from side_by_side import measure, write_results
from torch.utils.data import DataLoader

from llava_teamlora import TeamLoraConfig
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.dataset import ConversationDataset
from llava_teamlora.data.packing import PackedDataset, token_lengths
from llava_teamlora.data.records import load_records
from llava_teamlora.data.sampler import LengthSampler
from llava_teamlora.data.templates import get_template
from llava_teamlora.models.build import Base, BaseSpec, load_base
from llava_teamlora.training.separation import separate_samples

ROOT = Path(__file__).resolve().parents[1]
_WORDS = "what color is the shape red green blue black it a circle square yes no".split()


@dataclass(frozen=True)
class Settings:
    """Of one measurement.

    Attributes:
        model: folder of the base.
        conversations: drawn.
        text_only: share of them without a picture.
        words: median of an answer's words; the spread is lognormal.
        spread: standard deviation of the logarithm.
        max_length: ``--model_max_length``.
        batch: conversations a step.
        steps: of each way in each round.
        rounds: that count.
        device: to train on.
    """

    model: str = "playground/tiny"
    conversations: int = 2000
    text_only: float = 0.1
    words: float = 60
    spread: float = 0.9
    max_length: int = 512
    batch: int = 16
    steps: int = 8
    rounds: int = 10
    device: str = "cpu"


def draw(folder: Path, settings: Settings) -> Path:
    """Write conversations and their one picture; the data file."""
    rng = random.Random(0)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "red.png")
    rows = []
    for index in range(settings.conversations):
        words = min(settings.max_length // 2, 1 + int(settings.words * rng.lognormvariate(0, settings.spread)))
        answer = " ".join(rng.choices(_WORDS, k=words))
        picture = rng.random() >= settings.text_only
        turns = [{"from": "human", "value": "<image>\n" * picture + "what is it?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": str(index), "conversations": turns, **({"image": "red.png"} if picture else {})})
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def loaders(dataset: ConversationDataset, settings: Settings) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    """name -> endless batches of one way, on and on through epochs."""
    lengths = token_lengths(dataset)
    rows = PackedDataset(dataset, lengths, seed=0, by_modality=False)
    a_step = max(1, round(settings.batch * len(rows) / len(dataset)))
    print(f"{rows.packed}; {a_step} rows a step")
    grouped = LengthSampler(dataset.lengths, settings.batch, 1, seed=0, sort_widely=True)
    collate = Collator(pad_token_id=0)

    def endless(data: Any, batch: int, sampler: LengthSampler | None = None) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count():
            if sampler is not None:
                sampler.set_epoch(epoch)
            shuffle = torch.Generator().manual_seed(epoch)
            order: dict[str, Any] = {"sampler": sampler} if sampler is not None else {"shuffle": True}
            yield from DataLoader(data, batch, collate_fn=collate, generator=shuffle, drop_last=True, **order)

    return {
        "padded": lambda: endless(dataset, settings.batch),
        "group_by_length": lambda: endless(dataset, settings.batch, grouped),
        "packing": lambda: endless(rows, a_step),
    }


def worker(
    model: Any, batches: Iterator[dict[str, Any]], settings: Settings, shares: list[float]
) -> Callable[[], float]:
    """Some steps of training on a way's next batches; says how many tokens they had."""

    def work() -> float:
        tokens = places = 0
        for batch in itertools.islice(batches, settings.steps):
            batch = {name: value.to(model.device) for name, value in batch.items()}
            model(**batch).loss.backward()
            model.zero_grad()
            tokens += int((batch["attention_mask"] > 0).sum())
            places += batch["attention_mask"].numel()
        shares.append(tokens / places)
        return tokens

    return work


def prepared(settings: Settings) -> tuple[Base, Any]:
    """The base, and it with an adapter in training."""
    base = load_base(BaseSpec(str(ROOT / settings.model)))
    config = TeamLoraConfig(r=8, target_modules=r".*language_model.*\.(gate|up|down)_proj")
    model = get_peft_model(base.model, config)
    separate_samples(base.model)
    return base, model.to(settings.device).train()


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure all ways; name -> rates, ratios, and the share of places that are no padding."""
    data = draw(folder, settings)
    base, model = prepared(settings)
    vision = base.vision_format("pad")
    dataset = ConversationDataset(
        load_records(data), get_template("v1"), base.tokenizer, settings.max_length, vision, folder
    )
    shares: dict[str, list[float]] = {}
    ways = {
        name: worker(model, batches(), settings, shares.setdefault(name, []))
        for name, batches in loaders(dataset, settings).items()
    }
    found = measure(ways, settings.rounds, torch.device(settings.device))
    return {
        name: {**figures, "no_padding": round(sum(shares[name]) / len(shares[name]), 4)}
        for name, figures in found.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("conversations", "batch", "steps", "rounds", "max_length"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    settings = replace(Settings(), **arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = run(settings, Path(folder))
    for name, figures in found.items():
        print(
            f"{name:>16}: {figures['rate']} tokens/s, {figures['ratio']} x padded, "
            f"{100 * figures['no_padding']:.1f} % of all places are no padding"
        )
    if path is not None:
        write_results(path, "benchmarks/packing.py", settings, torch.device(settings.device), {"ways": found})


if __name__ == "__main__":
    main()
