"""Steps in a cache of fixed size, compiled or not, and packed adapters: the answers are the growing cache's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image

from llava_teamlora import TeamLoraConfig
from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query, Steps
from llava_teamlora.tuners.routed.inference import is_prepared

GREEDY = Decoding(max_new_tokens=6)
STATIC, COMPILED = Steps(static_cache=True), Steps(compile=True, backend="eager")


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Of unequal lengths and answers of unequal lengths, with pictures and without."""
    red, green = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (80, 40), (0, 255, 0))
    return [
        Query.ask("what color is the shape?", red),
        Query.ask("is there not a circle in the image?", red),
        Query.ask("what shape is this?", green),
        Query.ask("what is the opposite of yes?"),
        Query.ask("say no"),
    ]


def endless(generator: Generator) -> Generator:
    """One whose answers end by their length alone."""
    generator.end = frozenset()
    return generator


@pytest.mark.parametrize("steps", [STATIC, COMPILED], ids=["static", "compiled"])
def test_answers_are_those_of_the_growing_cache(loaded: Loaded, queries: list[Query], steps: Steps) -> None:
    growing, fixed = Generator(loaded), Generator(loaded, steps)
    for some in (queries[:4], queries[3:0:-1]):
        assert fixed.generate(some, GREEDY) == growing.generate(some, GREEDY)
    assert list(fixed.stream(queries[0], GREEDY)) == list(growing.stream(queries[0], GREEDY))
    drawn = replace(GREEDY, temperature=1.5, seed=3)
    assert fixed.generate(queries[2:4], drawn) == growing.generate(queries[2:4], drawn)


def test_logits_are_those_of_the_growing_cache(loaded: Loaded, queries: list[Query]) -> None:
    """Rows end one after the other; the others' logits must not move."""
    growing, fixed = endless(Generator(loaded)), endless(Generator(loaded, STATIC))
    prompts = [growing.encode(query) for query in queries]
    assert fixed.fixed is not None
    with torch.inference_mode():
        state = growing._prefill(queries, prompts)
        other: Any = fixed.fixed.start(fixed._prefill(queries, prompts), 6)
        for alive in ([0, 1, 2, 3, 4], [0, 2, 3, 4], [1, 2], [1]):
            state.keep(alive)
            other.keep(alive)
            tokens = state.logits.argmax(-1).tolist()
            growing._advance(state, tokens)
            fixed._advance(other, tokens)
            torch.testing.assert_close(other.logits, state.logits, rtol=0, atol=2e-5)
            assert other.rows == state.rows


def test_a_cache_is_used_again_and_holds_nothing_of_before(loaded: Loaded, queries: list[Query]) -> None:
    fixed = Generator(loaded, STATIC)
    assert fixed.fixed is not None
    first = fixed.generate(queries[:4], GREEDY)
    held = fixed.fixed.held
    assert held[0] is not None and held[1] == 4
    assert fixed.generate(queries[3::-1], GREEDY) == first[::-1]
    assert fixed.generate(queries[1:3], GREEDY) == first[1:3]
    assert fixed.fixed.held is held
    fixed.generate(queries, GREEDY)
    assert fixed.fixed.held[1:] == (8, held[2])


def test_two_answers_at_once_in_one_cache_are_refused(loaded: Loaded, queries: list[Query]) -> None:
    generator = Generator(loaded, STATIC)
    assert generator.fixed is not None
    prompts = [generator.encode(query) for query in queries]
    with torch.inference_mode():
        one, _ = (generator.fixed.start(generator._prefill(queries, prompts), 6) for _ in range(2))
        with pytest.raises(RuntimeError, match="finish one before the next"):
            generator._advance(one, one.logits.argmax(-1).tolist())


def test_a_model_without_such_a_cache_is_refused(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(loaded.model), "_can_compile_fullgraph", False)
    with pytest.raises(UserError, match="--compile: a LlavaForConditionalGeneration has no cache of fixed size"):
        Generator(loaded, COMPILED)
    monkeypatch.setattr(type(loaded.model), "_can_compile_fullgraph", True)
    monkeypatch.setattr(loaded.model.config.text_config, "layer_types", ["sliding_attention"] * 2, raising=False)
    monkeypatch.setattr(loaded.model.config.text_config, "sliding_window", 8, raising=False)
    with pytest.raises(UserError, match="drop --static_cache"):
        Generator(loaded, STATIC)


def test_beams_have_a_growing_cache(loaded: Loaded, queries: list[Query]) -> None:
    with pytest.raises(UserError, match="drop --static_cache"):
        Generator(loaded, STATIC).generate(queries, replace(GREEDY, num_beams=2))


def with_adapter(loaded: Loaded) -> Loaded:
    """A random adapter, in float32 whatever the base's dtype, as peft makes it."""
    torch.manual_seed(0)
    targets = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
    config = TeamLoraConfig(r=2, num_experts=3, init_weights=False, target_modules=targets)
    return replace(loaded, model=get_peft_model(loaded.model, config).eval())


def test_a_generator_packs_adapters_and_answers_as_without(tiny: str, queries: list[Query]) -> None:
    adapted = with_adapter(load_model(tiny, device="cpu"))
    generator = endless(Generator(adapted))
    assert is_prepared(generator.base)
    packed = generator.generate(queries[:3], GREEDY)
    compiled = endless(Generator(adapted, COMPILED)).generate(queries[:3], GREEDY)
    adapted.model.restore_after_inference()
    assert packed == compiled == generator.generate(queries[:3], GREEDY)


def test_an_adapter_is_rounded_only_when_speed_is_asked_for(tiny: str) -> None:
    adapted = with_adapter(load_model(tiny, device="cpu", dtype="bfloat16"))
    assert not is_prepared(Generator(adapted).base)
    assert is_prepared(Generator(adapted, STATIC).base)
