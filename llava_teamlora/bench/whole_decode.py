"""``llava-teamlora bench decode --model``: tokens a second of a whole, randomly initialised LLaVA.

In: settings. Out: tokens a second over the reference's, and in all. Each way answers the same prompts as
``llava-teamlora evaluate --static_cache`` does, greedily and in a cache of fixed size; on CUDA with a compiled step, a
graph. The prompt's own pass is not timed; what every token costs besides the model, its choice among others, is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from llava_teamlora.bench.cases import DTYPES, Case, cases_of
from llava_teamlora.bench.measuring import Times, Way
from llava_teamlora.bench.output import Check, Column, Found, Row
from llava_teamlora.bench.parts import fill
from llava_teamlora.bench.random_llava import build_random_llava
from llava_teamlora.bench.settings import DecodeSettings
from llava_teamlora.bench.timed import Progress, time_cases
from llava_teamlora.bench.whole_model import adapted, ffn_linears
from llava_teamlora.errors import UserError
from llava_teamlora.generation.fixed import FixedSteps, Steps
from llava_teamlora.generation.reader import State
from llava_teamlora.tuners.routed.inference import prepare
from llava_teamlora.tuners.routed.layer import routed_layers
from llava_teamlora.tuners.routed.packed import base_linear

COLUMNS = (
    Column("ratio", "ratio (quart.)"),
    Column("twin", "A/A", "{:.3f}"),
    Column("ms", "ms a token", "{:.3g}"),
    Column("tokens_per_s", "tokens/s", "{:,.1f}"),
)
NOTE = (
    "ratio: tokens a second over those of {over} of the same total rank in the same round, median and quartiles: more "
    "is better; A/A: {over}'s twin's seconds over its own, ? where it is more than 5 % off: inconclusive. {how}."
)
_LEAST_OF_BASE = 0.95


def run(settings: DecodeSettings, progress: Progress) -> Found:
    """Measure.

    Raises:
        UserError: settings that no answer is computed in, or a prompt that the model has no room for.
    """
    assert settings.model is not None
    if "amp" in settings.dtype:
        raise UserError("--dtype amp is how a training computes; with --model choose bf16 or fp32")
    rows: list[Row] = []
    checks: list[Check] = []
    for dtype in settings.dtype:
        torch.manual_seed(settings.seed)
        base = build_random_llava(settings.model, DTYPES[dtype], settings.device)
        cases = cases_of(replace(settings, dtype=(dtype,)))
        with _as_many_graphs_as_ways(settings):
            times, _ = time_cases(cases, lambda case, base=base: (_way(base, case, settings), None), settings, progress)
        rows += [_row(case, times, settings) for case in cases]
        checks += _checks(cases, times, settings)
    how = "a compiled step, a CUDA graph" if _compiles(settings) else "not compiled"
    return Found(
        title=f"decoding, LLaVA {settings.model}, {settings.tokens} sequence(s), {settings.answer} tokens after "
        f"{settings.prompt}",
        rows=rows,
        columns=COLUMNS,
        checks=checks,
        notes=(NOTE.format(over=settings.over, how=how),),
    )


def _compiles(settings: DecodeSettings) -> bool:
    return torch.device(settings.device).type == "cuda"


def _as_many_graphs_as_ways(settings: DecodeSettings) -> AbstractContextManager[Any]:
    """All ways compile one and the same function, each for its model: more often than torch expects of a function."""
    if not _compiles(settings):
        return nullcontext()
    import torch._dynamo

    return torch._dynamo.config.patch(recompile_limit=64)  # pyright: ignore[reportAttributeAccessIssue]


def model_of(base: Any, case: Case, settings: DecodeSettings) -> nn.Module:
    """A case's model over the base's frozen weights, its adapters drawn; packed, if the case is, with a copy of some.

    Args:
        base: a LLaVA; it stays as it is.
        case: what is put on it.
        settings: of the run.
    """
    model = adapted(base, case.variant, case.shape(), wide=False).requires_grad_(False).eval()
    for number, target in enumerate(ffn_linears(base)):
        fill(model.get_submodule(target), settings.seed + number)
    if case.variant.endswith("-packed"):
        for layer in routed_layers(model):  # a pack moves the weights it is made of: they must not be the others'
            linear = base_linear(layer)
            linear.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        prepare(model)
    return model


def _way(base: Any, case: Case, settings: DecodeSettings) -> Way:
    """Answer the prompts once; the compiled step is compiled at the first call, which does not count."""
    model: Any = model_of(base, case, settings)
    config = base.config.get_text_config()
    if settings.prompt + settings.answer > config.max_position_embeddings:
        raise UserError(
            f"--prompt {settings.prompt} and --answer {settings.answer}: the model has "
            f"{config.max_position_embeddings} positions"
        )
    drawn = torch.Generator().manual_seed(settings.seed)
    words = (3, config.vocab_size - 1)  # no control tokens, no picture's
    ids = torch.randint(*words, (settings.tokens, settings.prompt), generator=drawn).to(settings.device)
    with torch.inference_mode():
        read = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    rows = list(range(settings.tokens))
    prompts = State(rows, read.past_key_values, torch.ones_like(ids), read.logits[:, -1])
    steps = Steps(static_cache=True, compile=_compiles(settings))
    return partial(_answer, FixedSteps(model, steps, config.max_position_embeddings, fill=0), prompts, settings.answer)


@torch.inference_mode()
def _answer(fixed: FixedSteps, prompts: State, count: int) -> torch.Tensor:
    """So many tokens after the prompts; returns the logits ``[B, V]`` after the last of them."""
    state = fixed.start(prompts, count)
    for _ in range(count):
        fixed.advance(state, state.logits.argmax(-1).tolist())
    return state.logits


def _row(case: Case, times: Times, settings: DecodeSettings) -> Row:
    over = case.of(settings.over)
    ratio, seconds = times.ratio(over, case), times.seconds(case)
    figures: dict[str, Any] = {"ratio": ratio.median, "q1": ratio.low, "q3": ratio.high}
    figures |= {"twin": times.twin(over).median, "inconclusive": not times.agrees(over)}
    figures["ms"] = float(f"{1000 * seconds / settings.answer:.4g}")
    figures["tokens_per_s"] = round(settings.tokens * settings.answer / seconds, 1)
    return Row(case.variant, case.k, case.r, case.dtype, figures)


def _checks(cases: Sequence[Case], times: Times, settings: DecodeSettings) -> list[Check]:
    """The limit that packed adapters keep on a GPU at 7B's shapes; elsewhere all else weighs too much."""
    found = []
    for case in cases:
        if case.variant != "teamlora-packed" or settings.model != "7b" or not times.has(base := case.of("base")):
            continue
        ratio, agrees = times.ratio(base, case), times.agrees(case.of(settings.over))
        what = f"{case.dtype}, k = {case.k}: teamlora-packed's tokens/s over the base's >= {_LEAST_OF_BASE}"
        holds = ratio.median >= _LEAST_OF_BASE if agrees else None
        found.append(Check(what, ratio.median, _LEAST_OF_BASE, holds, ratio.low, ratio.high))
    return found
