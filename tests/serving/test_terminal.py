"""The terminal chat: commands, pictures, mistakes, interruptions and piped lines."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.data.images import load_image
from llava_teamlora.data.records import Turn
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Ask, Decoding, Generator, Query, Token
from llava_teamlora.serving.talk import Talk
from llava_teamlora.serving.terminal import Terminal

SHORT = Decoding(max_new_tokens=5)


@pytest.fixture(scope="module")
def loaded(tiny: str) -> Loaded:
    return load_model(tiny, device="cpu")


@pytest.fixture
def talk(loaded: Loaded) -> Talk:
    return Talk({"tiny": Generator(loaded)}, SHORT)


@pytest.fixture(scope="module")
def family(run_folders: dict[str, Path]) -> dict[str, Generator]:
    """A TeamLoRA and its base."""
    from llava_teamlora.serving.family import load_family

    models = load_family([str(run_folders["teamlora"])], device="cpu").models
    return {name: member.generator for name, member in models.items()}


def run(talk: Talk, *lines: str) -> tuple[str, str]:
    """What a terminal shows for these lines: (answers, mistakes)."""
    waiting = iter(lines)

    def read() -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    out, err = io.StringIO(), io.StringIO()
    assert Terminal(talk, read, out, err).loop() == 0
    return out.getvalue(), err.getvalue()


def asked(talk: Talk) -> list[str]:
    return [exchange.question for exchange in talk.conversation.exchanges]


def answers(talk: Talk) -> list[str | None]:
    return [exchange.reply and exchange.reply.text for exchange in talk.conversation.exchanges]


def test_answers_are_those_of_generation(talk: Talk, pictures: Path) -> None:
    image = load_image(pictures / "red.png")
    first = Turn("human", "<image>\nwhat color is it?")
    answer = talk.generator.generate([Query((first,), (image,))], SHORT)[0]
    turns = (first, Turn("gpt", answer.text), Turn("human", "is it a circle?"))
    second = talk.generator.generate([Query(turns, (image,))], SHORT)[0]
    out, err = run(talk, f"/image {pictures / 'red.png'}", "what color is it?", "is it a circle?")
    assert out == f"{pictures / 'red.png'}: 64 x 64 px\n{answer.text}\n{second.text}\n" and err == ""
    assert asked(talk) == ["what color is it?", "is it a circle?"] and answers(talk) == [answer.text, second.text]
    reply = talk.conversation.exchanges[1].reply
    assert reply is not None and reply.ended == second.finish
    assert (reply.settings.model, reply.settings.template, reply.settings.decoding) == ("tiny", "v1", SHORT)


def test_a_picture_may_come_later_and_a_second_begins_anew(talk: Talk, pictures: Path) -> None:
    run(talk, "say yes", f"/image '{pictures / 'red.png'}'", "what color is it?")
    assert [len(exchange.pictures) for exchange in talk.conversation.exchanges] == [0, 1]
    out, _ = run(talk, f"/image {pictures / 'wide.png'}")
    assert "80 x 40 px; a new conversation begins with it" in out
    assert [picture.name for picture in talk.conversation.waiting] == ["wide.png"] and asked(talk) == []
    run(talk, "/clear")
    assert talk.conversation.waiting == ()


def test_several_pictures_before_one_question(talk: Talk, pictures: Path) -> None:
    (pictures / "my red.png").write_bytes((pictures / "red.png").read_bytes())
    names = [pictures / name for name in ("my red.png", "wide.png")]
    out, err = run(talk, f"/image '{names[0]}' {names[1]}", "/images", "are they alike?", "sure?", "/images")
    assert "picture 2 for the next question" in out and err == ""
    assert "my red.png: 64 x 64 px, for the next question\nwide.png: 80 x 40 px, for the next question\n" in out
    assert out.endswith("wide.png: 80 x 40 px, question 1\n")
    images = tuple(map(load_image, names))
    query = Query((Turn("human", "<image>\n<image>\nare they alike?"),), images)
    assert answers(talk)[0] == talk.generator.generate([query], SHORT)[0].text


def test_paths_are_a_shells_or_one_that_is_there(talk: Talk, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pictures))
    (pictures / "it's red.png").write_bytes((pictures / "red.png").read_bytes())
    run(talk, f"/image {pictures}/it's red.png", "/image ~/wide.png ~/tall.jpg", r"/image ~/it\'s\ red.png")
    assert [picture.name for picture in talk.conversation.waiting] == [
        "it's red.png",
        "wide.png",
        "tall.jpg",
        "it's red.png",
    ]
    _, err = run(talk, "/image 'a b", "/image ~/wide.png /nowhere.png")
    assert "No closing quotation" in err and "/nowhere.png: no such picture" in err
    assert len(talk.conversation.waiting) == 4  # of several, one of which cannot be read, none is taken


def test_many_names_are_not_one_that_is_too_long(talk: Talk, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    run(talk, "/image" + " red.png" * 40, "/edit\twhat?")
    assert len(talk.conversation.waiting) == 40
    out, err = run(talk, "/set\ttemperature 0.5")
    assert "temperature 0.5" in out and not err


def test_a_picture_whose_name_is_no_text(talk: Talk, pictures: Path) -> None:
    odd = pictures / "caf\udce9.png"
    try:
        odd.write_bytes((pictures / "red.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    talk.show(odd)
    assert talk.conversation.waiting[0].name == "caf?.png"


def test_a_typed_marker_is_no_picture(talk: Talk, pictures: Path) -> None:
    out, err = run(talk, f"/image {pictures / 'red.png'}", "what is <image>?")
    assert "error: the text holds <image>, which marks a picture's place; leave it out" in err
    assert asked(talk) == [] and len(talk.conversation.waiting) == 1


def test_mistakes_cost_one_line_and_the_conversation_goes_on(talk: Talk, pictures: Path) -> None:
    (pictures / "broken.png").write_text("not a picture")
    mistakes = {
        "/image": "needs a path",
        "/image /nowhere.png": "no such picture",
        f"/image {pictures / 'broken.png'}": "not a readable picture",
        "/imag x": "'/image'",
        "what is <image>?": "leave it out",
        "word " * 5000: "positions; shorten the question, or begin anew with /clear",
        "/undo": "no question to undo",
        "/again": "no question to answer again",
        "/edit x": "no question to edit",
        "/model tinny": "there are tiny; did you mean 'tiny'?",
        "/set temprature 1": "did you mean 'temperature'?",
        "/set temperature": "/set temperature 0.7",
        "/set temperature hot": "temperature must be a number, not 'hot'",
        "/set seed 0.5": "seed must be a whole number",
        "/set top_p 2": "at most 1",
        "/experts": "ask a run that has them, as a TeamLoRA has",
        "/gains 1 0": "no experts",
        "/gains one": "one number for each expert",
        "/load /nowhere.json": "No such file",
        f"/load {pictures / 'broken.png'}": "broken JSON",
        "/system be kind": "nothing stands behind this command; leave 'be kind' out",
        "/clear all": "leave 'all' out",
        "/load a\0b": "is not UTF-8 text",
        "/load ~no-such-person/a.json": "~no-such-person/a.json: cannot be read (No such file",
        "/image ~no-such-person/a.png": "no such picture",
        "/save": "/save needs one path",
        f"/save {pictures / 'red.png'}": "is there already",
    }
    out, err = run(talk, *mistakes, "", "/help")
    for line, part in zip(err.splitlines(), mistakes.values(), strict=True):
        assert line.startswith("error: ") and part in line
    assert out.startswith("/image PATH") and asked(talk) == [] and talk.decoding == SHORT


def test_a_line_that_is_no_text_costs_one_line(talk: Talk) -> None:
    out, err = run(talk, "caf\udce9?", "/image caf\udce9.png", "what color is it?")
    assert err == "error: the line is not UTF-8 text; send it again as UTF-8\n" * 2
    assert out.count("\n") == 1 and asked(talk) == ["what color is it?"]
    waiting = iter(["caf\xe9".encode("latin-1"), b"/help", b"/exit"])
    told = io.StringIO()
    assert Terminal(talk, lambda: next(waiting).decode(), io.StringIO(), told).loop() == 0
    assert told.getvalue() == "error: the line is not UTF-8 text; send it again as UTF-8\n"


def test_a_reader_that_left_ends_it(talk: Talk) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for line in ("what color is it?", "/help"):
        err = io.StringIO()
        with pytest.raises(BrokenPipeError):
            Terminal(talk, lambda line=line: line, Closed(), err).loop()
        assert err.getvalue() == ""


def test_exit_ends_it(talk: Talk) -> None:
    assert run(talk, "/exit", "never asked") == ("", "")
    assert run(talk, "/quit", "never asked") == ("", "")
    assert asked(talk) == []


def test_ctrl_c_stops_an_answer_and_twice_at_the_prompt_leaves(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(ask: Ask) -> Iterator[tuple[str, Token]]:
        yield "red and", Token(0, 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.generator, "follow", follow)
    out, _ = run(talk, "what color is it?")
    assert out == "red and [stopped]\n"
    reply = talk.conversation.exchanges[0].reply
    assert reply is not None and (reply.text, reply.ended) == ("red and", "stopped")

    waiting = iter([KeyboardInterrupt, "/images", KeyboardInterrupt, KeyboardInterrupt, "never asked"])

    def read() -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    out, err = io.StringIO(), io.StringIO()
    assert Terminal(talk, read, out, err).loop() == 0
    assert out.getvalue() == "no picture has been shown\n" and next(waiting) == "never asked"
    assert err.getvalue() == "\nCtrl-C once more, Ctrl-D or /exit leaves\n" * 2


def test_ctrl_c_stops_a_command(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def undo() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(talk, "undo", undo)
    assert run(talk, "/undo", "/images") == ("no picture has been shown\n", "[stopped]\n")


def test_a_failing_device_is_told(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    run(talk, "say yes")
    before = talk.conversation

    def follow(ask: Ask) -> Iterator[tuple[str, Token]]:
        yield "half an ans", Token(0, 5)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(talk.generator, "follow", follow)
    assert run(talk, "hello", "/again") == ("half an ans" * 2, "error: RuntimeError: out of memory\n" * 2)
    assert talk.conversation is before


def test_text_only_models_take_no_picture(talk: Talk, pictures: Path) -> None:
    run(talk, f"/image {pictures / 'red.png'}")
    blind = Talk({"blind": Generator(talk.generator.loaded)}, SHORT)
    blind.generator.vision = None
    with pytest.raises(UserError, match="text-only model"):
        blind.show(pictures / "red.png")
    with pytest.raises(UserError, match="text-only model; /clear the conversation, it has pictures"):
        blind.load(talk.conversation)
    talk.generators = {**talk.generators, **blind.generators}
    with pytest.raises(UserError, match="text-only model"):
        talk.choose("blind")
    assert talk.model == "tiny"


def test_undo_again_and_edit(talk: Talk, pictures: Path) -> None:
    run(talk, f"/image {pictures / 'red.png'}", "what color is it?")
    first = answers(talk)
    out, err = run(talk, "is it a circle?", "/undo", "/undo")
    assert "taken back: is it a circle?\ntaken back: what color is it?\n" in out and err == ""
    assert asked(talk) == [] and [picture.name for picture in talk.conversation.waiting] == ["red.png"]
    run(talk, "is it a circle?", "/edit what color is it?")
    assert asked(talk) == ["what color is it?"] and answers(talk) == first and len(talk.conversation.pictures) == 1
    run(talk, "/again")
    assert answers(talk) == first  # greedy answers do not vary
    run(talk, "/clear", f"/image {pictures / 'red.png'}", "/undo")
    assert talk.conversation.waiting == ()


def test_sampled_answers_vary_with_again(talk: Talk) -> None:
    run(talk, "/set temperature 5", "/set max_new_tokens 12", "say something")
    seen = [answers(talk)[0]]
    for seed in (1, 2):
        run(talk, "/again")
        reply = talk.conversation.exchanges[0].reply
        assert reply is not None and reply.settings.decoding == Decoding(12, 5.0, seed=seed)
        seen.append(reply.text)
    assert len(set(seen)) == 3
    run(talk, "/set seed 0", "/undo", "say something")
    assert answers(talk) == seen[:1]


def test_settings_are_shown_and_changed(talk: Talk) -> None:
    out, _ = run(talk, "/set", "/set temperature = 0.5")
    assert out.splitlines() == [
        "temperature 0  top_p 1  max_new_tokens 5  num_beams 1  seed 0",
        "temperature 0.5  top_p 1  max_new_tokens 5  num_beams 1  seed 0",
    ]


def test_beams_answer_in_one_piece(talk: Talk) -> None:
    out, err = run(talk, "/set num_beams 2", "say yes")
    query = Query((Turn("human", "say yes"),))
    answer = talk.generator.generate([query], Decoding(5, num_beams=2))[0]
    reply = talk.conversation.exchanges[0].reply
    assert out.endswith(f"{answer.text}\n") and reply is not None and reply.ended == answer.finish and err == ""


def test_another_system_prompt(talk: Talk, loaded: Loaded) -> None:
    own, _ = run(talk, "/system")
    assert own == f"{loaded.template.system}\n"
    other = Talk(talk.generators, SHORT, system="answer with a shape")
    out, _ = run(other, "what color is it?", "/clear", "/system")
    assert out.endswith("answer with a shape\n")
    prompt = talk.generator.rendered(Query((Turn("human", "x"),), (), "answer with a shape"))
    assert prompt == "answer with a shape USER: x ASSISTANT:"
    with pytest.raises(UserError, match="--version mistral_instruct has no place for a system prompt"):
        Talk({"m": _with_template(loaded, "mistral_instruct")}, SHORT, system="be kind")


def _with_template(loaded: Loaded, version: str) -> Generator:
    from dataclasses import replace

    from llava_teamlora.data.templates import get_template

    return Generator(replace(loaded, template=get_template(version)))


def test_a_conversation_is_saved_and_gone_on_with(talk: Talk, loaded: Loaded, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "my talk.json"
    run(talk, f"/image {pictures / 'red.png'}", "what color is it?")
    out, err = run(talk, f"/save '{file}'")
    assert out == f"{file}: 1 question written\n" and err == ""
    other = Talk({"tiny": Generator(loaded)}, SHORT)
    out, err = run(other, f"/load {file}", "is it a circle?", f"/save '{file}'")
    assert out.startswith(f"> what color is it?\n{answers(talk)[0]}\n") and err == ""
    assert other.conversation.exchanges[0] == talk.conversation.exchanges[0]
    run(talk, "is it a circle?")
    assert answers(other) == answers(talk)
    again = Talk(talk.generators, SHORT)
    _, err = run(again, f"/load {file}", "/clear", "say yes", f"/save '{file}'")
    assert "is there already; choose another name" in err  # a new conversation does not overwrite an old one


def test_a_file_cannot_steer_the_terminal(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    run(talk, "say yes", f"/save {file}")
    file.write_text(file.read_text().replace("say yes", "say\\u001b]0;owned\\u0007 \\ttab é"), encoding="utf-8")
    out, err = run(talk, f"/load {file}")
    assert out.startswith("> say\ufffd]0;owned\ufffd \ttab é\n") and err == ""
    assert asked(talk) == ["say\x1b]0;owned\x07 \ttab é"]


def test_a_base_and_its_adapter_answer_in_turn(family: dict[str, Generator], pictures: Path) -> None:
    adapter, base = family
    talk = Talk(family, SHORT)
    out, err = run(talk, "/model", f"/image {pictures / 'red.png'}", "what color is it?", f"/model {base}", "/again")
    assert out.startswith(f"* {adapter}\n  {base}\n") and f"  {adapter}\n* {base}\n" in out and err == ""
    query = Query.ask("what color is it?", load_image(pictures / "red.png"))
    assert answers(talk) == [family[base].generate([query], SHORT)[0].text]
    reply = talk.conversation.exchanges[0].reply
    assert reply is not None and reply.settings.model == base


def test_experts_are_shown(family: dict[str, Generator]) -> None:
    talk = Talk(family, SHORT)
    out, err = run(talk, "what color is the shape?")
    assert err == "" and talk.watched is not None
    query = Query((Turn("human", "what color is the shape?"),))
    tokens = list(family[talk.model].follow(Ask(query, SHORT, watch=True)))
    expected = torch.stack([token.participation.mean(0) for _, token in tokens if token.participation is not None])
    torch.testing.assert_close(talk.watched.participation, expected)
    assert len(talk.watched.tokens) == len(tokens)
    out, _ = run(talk, "/experts")
    head, *rows, last = out.splitlines()
    k = expected.shape[1]
    assert head.split()[-2:] == ["expert", str(k)] and len(rows) == len(tokens)
    assert [float(number) for number in last.split()[-k:]] == pytest.approx(expected.mean(0).tolist(), abs=6e-4)
    run(talk, f"/model {list(family)[1]}", "say yes")
    assert talk.watched is None


def test_gains_weight_the_experts_of_that_model_alone(family: dict[str, Generator]) -> None:
    adapter, base = family
    talk = Talk(family, SHORT)
    run(talk, "what color is the shape?")
    assert talk.watched is not None
    k = talk.watched.participation.shape[1]
    free = talk.watched.participation
    gains = [0.0] * k
    out, err = run(talk, f"/gains {' '.join(map(str, gains))}", "/again", "/gains")
    assert err == "" and out.count("gains 0 0") == 2 and not talk.watched.participation.any()
    query = Query((Turn("human", "what color is the shape?"),))
    assert answers(talk) == [family[base].generate([query], SHORT)[0].text]  # without its experts it is the base
    reply = talk.conversation.exchanges[0].reply
    assert reply is not None and reply.settings.gains == tuple(gains)
    _, err = run(talk, "/gains 1")
    assert "1 gains for a model whose layers have" in err and talk.gains == tuple(gains)
    out, _ = run(talk, "/gains off", "/again")
    assert out.startswith("the experts are left alone")
    torch.testing.assert_close(talk.watched.participation, free)
    run(talk, f"/gains {' '.join('2' * k)}", f"/model {base}")
    assert talk.gains is None


def test_piped_lines(tiny: str, pictures: Path) -> None:
    command = [sys.executable, "-m", "llava_teamlora.cli", "cli", tiny, "--device", "cpu", "--max_new_tokens", "3"]
    done = subprocess.run(
        [*command, "--image", str(pictures / "tall.jpg")],
        input=b"what color\\\nis it?\ncaf\xe9\n/imag\n/help\n",
        capture_output=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8:strict"},
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert b"/exit" in done.stdout
    assert "tall.jpg: 30 x 90 px" in said and "error: /imag: no such command" in said
    assert said.count("error: the line is not UTF-8 text") == 1 and "Traceback" not in said
    assert "Loading weights" not in said


def test_a_wrong_model_is_one_line(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llava_teamlora.cli import main

    assert main(["cli", str(pictures)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["cli", str(pictures), "--static_cache", "--compare", "other"]) == 1
    assert "--compare is for a growing cache" in capsys.readouterr().err


def test_a_closed_input_is_one_line(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava_teamlora.cli import main

    monkeypatch.setattr(sys, "stdin", None)
    assert main(["cli", tiny]) == 1
    assert capsys.readouterr().err.startswith("error: standard input is closed")
