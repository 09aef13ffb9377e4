"""Generation: batches, sharing, padding, streaming, sampling and limits, on the embedded base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import logging

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.data.collator import Collator
from llava_teamlora.data.images import prepare_image
from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Answer, Decoding, Generator, Query
from llava_teamlora.generation.loading import load_quietly
from llava_teamlora.generation.rows import shared_prefix
from llava_teamlora.generation.sampling import Forbidden, sample

GREEDY = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture(scope="module")
def generator(loaded: Loaded) -> Generator:
    return Generator(loaded)


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Five questions about a red picture, two about a wide green one, two without any: of unequal lengths."""
    red, green = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (80, 40), (0, 255, 0))
    talk = (Turn("human", "<image>\nwhat color is it?"), Turn("gpt", "red"), Turn("human", "is it a circle?"))
    return [
        Query.ask("what color is the shape?", red),
        Query.ask("is there a triangle?", red),
        Query.ask("is there not a circle in the image?", red),
        Query(talk, (red,)),
        Query.ask("is there?", red),
        Query.ask("what shape is this?", green),
        Query.ask("is this a blue shape?", green),
        Query.ask("what is the opposite of yes?"),
        Query.ask("say no"),
    ]


def reference(loaded: Loaded, query: Query, steps: int) -> list[int]:
    """Greedy tokens by whole forward passes over ids and pixels: no cache, no padding, no sharing."""
    ids = Generator(loaded).encode(query)
    vision = loaded.vision
    assert vision is not None
    pixels = [prepare_image(i, vision.image_processor, vision.aspect_ratio) for i in query.images]
    extra = {"pixel_values": torch.stack(pixels)} if pixels else {}
    found: list[int] = []
    with torch.inference_mode():
        while len(found) < steps:
            logits = loaded.model(input_ids=torch.tensor([ids + found]), **extra).logits[0, -1]
            found.append(int(logits.argmax()))
            if found[-1] == loaded.tokenizer.eos_token_id:
                break
    return found


def test_greedy_equals_whole_forward_passes(loaded: Loaded, generator: Generator, queries: list[Query]) -> None:
    end = loaded.tokenizer.eos_token_id
    for query, answer in zip(queries, generator.generate(queries, GREEDY), strict=True):
        expected = [token for token in reference(loaded, query, 6) if token != end]
        assert list(answer.token_ids) == expected


def test_batch_equals_single(generator: Generator, queries: list[Query]) -> None:
    single = [generator.generate([query], GREEDY)[0] for query in queries]
    assert generator.generate(queries, GREEDY) == single
    assert generator.generate(queries[::-1], GREEDY) == single[::-1]
    assert generator.generate(queries[4:], GREEDY) == single[4:]  # only the system prompt is shared
    assert generator.generate([], GREEDY) == []


@pytest.mark.parametrize(
    ("rows", "leaders", "inside"),
    [
        (slice(0, 5), 1, True),  # of one picture: the picture too
        (slice(2, 8), 1, False),  # of several pictures and of none: the system prompt
        (slice(7, 9), 1, False),
    ],
)
def test_shared_prefix_gives_the_logits_of_unshared_rows(
    generator: Generator, queries: list[Query], rows: slice, leaders: int, inside: bool
) -> None:
    same = queries[rows]
    prompts = [generator.encode(query) for query in same]
    assert generator.vision is not None
    image = generator.vision.image_token_id
    shared, led, _ = shared_prefix(same, prompts, image)
    assert shared > 10 and len(led) == leaders and (image in prompts[0][:shared]) is inside
    with torch.inference_mode():
        together = generator._prefill(same, prompts).logits
        apart = [generator._prefill([query], [prompt]).logits for query, prompt in zip(same, prompts, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=2e-5)


def test_little_in_common_is_not_shared() -> None:
    red, green = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))
    of_two = [Query.ask("a", red), Query.ask("b", red), Query.ask("c", green), Query.ask("d", green)]
    assert shared_prefix(of_two, [[1, 7, 7, 7, 2, n] for n in (3, 4, 3, 4)], 7) == (5, [0, 2], [0, 0, 1, 1])
    assert shared_prefix(of_two, [[1, 7, 7, 7, n, 2, 2] for n in (3, 4, 3, 4)], 7) == (4, [0, 2], [0, 0, 1, 1])
    # Of different pictures only what stands before them: 1 of 4 ids thrice is 3 of 16, less than a quarter.
    different = [Query.ask("a", Image.new("RGB", (8, 8))) for _ in range(4)]
    assert shared_prefix(different, [[1, 7, 7, 3]] * 4, 7) == (0, [], [])
    assert shared_prefix(different, [[1, 1, 1, 7, 3]] * 4, 7) == (2, [0], [0, 0, 0, 0])
    assert shared_prefix(different[:1], [[1, 1, 1, 7, 3]], 7) == (0, [], [])


def test_each_picture_goes_through_the_tower_once(generator: Generator, queries: list[Query]) -> None:
    seen: list[int] = []
    tower = generator.base.model.vision_tower
    with hook(tower.embeddings, lambda pixels: seen.append(len(pixels))):
        generator.generate(queries, GREEDY)
    assert seen == [2]


@contextmanager
def hook(module: torch.nn.Module, see: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: see(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def test_end_token_stops_a_row_and_not_the_others(
    generator: Generator, queries: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = generator.generate(queries, GREEDY)
    end = free[0].token_ids[0]
    monkeypatch.setattr(generator, "end", frozenset({end}))
    for before, after in zip(free, generator.generate(queries, GREEDY), strict=True):
        ids = before.token_ids
        if end in ids:
            assert after.token_ids == ids[: ids.index(end)] and after.finish == "stop"
        elif before.finish == "length":
            assert after == before
    assert generator.generate(queries[:1], GREEDY) == [Answer("", (), "stop")]


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(6, temperature=1.5, seed=3), Decoding(6, num_beams=2)])
def test_streamed_pieces_join_to_the_answer(generator: Generator, queries: list[Query], decoding: Decoding) -> None:
    for query in queries:
        assert "".join(generator.stream(query, decoding)) == generator.generate([query], decoding)[0].text


def scripted(monkeypatch: pytest.MonkeyPatch, tokens: list[int]) -> None:
    """Let every row say these tokens, whatever the model thinks."""

    left: list[int] = []

    def begin(*_: object) -> None:
        left[:] = tokens

    def script(logits: torch.Tensor, *_: object) -> list[int]:
        return [left.pop(0)] * len(logits)

    monkeypatch.setattr("llava_teamlora.generation.answering.source", begin)
    monkeypatch.setattr("llava_teamlora.generation.answering.choose", script)


def test_a_stop_text_ends_an_answer(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """v0 has no token for the end: its answers end where the next turn's mark begins, token by token."""
    generator = Generator(replace(loaded, template=get_template("v0")))
    tokens = loaded.tokenizer("it is # red\n### Human: and", add_special_tokens=False).input_ids
    scripted(monkeypatch, tokens)
    answer = generator.generate([Query.ask("what?")], Decoding(max_new_tokens=len(tokens)))[0]
    assert (answer.text, answer.finish) == ("it is # red", "stop")
    assert len(answer.token_ids) < len(tokens) and "Human" not in loaded.tokenizer.decode(list(answer.token_ids))
    pieces = list(generator.stream(Query.ask("what?"), Decoding(max_new_tokens=len(tokens))))
    assert "".join(pieces) == "it is # red" and len(pieces) > 1
    cut = generator.generate([Query.ask("what?")], Decoding(max_new_tokens=3))[0]
    assert cut.finish == "length"
    with pytest.raises(UserError, match=r"--num_beams 2 .* --version v0 ends them in the text '###'"):
        generator.generate([Query.ask("what?")], Decoding(num_beams=2))


def test_a_templates_end_token_ends_an_answer(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where neither tokenizer nor generation settings name it, as with MPT's <|im_end|>."""
    (other,) = loaded.tokenizer("\n", add_special_tokens=False).input_ids[-1:]
    monkeypatch.setattr("llava_teamlora.generation.generator.end_token_id", lambda *_: other)
    generator = Generator(loaded)
    words = loaded.tokenizer("red", add_special_tokens=False).input_ids
    scripted(monkeypatch, [*words, other, *words])
    answer = generator.generate([Query.ask("what?")], Decoding(max_new_tokens=8))[0]
    assert (answer.text, answer.finish) == ("red", "stop")


def test_an_end_that_is_a_word_is_not_streamed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    red, end = loaded.tokenizer("red triangle", add_special_tokens=False).input_ids
    monkeypatch.setattr("llava_teamlora.generation.generator.end_token_id", lambda *_: end)
    generator = Generator(loaded)
    scripted(monkeypatch, [red, end])
    assert "".join(generator.stream(Query.ask("what?"), GREEDY)) == "red"


def test_a_stream_can_be_stopped(generator: Generator, queries: list[Query], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "end", frozenset())
    with hook(generator.base.lm_head, lambda hidden: steps.append(1)):
        steps: list[int] = []
        pieces = generator.stream(queries[0], Decoding(max_new_tokens=300, temperature=3.0))
        next(pieces)
        assert not torch.is_inference_mode_enabled()  # not left on between the pieces
        pieces.close()  # type: ignore[attr-defined]
        assert len(steps) < 300


def test_errors_surface_from_a_stream(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(generator, "_advance", fail)
    monkeypatch.setattr(generator, "end", frozenset())
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(generator.stream(Query.ask("hello"), Decoding(50, temperature=5.0)))


def test_sampling_depends_on_seed_and_prompt_but_not_on_the_batch(generator: Generator, queries: list[Query]) -> None:
    hot = Decoding(max_new_tokens=6, temperature=2.0, top_p=0.95, seed=1)
    together = generator.generate(queries, hot)
    assert together == generator.generate(queries, hot)
    assert together == [generator.generate([query], hot)[0] for query in queries]
    assert together != generator.generate(queries, replace(hot, seed=2))


def test_top_p_near_zero_is_greedy(generator: Generator, queries: list[Query]) -> None:
    narrow = Decoding(max_new_tokens=6, temperature=1.0, top_p=1e-6)
    assert generator.generate(queries, narrow) == generator.generate(queries, GREEDY)


@pytest.mark.parametrize("temperature", [1e-7, 1e-40, 1e-300])
def test_a_temperature_near_zero_is_greedy(generator: Generator, queries: list[Query], temperature: float) -> None:
    cold = Decoding(max_new_tokens=6, temperature=temperature)
    assert generator.generate(queries, cold) == generator.generate(queries, replace(cold, temperature=0.0))


def test_sample_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.15, 0.25])
    n = 4000
    draws = (torch.arange(n) + 0.5) / n
    logits = probabilities.log().expand(n, -1)
    counts = sample(logits, draws, 1.0, 1.0).bincount(minlength=4) / n
    torch.testing.assert_close(counts, probabilities, atol=1e-3, rtol=0)
    nucleus = sample(logits, draws, 1.0, 0.7).bincount(minlength=4) / n
    torch.testing.assert_close(nucleus, torch.tensor([0, 2 / 3, 0, 1 / 3]), atol=1e-3, rtol=0)


def test_beams_of_a_batch_equal_single_ones(generator: Generator, queries: list[Query]) -> None:
    beams = Decoding(max_new_tokens=4, num_beams=3)
    some = queries[2:7]
    assert generator.generate(some, beams) == [generator.generate([query], beams)[0] for query in some]


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(6, temperature=9.0, seed=3), Decoding(6, num_beams=3)])
def test_padding_of_the_vocabulary_and_pictures_are_never_said(
    tiny: str, queries: list[Query], decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load_model(tiny, device="cpu")
    known = len(own.tokenizer)
    own.model.resize_token_embeddings(known + 40)
    forbidden = [own.model.config.image_token_id, *range(known, known + 40)]

    def prefer(module: torch.nn.Module, args: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(forbidden), 50.0)

    handle = own.model.lm_head.register_forward_hook(prefer)
    generator = Generator(own)
    monkeypatch.setattr(generator, "end", frozenset({known}))  # one that is never said
    for answer in generator.generate(queries, decoding):
        assert len(answer.token_ids) == 6 and not set(answer.token_ids) & set(forbidden)
    handle.remove()
    if decoding.temperature == 0:  # what may be said is chosen as ever
        assert list(generator.generate(queries[:1], GREEDY)[0].token_ids[:1]) == reference(own, queries[0], 1)


def test_a_vocabulary_with_holes_keeps_its_highest_token() -> None:
    class Holes:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 4}

    logits = Forbidden(Holes(), 2)(None, torch.zeros(2, 7))
    expected = torch.tensor([[0.0, 0.0, -torch.inf, 0.0, 0.0, -torch.inf, -torch.inf]])
    assert torch.equal(logits, expected.expand(2, -1))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_prompt_tuned_model_answers_as_peft_does(tiny: str, queries: list[Query]) -> None:
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    plain = load_model(tiny, device="cpu")
    model = get_peft_model(plain.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    tuned = Generator(replace(plain, model=model))
    some = [*queries[5:], queries[0]]
    prompts = [tuned.encode(query) for query in some]
    assert plain.vision is not None
    with torch.inference_mode():
        ours = tuned._prefill(some, prompts).logits
        for row, (query, prompt) in enumerate(zip(some, prompts, strict=True)):
            batch = Collator(0)([{"input_ids": torch.tensor(prompt[3:]), "labels": torch.tensor(prompt[3:])}])
            batch.pop("labels")
            pixels = [prepare_image(i, plain.vision.image_processor, "pad") for i in query.images]
            theirs = model(**batch, **({"pixel_values": torch.stack(pixels)} if pixels else {})).logits[0, -1]
            torch.testing.assert_close(ours[row], theirs, rtol=0, atol=2e-5)


def test_a_prompt_too_long_is_refused(generator: Generator) -> None:
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens, .* positions$"):
        generator.generate([Query.ask("red " * 5000)], GREEDY)


def test_the_last_position_ends_an_answer(
    generator: Generator, queries: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "end", frozenset())
    monkeypatch.setattr(generator, "positions", max(len(generator.encode(query)) for query in queries) + 2)
    answers = generator.generate(queries, Decoding(max_new_tokens=20))
    lengths = [len(generator.encode(query)) + len(a.token_ids) for query, a in zip(queries, answers, strict=True)]
    assert max(lengths) == generator.positions and {a.finish for a in answers} == {"length"}


def test_misuse_is_refused(loaded: Loaded, generator: Generator) -> None:
    with pytest.raises(UserError, match="the text holds <image>, which marks a picture's place"):
        Query.ask("what is <image>?")
    blind = Generator(replace(loaded, vision=None))
    with pytest.raises(UserError, match="text-only model"):
        blind.encode(Query.ask("what?", Image.new("RGB", (8, 8))))
    with pytest.raises(ValueError, match="ends in a human turn"):
        Query((Turn("gpt", "red"),))
    with pytest.raises(UserError, match=r"the questions hold 1 x <image> for 0 picture\(s\)"):
        Query((Turn("human", "<image>\nwhat?"),))
    with pytest.raises(UserError, match="<image> stands in an answer"):
        Query((Turn("human", "q"), Turn("gpt", "<image>"), Turn("human", "q")))
    with pytest.raises(UserError, match="<image> stands in the system prompt"):
        Query((Turn("human", "q"),), system="see <image>")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens 0 must be at least 1"),
        ({"temperature": -1.0}, "--temperature -1.0 must be 0"),
        ({"temperature": float("nan")}, "--temperature nan must be"),
        ({"top_p": 0.0}, "--top_p 0.0 must be above 0"),
        ({"num_beams": 0}, "--num_beams 0 must be at least 1"),
        ({"num_beams": 2, "temperature": 1.0}, "beams do not sample"),
    ],
)
def test_decoding_is_checked(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoding(**bad)


@pytest.mark.parametrize("shown", [True, False])
def test_loading_quietly_shows_no_bar_and_leaves_the_setting(
    shown: bool, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    was = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        load_quietly(tiny, device="cpu")
        with pytest.raises(UserError):
            load_quietly("nowhere")
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if was else logging.disable_progress_bar)()
    assert "Loading weights" not in capsys.readouterr().err
