"""The embedded CME as its readers read it: what several tests share."""

from pathlib import Path

from cme_world.build import Plan

from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.cme.task import Item, TextTask

PLAN = Plan()
TRAINING = {
    "tldr": "train.jsonl",
    "imdb": "aclImdb/train",
    "anli": "anli_v1.0/R*/train.jsonl",
    "qqp": "QQP/train.tsv",
    "rte": "RTE/train.tsv",
    "winogrande": "winogrande_1.1/train_xl.jsonl",
    "arc": "ARC-V1-Feb2018-2/ARC-*/*-Train.jsonl",
    "webqa": "WebQA.v1.0/me_train.json",
    "nq": "NQ-open.train.jsonl",
    "triviaqa": "triviaqa-unfiltered/unfiltered-web-train.json",
    "mmlu": "data/auxiliary_train/*.csv",
}


def task(name: str) -> TextTask:
    found = BENCHMARKS[name]
    assert isinstance(found, TextTask)
    return found


def training(world: Path, name: str) -> list[Item]:
    """Through the task's own reader, as `cme build` reads it."""
    return [item for path in sorted((world / "train" / name).glob(TRAINING[name])) for item in task(name).items(path)]
