"""The engine: everybody gets the answer they would get alone, whatever the others do."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from llava_teamlora.errors import UserError
from llava_teamlora.generation import Answer, Decoding, Generator, PromptTooLong, Query, Steps
from llava_teamlora.generation.reader import Reader
from llava_teamlora.serving import engine as engine_module
from llava_teamlora.serving.batch import Batch
from llava_teamlora.serving.engine import Engine, Limits, Load
from llava_teamlora.serving.family import Family, Member, load_family
from llava_teamlora.serving.tickets import (
    Busy,
    Cancelled,
    Closed,
    Done,
    Event,
    Failed,
    Piece,
    Request,
    Ticket,
    TimedOut,
    Waiting,
)
from llava_teamlora.tuners.routed import steer_experts
from llava_teamlora.tuners.routed.inference import is_prepared
from llava_teamlora.tuners.routed.layer import routed_layers

LONG = Decoding(max_new_tokens=24)
OFF = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def family(run_folders: dict[str, Path]) -> Family:
    """A TeamLoRA, a LoRA and their base."""
    return endless([str(folder) for folder in run_folders.values()])


def endless(paths: list[str]) -> Family:
    """A family whose answers go on to the end of their budget."""
    family = load_family(paths, device="cpu")
    for member in family.models.values():
        member.generator.end = frozenset()
    return family


@pytest.fixture
def text_only(tiny: str) -> Family:
    return load_family([str(Path(tiny).parent / "tiny_text")], device="cpu")


def alone(member: Member, request: Request) -> Answer:
    """What the request is answered when nobody else asks, without any engine."""
    if request.gains is not None:
        steer_experts(member.loaded.model, request.gains)
    try:
        return member.generator.generate([request.query], request.decoding)[0]
    finally:
        if request.gains is not None:
            steer_experts(member.loaded.model, None)


def requests(count: int) -> list[Request]:
    """Of all kinds: three models, two settings of the experts, several pictures or none, drawn and greedy."""
    random = Random(4)
    colors = [(255, 0, 0), (0, 255, 0), (30, 60, 200)]
    pictures = [Image.new("RGB", (40 + 30 * i, 90 - 20 * i), color) for i, color in enumerate(colors)]
    texts = ["what color is the shape?", "is there a triangle in the image?", "say no", "what is this? " * 6]
    made = []
    for number in range(count):
        model = ("teamlora", "tiny", "lora", "teamlora")[number % 4]
        shown = random.sample(pictures, random.choice([0, 1, 1, 2]))
        heat = random.choice([0.0, 0.7, 1.4])
        decoding = Decoding(random.randint(1, 14), heat, random.choice([0.8, 1.0]), seed=number)
        gains = (0.0, 2.0, 1.0, 0.5) if number % 8 == 3 else None
        made.append(Request(model, Query.ask(random.choice(texts), *shown), decoding, gains=gains))
    return made


class Pace:
    """Lets batches make a step only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._allowed, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.stepped: list[list[Ticket]] = []
        step = Batch.step

        def paced(batch: Batch) -> None:
            self._allowed.acquire()
            batch.drop_ended()  # what the engine has done before, for those who went while this waited
            self.stepped.append(batch.tickets)
            step(batch)
            self._done.release()

        monkeypatch.setattr(Batch, "step", paced)

    def go(self, steps: int) -> None:
        for _ in range(steps):
            self._allowed.release()
        for _ in range(steps):
            assert self._done.acquire(timeout=60)

    def freely(self) -> None:
        self._allowed.release(100_000)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.freely()  # before the engine is shut down, which waits for the step being made


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    return Pace(monkeypatch)


def ask(model: str = "tiny", text: str = "say no", decoding: Decoding = LONG, **more: Any) -> Request:
    return Request(model, Query.ask(text), decoding, **more)


def error_of(ticket: Ticket) -> Exception:
    *_, last = ticket.events()
    assert isinstance(last, Failed)
    return last.error


def test_sixteen_clients_at_once_are_answered_as_alone(family: Family) -> None:
    asked = requests(16)
    expected = [alone(family.models[request.model], request) for request in asked]
    assert len({answer.token_ids for answer in expected}) > 8
    told: dict[int, list[Event]] = {}

    def client(number: int, engine: Engine) -> None:
        random = Random(number)
        for turn in range(2):  # the second time among others than the first
            time.sleep(random.random() / 20)
            told[turn * 16 + number] = list(engine.submit(asked[number]).events())

    with Engine(family, Limits(max_batch=10)) as engine:
        threads = [threading.Thread(target=client, args=(number, engine)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.load == Load(0, 0)
    assert len(told) == 32
    for number, events in told.items():
        done, answer = events[-1], expected[number % 16]
        assert isinstance(done, Done) and done.answer == answer
        pieces = [event for event in events if isinstance(event, Piece)]
        assert "".join(piece.text for piece in pieces) == answer.text
        assert tuple(token.id for piece in pieces for token in piece.tokens) == answer.token_ids
        assert done.usage.completion_tokens == len(answer.token_ids)
        query = asked[number % 16].query
        assert done.usage.prompt_tokens == len(family.models[asked[number % 16].model].generator.encode(query))
    assert all(each.expert_gains is None for each in routed_layers(family.models["teamlora"].loaded.model))


def test_experts_are_seen_and_one_askers_gains_are_not_anothers(family: Family) -> None:
    picture = Image.new("RGB", (64, 64), (0, 255, 0))
    with Engine(family) as engine:
        many = [
            Request("teamlora", Query.ask("what?", picture), Decoding(9), watch=watch, gains=gains)
            for gains in (None, OFF, (1.0, 1.0, 1.0, 1.0))
            for watch in (True, False)
        ]
        many += [Request(model, Query.ask("what?", picture), Decoding(9), watch=True) for model in ("lora", "tiny")]
        tickets = engine.submit_all(many)
        tokens = [[t for e in ticket.events() if isinstance(e, Piece) for t in e.tokens] for ticket in tickets]
    plain, plain_unseen, off, off_unseen, ones, _, lora, base = tokens
    for seen, unseen in ((plain, plain_unseen), (off, off_unseen), (plain, ones)):
        assert [token.id for token in seen] == [token.id for token in unseen]
    assert [token.id for token in plain] != [token.id for token in off]
    layers = len(routed_layers(family.models["teamlora"].loaded.model))
    for some, total in ((plain, 1), (off, 0)):
        for token in some:
            assert token.participation is not None and token.participation.shape == (layers, 4)
            assert bool(token.participation.abs().sum() > 0) == bool(total)
    assert all(token.participation is None for token in (*plain_unseen, *off_unseen, *lora, *base))


def test_a_packed_adapter_and_its_base_answer_as_alone(run_folders: dict[str, Path]) -> None:
    family = endless([str(run_folders["teamlora"])])
    picture = Image.new("RGB", (64, 64), (0, 255, 0))
    kinds = [("teamlora", gains, watch) for gains in (None, OFF, (2.0, 0.5, 1.0, 0.0)) for watch in (False, True)]
    asked = [
        Request(model, Query.ask("what?", picture), Decoding(9), gains=gains, watch=watch)
        for model, gains, watch in (*kinds, ("tiny", None, False))
    ]
    with Engine(family) as engine:
        tickets = engine.submit_all(asked)
        answers = [ticket.result() for ticket in tickets]
    assert is_prepared(family.models["teamlora"].loaded.model)
    assert answers == [alone(family.models[request.model], request) for request in asked]
    assert answers[2] == answers[-1]  # no expert at all is the base
    assert len({answer.token_ids for answer in answers}) == 3


def test_likelihoods_and_stops(family: Family) -> None:
    whole = alone(family.models["tiny"], ask())
    words = whole.text.split()
    assert len(words) > 3
    with Engine(family) as engine:
        events = list(engine.submit(ask(stops=(f" {words[2]}",), alternatives=3)).events())
    done = events[-1]
    assert isinstance(done, Done) and done.answer.finish == "stop"
    assert done.answer.text == whole.text[: whole.text.index(f" {words[2]}")].strip()
    pieces = [event for event in events if isinstance(event, Piece)]
    assert "".join(piece.text for piece in pieces) == done.answer.text
    for token in (token for piece in pieces for token in piece.tokens):
        assert token.likelihood is not None and len(token.likelihood.alternatives) == 3
        assert token.likelihood.alternatives[0] == (token.id, token.likelihood.log_probability)
        assert token.text.strip() in whole.text


def test_who_is_stopped_leaves_before_the_next_step_and_the_others_go_on(family: Family, pace: Pace) -> None:
    stays, goes = ask(), ask(text="what is the opposite of yes?")
    with Engine(family) as engine, pace:
        staying, going = engine.submit_all([stays, goes])
        pace.go(3)
        going.cancel()
        going.cancel()
        assert isinstance(error_of(going), Cancelled) and going.ended
        pace.go(2)
        pace.freely()
        assert staying.result() == alone(family.models["tiny"], stays)
    assert [going in tickets for tickets in pace.stepped[:5]] == [True, True, True, False, False]
    assert len(pace.stepped) == LONG.max_new_tokens
    pieces = [event for event in going.events() if isinstance(event, Piece)]
    assert pieces == []  # told before, and nothing came after the last event
    with pytest.raises(Cancelled):
        going.result()


def test_the_line_its_places_and_its_end(family: Family, pace: Pace) -> None:
    with Engine(family, Limits(max_batch=1, max_waiting=2)) as engine, pace:
        first = engine.submit(ask())
        pace.go(1)
        second, third = engine.submit(ask()), engine.submit(ask(text="say yes"))
        assert (first.position, second.position, third.position) == (0, 1, 2)
        assert engine.load == Load(running=1, waiting=2)
        with pytest.raises(Busy, match="3 requests .* try again later"):
            engine.submit(ask())
        second.cancel()
        assert third.position == 1 and engine.load.waiting == 1
        with pytest.raises(Busy):
            engine.submit_all([ask(), ask()])  # all or none of them
        assert engine.load.waiting == 1
        pace.freely()
        events = list(third.events())
        assert first.result() and third.result().text == alone(family.models["tiny"], ask(text="say yes")).text
    places = [event.position for event in events if isinstance(event, Waiting)]
    assert places == [2, 1, 0]


def test_deadlines_of_those_who_run_and_those_who_wait(
    family: Family, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with Engine(family, Limits(max_batch=2, timeout_s=60)) as engine, pace:
        patient, hasty = engine.submit_all([ask(timeout_s=1000), ask(text="say yes", timeout_s=5)])
        waiting = engine.submit(ask(timeout_s=4))
        pace.go(2)
        clock.now = 106.0
        pace.go(2)
        assert isinstance(error_of(hasty), TimedOut) and isinstance(error_of(waiting), TimedOut)
        assert not patient.ended
        clock.now = 161.0  # the engine's own, which nobody's wish exceeds
        pace.go(1)
        assert isinstance(error_of(patient), TimedOut)
    assert waiting not in [ticket for tickets in pace.stepped for ticket in tickets]


def test_a_step_that_fails_fails_its_batch_alone(family: Family, pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(family) as engine, pace:
        bad, also_bad, good = engine.submit_all([ask("lora"), ask("lora", "say yes"), ask("tiny")])
        pace.go(4)
        with monkeypatch.context() as broken:

            def fail(self: Reader, *_: object) -> None:
                raise torch.OutOfMemoryError("out of memory, 3 GiB wanted")

            broken.setattr(family.models["lora"].generator, "_advance", fail)
            pace._allowed.release(2)
            for ticket in (bad, also_bad):
                assert "3 GiB wanted" in str(error_of(ticket))
        pace.freely()
        assert good.result() == alone(family.models["tiny"], ask("tiny"))
        assert engine.submit(ask("lora")).result() == alone(family.models["lora"], ask("lora"))
        assert engine.accepting


def test_a_prompt_that_fails_fails_alone(family: Family, pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = family.models["tiny"].generator
    prefill = generator._prefill

    def picky(queries: list[Query], prompts: list[list[int]]) -> Any:
        if any("poison" in query.turns[-1].text for query in queries):
            raise RuntimeError("cannot read this")
        return prefill(queries, prompts)

    monkeypatch.setattr(generator, "_prefill", picky)
    with Engine(family) as engine, pace:
        before = engine.submit(ask(text="say yes"))
        pace.go(2)
        good, bad, fine = engine.submit_all([ask(), ask(text="poison"), ask(text="what?")])
        pace.go(1)
        assert str(error_of(bad)) == "cannot read this"
        pace.freely()
        for ticket in (before, good, fine):
            assert ticket.result() == alone(family.models["tiny"], ticket.request)


def test_those_whom_a_row_leaves_no_way_in_are_told_and_it_goes_on(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that takes in nobody later, and prompts that could not be read together."""
    read = Reader._prefill

    def one_at_a_time(self: Reader, queries: Any, prompts: Any) -> Any:
        if len(queries) > 1:
            raise RuntimeError("out of memory")
        return read(self, queries, prompts)

    member = family.models["tiny"]
    fixed = Member("tiny", member.loaded, Generator(member.loaded, Steps(static_cache=True)), "base")
    monkeypatch.setattr(Reader, "_prefill", one_at_a_time)
    with Engine(Family({"tiny": fixed})) as engine:
        first, second = engine.submit_all([ask(), ask(text="say yes")])
        assert isinstance(error_of(second), Busy)
        assert first.result() == fixed.generator.generate([first.request.query], LONG)[0]


def test_nothing_of_an_asker_is_kept(family: Family) -> None:
    with Engine(family) as engine:
        ticket = engine.submit(Request("tiny", Query.ask("what?", Image.new("RGB", (8, 8))), LONG))
        ticket.result()
        gone = weakref.ref(ticket)
        del ticket
        for _ in range(1000):
            gc.collect()
            if gone() is None:
                break
            time.sleep(0.005)
        assert gone() is None


def test_a_defect_of_the_engine_itself_is_told_and_survived(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(family) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(engine, "_next_in_line", lambda: 1 / 0)
            assert isinstance(error_of(engine.submit(ask())), ZeroDivisionError)
        assert engine.submit(ask()).result() == alone(family.models["tiny"], ask())


def test_newcomers_need_not_wait_for_long_answers(family: Family, pace: Pace) -> None:
    long = [ask(decoding=Decoding(200)), ask("teamlora", decoding=Decoding(200))]
    short = [ask(model, decoding=Decoding(3)) for model in ("tiny", "teamlora", "lora")]
    with Engine(family) as engine, pace:
        busy = engine.submit_all(long)
        pace.go(10)
        tickets = engine.submit_all([*short, ask("teamlora", decoding=Decoding(3), gains=OFF)])
        pace.go(1 + 4 * 3)  # one that had begun, then three rounds of four batches
        assert all(ticket.ended for ticket in tickets) and not any(ticket.ended for ticket in busy)


def test_shutdown_at_once_and_after_all_answers(family: Family, pace: Pace) -> None:
    engine = Engine(family, Limits(max_batch=1))
    with pace:
        running, waiting = engine.submit_all([ask(), ask()])
        pace.go(1)
        end = threading.Thread(target=engine.shutdown)
        end.start()
        for ticket in (running, waiting):
            assert isinstance(error_of(ticket), Closed)
        with pytest.raises(Closed):
            engine.submit(ask())
        assert not engine.accepting
    end.join()
    assert engine.load == Load(0, 0)
    engine = Engine(family, Limits(max_batch=1))
    tickets = engine.submit_all([ask(), ask(text="say yes")])
    engine.shutdown(drain=True)
    assert [ticket.result() for ticket in tickets] == [alone(family.models["tiny"], each.request) for each in tickets]
    engine.shutdown()
    assert not engine.accepting and engine.load == Load(0, 0)


def test_draining_ends_in_its_time(family: Family, pace: Pace) -> None:
    engine = Engine(family)
    with pace:
        ticket = engine.submit(ask())
        pace.go(1)
        engine.shutdown(drain=True, timeout_s=0.01)
        assert isinstance(error_of(ticket), Closed)
    engine.shutdown()


def test_events_reach_a_loop_from_the_first_one_on(family: Family, pace: Pace) -> None:
    async def client(engine: Engine) -> list[Event]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event] = asyncio.Queue()
        ticket = engine.submit(ask())
        pace.go(2)  # these have come before anybody listens
        ticket.deliver_to(lambda event: loop.call_soon_threadsafe(queue.put_nowait, event))
        pace.freely()
        events: list[Event] = []
        while not (events and isinstance(events[-1], Done | Failed)):
            events.append(await queue.get())
        return events

    with Engine(family) as engine, pace:
        events = asyncio.run(client(engine))
    done = events[-1]
    assert isinstance(done, Done) and done.answer == alone(family.models["tiny"], ask())
    assert "".join(event.text for event in events if isinstance(event, Piece)) == done.answer.text
    assert events[0] == Waiting(0)


def test_a_reader_who_fails_is_let_go(family: Family, pace: Pace) -> None:
    def gone(event: Event) -> None:
        if isinstance(event, Piece):
            raise RuntimeError("Event loop is closed")

    with Engine(family) as engine, pace:
        staying, left = engine.submit_all([ask(), ask(text="say yes")])
        left.deliver_to(gone)
        pace.go(3)
        assert left.ended and not staying.ended
        pace.freely()
        assert staying.result() == alone(family.models["tiny"], ask())
    assert left not in pace.stepped[1]


def test_what_cannot_be_answered_is_refused_at_once(family: Family, text_only: Family) -> None:
    picture = Image.new("RGB", (8, 8))
    with Engine(family, Limits(max_prompt_tokens=80)) as engine:
        with pytest.raises(UserError, match=r"'teamlore': no such model; .*did you mean 'teamlora'\?"):
            engine.submit(ask("teamlore"))
        with pytest.raises(PromptTooLong, match="pictures included; at most 80 are taken") as caught:
            engine.submit(ask(text="no " * 100))
        assert caught.value.tokens > 80
        with pytest.raises(UserError, match="beams"):
            engine.submit(ask(decoding=Decoding(2, num_beams=2)))
        with pytest.raises(UserError, match="stop text is empty"):
            engine.submit(ask(stops=("\n", "")))
        with pytest.raises(UserError, match="-1 alternatives"):
            engine.submit(ask(alternatives=-1))
        with pytest.raises(UserError, match="time limit"):
            engine.submit(ask(timeout_s=0.0))
        with pytest.raises(UserError, match="lora: has no routed experts"):
            engine.submit(ask("lora", gains=OFF))
        with pytest.raises(UserError, match="has 4 experts, but 2 gains"):
            engine.submit(ask("teamlora", gains=(1.0, 0.0)))
        with pytest.raises(UserError, match="finite and 0 or above"):
            engine.submit(ask("teamlora", gains=(1.0, float("nan"), 0.0, 0.0)))
        with pytest.raises(UserError, match="81 answers are asked for at once; at most 80"):
            engine.submit_all([ask()] * 81)
        assert engine.load == Load(0, 0)
    with Engine(family) as engine, pytest.raises(PromptTooLong, match="positions"):
        engine.submit(ask(text="no " * 5000))
    with Engine(text_only) as engine:
        with pytest.raises(UserError, match="text-only model and takes no pictures"):
            engine.submit(Request("tiny_text", Query.ask("what?", picture)))
        assert engine.submit(Request("tiny_text", Query.ask("what?"), Decoding(3))).result().token_ids
    limits: dict[str, Any]
    for limits in ({"max_batch": 0}, {"max_waiting": -1}, {"max_prompt_tokens": 0}, {"timeout_s": 0.0}):
        with pytest.raises(UserError, match=f"--{next(iter(limits))}"):
            Limits(**limits)


def test_warming_up_answers_with_each_member(family: Family, text_only: Family) -> None:
    for some in (family, text_only):
        with Engine(some) as engine:
            engine.warm_up()
            assert engine.load == Load(0, 0)
