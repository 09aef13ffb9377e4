"""Rows that come and go: each is answered as if it were alone, on the embedded base with a random adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from peft import get_peft_model
from PIL import Image

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Answering, Ask, Decoding, Generator, Query, Steps, Token
from llava_teamlora.generation.routing import routed_text_layers
from llava_teamlora.tuners import TeamLoraConfig

TARGETS = r".*language_model.*\.(gate_proj|up_proj|down_proj)"


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    base = load_model(tiny, device="cpu")
    torch.manual_seed(0)
    config = TeamLoraConfig(r=2, num_experts=3, init_weights=False, target_modules=TARGETS)
    return replace(base, model=get_peft_model(base.model, config).eval())


@pytest.fixture
def generator(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Generator]:
    generator = Generator(loaded)
    generator.end = frozenset()  # answers of any length
    yield generator
    assert all(not layer.routing_sinks for _, layer in routed_text_layers(generator.base))


def asks() -> list[Ask]:
    """Long and short, with a picture and without, greedy and drawn."""
    red, green = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (80, 40), (0, 255, 0))
    drawn = Decoding(max_new_tokens=9, temperature=1.3, top_p=0.9, seed=5)
    return [
        Ask(Query.ask("what color is the shape?", red), Decoding(max_new_tokens=7)),
        Ask(Query.ask("say no"), Decoding(max_new_tokens=12)),
        Ask(Query.ask("is there not a circle in the image? is it a red one?", green), drawn),
        Ask(Query.ask("what shape is this?", red), replace(drawn, temperature=0.4, top_p=1.0)),
        Ask(Query.ask("what is the opposite of yes?"), Decoding(max_new_tokens=3)),
        Ask(Query.ask("what color is the shape?", green), Decoding(max_new_tokens=1)),
    ]


def alone(generator: Generator, ask: Ask) -> list[int]:
    return list(generator.generate([ask.query], ask.decoding)[0].token_ids)


def answered(answering: Answering, joining: list[tuple[int, Ask]]) -> dict[int, list[Token]]:
    """All tokens of all rows; each ask joins before the step of its number."""
    said: dict[int, list[Token]] = {}
    step = 0
    while answering or joining:
        now = [ask for at, ask in joining if at <= step]
        joining = [(at, ask) for at, ask in joining if at > step]
        said |= {number: [] for number in answering.add(now)}
        for token in answering.step():
            said[token.row].append(token)
        step += 1
    return said


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_join_at_any_time_answer_as_alone(generator: Generator, seed: int) -> None:
    wanted = asks()
    alone_ids = [alone(generator, ask) for ask in wanted]
    times = sorted(Random(seed).randrange(9) for _ in wanted)
    order = Random(seed).sample(range(len(wanted)), len(wanted))
    said = answered(Answering(generator), [(at, wanted[which]) for at, which in zip(times, order, strict=True)])
    assert [[token.id for token in said[number]] for number in range(len(wanted))] == [alone_ids[w] for w in order]
    assert all(tokens[-1].end == "length" for tokens in said.values())
    assert not any(token.end for tokens in said.values() for token in tokens[:-1])


def test_a_dropped_row_leaves_the_others_as_they_are(generator: Generator) -> None:
    wanted = asks()
    answering = Answering(generator)
    numbers = answering.add(wanted)
    said: dict[int, list[int]] = {number: [] for number in numbers}
    for step in range(12):
        for token in answering.step():
            said[token.row].append(token.id)
        if step == 2:
            answering.drop(numbers[0])
            answering.drop(numbers[4])  # ended already
    assert not answering and len(said[numbers[0]]) == 3
    for number, ask in zip(numbers[1:], wanted[1:], strict=True):
        assert said[number] == alone(generator, ask)


def test_padding_that_no_row_needs_any_more_is_let_go(generator: Generator) -> None:
    long, short = asks()[2], asks()[1]
    answering = Answering(generator)
    (first, second) = answering.add([replace(long, decoding=Decoding(2)), short])
    answering.step(), answering.step()
    answering.add([replace(short, decoding=Decoding(3))])
    assert answering._state is not None
    assert answering._state.mask.shape[1] == len(generator.encode(short.query)) + 2  # type: ignore[union-attr]
    assert first != second


def test_likelihoods_are_the_models_own(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "forbid", lambda _, logits: logits)
    ask = replace(asks()[3], alternatives=3)
    answering = Answering(generator)
    answering.add([asks()[0], ask])
    total, ids = 0.0, []
    while answering:
        for token in answering.step():
            assert (token.likelihood is not None) == (token.row == 1)
            if token.likelihood is not None:
                assert len(token.likelihood.alternatives) == 3
                values = [value for _, value in token.likelihood.alternatives]
                assert values == sorted(values, reverse=True) and token.likelihood.log_probability <= values[0]
                total += token.likelihood.log_probability
                ids.append(token.id)
    state = generator._prefill([ask.query], [generator.encode(ask.query)])
    (found,) = generator._continued(state, [(0, ids)])
    assert total == pytest.approx(found.total, abs=1e-3)


def test_participation_is_that_of_a_whole_pass(generator: Generator) -> None:
    """In the pass that chose the token, at the position before it: beside rows that nobody watches, too."""
    from llava_teamlora.generation.routing import Routing

    ask = replace(asks()[0], watch=True)
    said = answered(Answering(generator), [(0, asks()[2]), (1, ask), (3, asks()[1])])
    assert all(token.participation is None for token in (*said[0], *said[2]))
    watched = said[1]
    whole = generator.encode(ask.query)
    layers = len(routed_text_layers(generator.base))
    for at, token in enumerate(watched):
        prompt = [*whole, *(other.id for other in watched[:at])]
        with Routing(generator) as routing, torch.inference_mode():
            embeds, mask = generator._embed([ask.query], [prompt])
            generator._forward(embeds, mask)
        expected = routing.newest()
        assert expected is not None and token.participation is not None
        assert token.participation.shape == (layers, 3)
        torch.testing.assert_close(token.participation, expected[0], atol=1e-5, rtol=1e-4)


def test_participation_in_a_cache_of_fixed_size_is_each_rows_own(loaded: Loaded) -> None:
    """Rows that are done stay in its passes; what is told must not be theirs."""
    some = [replace(ask, watch=True) for ask in (asks()[4], asks()[0], asks()[1])]  # the first one ends first
    told = []
    for steps in (None, Steps(static_cache=True)):
        generator = Generator(loaded, steps)
        generator.end = frozenset()
        told.append(answered(Answering(generator), [(0, ask) for ask in some]))
    for growing, fixed in zip(told[0].values(), told[1].values(), strict=True):
        for one, other in zip(growing, fixed, strict=True):
            assert one.id == other.id and one.participation is not None and other.participation is not None
            torch.testing.assert_close(one.participation, other.participation, atol=1e-4, rtol=1e-3)


def test_a_base_has_no_participation(tiny: str) -> None:
    (said,) = answered(
        Answering(Generator(load_model(tiny, device="cpu"))), [(0, Ask(Query.ask("no"), watch=True))]
    ).values()
    assert all(token.participation is None for token in said)


def test_stop_texts_end_a_row_of_their_own(generator: Generator) -> None:
    ask = asks()[1]
    text = generator.generate([ask.query], ask.decoding)[0].text
    word = text.split()[1]
    said = answered(Answering(generator), [(0, replace(ask, stops=(word,))), (0, ask)])
    assert said[0][-1].end == "stop" and len(said[0]) < len(said[1])


def test_a_prompt_that_cannot_be_answered_adds_nothing(generator: Generator) -> None:
    answering = Answering(generator)
    (number,) = answering.add([asks()[1]])
    answering.step()
    with pytest.raises(UserError, match="tokens, pictures included"):
        answering.add([asks()[0], Ask(Query.ask("no " * generator.positions))])
    said = [token for _ in range(11) for token in answering.step()]
    assert len(answering) == 0 and {token.row for token in said} == {number}
    first = alone(generator, asks()[1])
    assert [token.id for token in said] == first[1:]


def test_a_cache_of_fixed_size_is_for_rows_that_begin_together(loaded: Loaded) -> None:
    answering = Answering(Generator(loaded, Steps(static_cache=True)))
    assert answering.joinable
    answering.add([Ask(Query.ask("say no"), Decoding(8))])
    with pytest.raises(RuntimeError, match="wait until they are done"):
        answering.add([Ask(Query.ask("say yes"))])
