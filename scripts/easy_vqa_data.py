#!/usr/bin/env python
"""easy-VQA's training questions -> LLaVA JSON.

Reads the training split inside the PyPI package ``easy-vqa`` (4000 pictures of 64 x 64 px, 38,575 questions) and
writes into --out:

  train.json        one conversation a picture: all its questions, in an order shuffled by --seed
  validation.json   the same for --validation_pictures of the training pictures, which train.json then lacks

The test split is never touched. The pictures are read where the package keeps them: the last line printed is
that folder, to be given to training as --image_folder (--print_image_folder prints it and does nothing else).

--replay mixes in text-only conversations, so that tuning does not destroy what the base could do:
LLaVA JSON, without pictures. FILE takes all its records, FILE:500 a random 500. Give it several times for
several files. They go to train.json only, and the whole of it is shuffled.

Records carry a task tag, easy_vqa or replay (theirs, if they have one), by which routing statistics are split.

examples:
  python scripts/easy_vqa_data.py --out playground/data/easy_vqa
  python scripts/easy_vqa_data.py --out playground/data/easy_vqa --replay playground/tiny/replay.json:2000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.records import Record, load_records
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root, image_folder, read_questions
from llava_teamlora.files import write_atomically


def conversations(seed: int) -> list[dict[str, Any]]:
    """One LLaVA record a training picture, in the pictures' order, its questions shuffled."""
    questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, picture in read_questions(default_root(), "train"):
        questions[picture].append((question, answer))
    rng = random.Random(f"{seed} questions")
    records = []
    for picture, asked in sorted(questions.items()):
        rng.shuffle(asked)
        turns = []
        for position, (question, answer) in enumerate(asked):
            text = question if position else f"{IMAGE_TOKEN}\n{question}"
            turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        identity = {"id": f"easy_vqa/train/{picture}", "image": f"{picture}.png", "task": "easy_vqa"}
        records.append({**identity, "conversations": turns})
    return records


def split(records: Sequence[dict[str, Any]], held_out: int, seed: int) -> tuple[list[Any], list[Any]]:
    """(training, validation) records, both in the given order.

    Raises:
        UserError: more pictures are held out than there are, or none is left.
    """
    if not 0 <= held_out < len(records):
        raise UserError(f"--validation_pictures {held_out} must be from 0 to {len(records) - 1}")
    chosen = set(random.Random(f"{seed} split").sample(range(len(records)), held_out))
    train = [record for index, record in enumerate(records) if index not in chosen]
    return train, [records[index] for index in sorted(chosen)]


def replay(argument: str, seed: int) -> list[dict[str, Any]]:
    """Records of one ``--replay FILE[:COUNT]``.

    Raises:
        UserError: no such file, a broken record, one with a picture, or too few of them.
    """
    name, _, number = argument.rpartition(":")
    counted = bool(name) and number.isdigit()
    path = Path(name if counted else argument)
    records = load_records(path)
    pictured = next((record for record in records if record.images), None)
    if pictured is not None:
        raise UserError(f"{pictured.where}: has a picture; --replay takes text-only records")
    if counted:
        if int(number) > len(records):
            raise UserError(f"--replay {argument}: {path} holds only {len(records)} records")
        records = random.Random(f"{seed} replay {path.name}").sample(records, int(number))
    return [_as_json(record) for record in records]


def _as_json(record: Record) -> dict[str, Any]:
    turns = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    return {"id": f"{Path(record.source).stem}/{record.id}", "task": record.task or "replay", "conversations": turns}


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """A JSON list, one record a line."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    write_atomically(path, f"[\n{lines}\n]\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for train.json and validation.json")
    parser.add_argument("--seed", type=int, default=0, help="of all shuffling and choosing (default: 0)")
    parser.add_argument("--validation_pictures", type=int, default=100, metavar="N", help="held out (default: 100)")
    parser.add_argument("--replay", action="append", default=[], metavar="FILE[:COUNT]", help="see above")
    parser.add_argument("--print_image_folder", action="store_true", help="print the pictures' folder and stop")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.print_image_folder:
            _convert(arguments.out, arguments.seed, arguments.validation_pictures, arguments.replay)
        print(image_folder("train"))
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _convert(out: Path | None, seed: int, held_out: int, replays: Sequence[str]) -> None:
    if out is None:
        raise UserError("--out DIR is missing: where shall train.json and validation.json go?")
    train, validation = split(conversations(seed), held_out, seed)
    text_only = [record for argument in replays for record in replay(argument, seed)]
    everything = [*train, *text_only]
    random.Random(f"{seed} order").shuffle(everything)
    if held_out:
        write_records(out / "validation.json", validation)
    write_records(out / "train.json", everything)
    print(f"{out / 'train.json'}: {_pictures(train)}, {len(text_only)} text-only conversations")
    if held_out:
        print(f"{out / 'validation.json'}: {_pictures(validation)}")


def _pictures(records: Sequence[dict[str, Any]]) -> str:
    questions = sum(len(record["conversations"]) // 2 for record in records)
    return f"{len(records)} pictures with {questions} questions"


if __name__ == "__main__":
    raise SystemExit(main())
