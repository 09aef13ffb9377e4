"""The command line of ``evaluate run`` -> who answers, and the jobs; all that can be told before a model is loaded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS, SETS, get_benchmark, spelled_out
from llava_teamlora.evaluation.prediction.answerers import LikelihoodAnswerer, ModelAnswerer
from llava_teamlora.evaluation.prediction.asking import EndpointAnswerer
from llava_teamlora.evaluation.prediction.manifest import check_earlier
from llava_teamlora.evaluation.prediction.plan import Job, Plan, make_job, ready
from llava_teamlora.evaluation.prediction.processes import Processes
from llava_teamlora.evaluation.prediction.responses import Answerer

ALL = "all"
_OF_A_MODEL = (
    "model", "model_base", "vision_tower", "device", "dtype", "bits", "attn_implementation", "batch_size", "mode",
    "answer_by", "version", "static_cache", "compile",
)  # fmt: skip
_OF_AN_ENDPOINT = ("endpoint_model", "concurrency", "api_key_file")


@dataclass(frozen=True)
class Chosen:
    """Who will answer.

    Attributes:
        folder: where its answers go by default; one folder a benchmark in it.
        load: makes it ready; may take minutes.
    """

    folder: Path
    load: Callable[[], Answerer]


def make_answerer(arguments: argparse.Namespace, processes: Processes) -> Chosen:
    """Choose by ``--model`` or ``--endpoint``.

    Raises:
        UserError: neither or both, or flags of the one with the other; a server cannot be reached.
    """
    if arguments.endpoint is None:
        _refuse(arguments, _OF_AN_ENDPOINT, "is for --endpoint")
        if arguments.model is None:
            raise UserError("who is to answer? Give --model PATH or --endpoint URL")
        return Chosen(default_folder(arguments.model), lambda: _load_model(arguments, processes))
    _refuse(arguments, _OF_A_MODEL, "is for a model loaded here; drop it or --endpoint")
    if arguments.num_beams > 1:
        raise UserError("--num_beams is for a model loaded here; drop it or --endpoint")
    if processes.count > 1:
        raise UserError("--endpoint asks as many questions at once as --concurrency says; start it without a launcher")
    answerer = _endpoint(arguments)
    return Chosen(Path("runs", "endpoint-evaluation", answerer.name.replace("/", "--")), lambda: answerer)


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    given = next((name for name in names if getattr(arguments, name) is not None), None)
    if given is not None:
        raise UserError(f"--{given} {why}")


def default_folder(model: str) -> Path:
    """Inside a run folder; never inside a base, which may be shared or committed."""
    from llava_teamlora.run_card import RUN_FILE

    folder = Path(model)
    if (folder / RUN_FILE).is_file():
        return folder / "evaluation"
    return Path("runs", "base-evaluation", folder.resolve().name)


def _load_model(arguments: argparse.Namespace, processes: Processes) -> Answerer:
    from llava_teamlora.generation import Steps
    from llava_teamlora.generation.loading import load_quietly

    steps = Steps(static_cache=bool(arguments.static_cache), compile=bool(arguments.compile))
    if steps.fixed and (arguments.answer_by == "likelihood" or arguments.num_beams > 1):
        raise UserError("--static_cache and --compile are for answers written without beams; drop them")
    loaded = load_quietly(
        arguments.model,
        device=processes.device(arguments.device),
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation or "auto",
        model_base=arguments.model_base,
        vision_tower=arguments.vision_tower,
        bits=arguments.bits,
        version=arguments.version,
    )
    return LikelihoodAnswerer(loaded) if arguments.answer_by == "likelihood" else ModelAnswerer(loaded, steps)


def _endpoint(arguments: argparse.Namespace) -> EndpointAnswerer:
    from llava_teamlora.evaluation.endpoint import Endpoint, read_key

    key, name = read_key(arguments.api_key_file), arguments.endpoint_model
    if name is None:
        served = Endpoint(arguments.endpoint, "", key).models()
        if len(served) != 1:
            raise UserError(
                f"{arguments.endpoint}: serves {len(served)} models ({', '.join(served)}); choose with --endpoint_model"
            )
        name = served[0]
    concurrency = 8 if arguments.concurrency is None else arguments.concurrency
    return EndpointAnswerer(Endpoint(arguments.endpoint, name, key), concurrency)


def make_jobs(arguments: argparse.Namespace, folder: Path, processes: Processes) -> tuple[list[Job], dict[str, str]]:
    """Load every benchmark asked for.

    Returns:
        The jobs, and of ``all`` the benchmarks that are there but broken.

    Raises:
        UserError: a benchmark that was named cannot be answered, or of ``all`` none can.
    """
    if ALL in arguments.benchmarks and len(arguments.benchmarks) > 1:
        raise UserError("all stands for every benchmark whose files are there; name none beside it")
    if arguments.benchmarks == [ALL]:
        names, missing = ready(BENCHMARKS, arguments.data_root)
        for name, reason in missing.items() if processes.first else ():
            print(f"not there: {name}: {reason}", file=sys.stderr)
    else:
        names = spelled_out(arguments.benchmarks)
    several = len(arguments.benchmarks) > 1 or arguments.benchmarks[0] in (ALL, *SETS)
    jobs, broken = [], {}
    for name in names:
        out = folder / name if arguments.out is None else arguments.out / name if several else arguments.out
        try:
            jobs.append(_job(arguments, name, out))
        except UserError as error:
            broken[name] = str(error)
    if broken and (not jobs or arguments.benchmarks != [ALL]):
        reasons = [reason if len(names) == 1 else f"{name}: {reason}" for name, reason in broken.items()]
        raise UserError("; ".join(reasons))
    if not jobs:
        raise UserError("all: no benchmark's files are there (llava-teamlora evaluate check says what is missing)")
    return jobs, broken


def expect_same(jobs: Sequence[Job], broken: Collection[str], processes: Processes) -> None:
    """See that all processes, on several machines perhaps, have found the same; they would else wait for one another.

    Args:
        jobs: of this process.
        broken: its benchmarks that are there but broken.
        processes: all of which come here.

    Raises:
        UserError: on every process: they have not.
    """
    editions = processes.gather(
        {**dict.fromkeys(broken, "broken"), **{job.benchmark.name: job.identity for job in jobs}}
    )
    first = editions[0]
    for rank, found in enumerate(editions):
        if other := [name for name in {**first, **found} if first.get(name) != found.get(name)]:
            raise UserError(
                f"process {rank} finds other files than process 0 for {', '.join(other)}; all machines must have the "
                "same under --data_root (llava-teamlora evaluate check, on each of them, says what is there)"
            )


def _job(arguments: argparse.Namespace, name: str, out: Path) -> Job:
    from llava_teamlora.generation import Decoding

    benchmark = get_benchmark(name)
    given: dict[str, Any] = {field.name: getattr(arguments, field.name, None) for field in fields(Plan)}
    plan = Plan(**{**given, "out": out, "mode": arguments.mode or "fast"})
    decoding = Decoding(
        max_new_tokens=benchmark.max_new_tokens if arguments.max_new_tokens is None else arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        num_beams=arguments.num_beams,
        seed=arguments.seed,
    )
    job = make_job(benchmark, decoding, plan)
    check_earlier(job)
    return job
