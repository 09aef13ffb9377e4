"""Measuring in turns, on made-up clocks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat

import pytest

from llava_teamlora.bench.measuring import Quartiles, Times, measure


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is of no matter here, and in a process full of other tests' things it takes long to collect."""
    monkeypatch.setattr("llava_teamlora.bench.measuring.gc.collect", lambda: 0)


class World:
    """Ways that take as long as they are told to; a clock that drifts."""

    def __init__(self, seconds: dict[str, Callable[[], float]], drift: float = 0.0) -> None:
        self.ran: list[str] = []
        self.mood = 1.0
        self._drift, self._now = drift, 0.0
        self.ways = {name: partial(self._run, name, own) for name, own in seconds.items()}

    def _run(self, name: str, seconds: Callable[[], float]) -> None:
        self.ran.append(name)
        self._now += seconds() * self.mood
        self.mood += self._drift

    def timer(self, way: Callable[[], object], times: int) -> float:
        start = self._now
        for _ in range(times):
            way()
        return self._now - start


def constant(value: float) -> Callable[[], float]:
    return lambda: value


def test_quartiles() -> None:
    assert Quartiles.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Quartiles(2.0, 3.0, 4.0)
    assert Quartiles.of([2.0]) == Quartiles(2.0, 2.0, 2.0)
    assert str(Quartiles.of([1.23456])) == "1.235 (1.235 to 1.235)"


def test_every_way_runs_once_a_round_in_an_order_drawn_anew() -> None:
    world = World({name: constant(1.0) for name in "abcd"})
    told: list[tuple[int, int]] = []
    measure(world.ways, {"a": "b"}, 6, seed=3, timer=world.timer, progress=lambda *how: told.append(how))
    warm, counted = world.ran[:8], world.ran[8:]
    assert Counter(warm) == dict.fromkeys("abcd", 2)
    rounds = ["".join(counted[start : start + 4]) for start in range(0, 24, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 2
    assert told[0] == (1, 24) and told[-1] == (24, 24) and [done for done, _ in told] == list(range(1, 25))
    again = World({name: constant(1.0) for name in "abcd"})
    measure(again.ways, {"a": "b"}, 6, seed=3, timer=again.timer)
    assert again.ran == world.ran, "the order is the seed's"


def test_ratios_do_not_see_a_machine_that_slows_down() -> None:
    world = World({"base": constant(1.0), "twin": constant(1.0), "slow": constant(1.5)}, drift=0.01)
    times = measure(world.ways, {"base": "twin"}, 31, timer=world.timer)
    assert times.rounds() == 31 and times.agrees("base")
    assert times.ratio("slow", "base").median == pytest.approx(1.5, abs=0.03)
    assert times.ratio("base", "slow").median == pytest.approx(1 / 1.5, abs=0.03)


def test_short_pieces_are_repeated_and_divided_again() -> None:
    world = World({"short": constant(0.001), "twin": constant(0.001), "long": constant(0.5)})
    times = measure(world.ways, {"short": "twin"}, 2, timer=world.timer)
    assert times.seconds("short") == pytest.approx(0.001)
    assert times.seconds("long") == pytest.approx(0.5)
    assert world.ran.count("short") == 2 + 2 * 20 and world.ran.count("long") == 2 + 2


@pytest.mark.parametrize(("first", "rounds", "agrees"), [(4, 10, True), (99, 10, False), (0, 5, True)])
def test_a_twin_that_is_off_doubles_the_rounds_once(first: int, rounds: int, agrees: bool) -> None:
    """The twin is slower in its first so many counted rounds."""
    slow = chain([1.0, 1.0], repeat(1.2, first), repeat(1.0))
    world = World({"base": constant(1.0), "twin": lambda: next(slow)})
    times = measure(world.ways, {"base": "twin"}, 5, timer=world.timer)
    assert (times.rounds(), times.agrees("base")) == (rounds, agrees)


def test_band_is_how_far_twins_differ() -> None:
    rng = random.Random(0)
    noise = [1 + rng.uniform(-0.04, 0.04) for _ in range(101)]
    times = Times({"base": [1.0] * 101, "twin": noise}, {"base": "twin"})
    twin = times.twin("base")
    assert times.agrees("base")
    assert times.band("base") == pytest.approx(max(1 - twin.low, twin.high - 1))
    assert 0.01 < times.band("base") < 0.03
