"""Models served together: one base in memory, each member what it is when loaded alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_bases
import pytest
import torch
from PIL import Image

from llava_teamlora.checkpoint import load_model
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Generator, Query
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.fingerprint import base_fingerprint
from llava_teamlora.run_card import RunCard, write_run_card
from llava_teamlora.serving.family import Family, load_family
from llava_teamlora.tuners.routed.inference import is_prepared

RunMaker = Callable[..., Path]
IDS = torch.tensor([[1, 5, 9, 7, 30]])
METHODS = ("teamlora", "lora", "ia3", "prompt_tuning")


@pytest.fixture(scope="module")
def folders(
    tiny: str, run_folders: dict[str, Path], run_maker: RunMaker, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    more = tmp_path_factory.mktemp("more")
    return {**run_folders, **{name: run_maker(BaseSpec(tiny), name, more / name) for name in METHODS[2:]}}


@pytest.fixture(scope="module")
def family(folders: dict[str, Path]) -> Family:
    """Four methods, which wrap the base in three ways, and the base."""
    return load_family([str(folders[name]) for name in METHODS], device="cpu")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def held(model: Any) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def test_the_base_is_in_memory_once(family: Family) -> None:
    assert {name: (each.kind, each.parent) for name, each in family.models.items()} == {
        "teamlora": ("adapter", "tiny"),
        "tiny": ("base", None),
        "lora": ("adapter", "tiny"),
        "ia3": ("adapter", "tiny"),
        "prompt_tuning": ("adapter", "tiny"),
    }
    base = family.models["tiny"].loaded.model
    for each in family.models.values():
        assert held(base) <= held(each.loaded.model)
        assert each.loaded.model is base or not {*base.modules()} & {*each.loaded.model.modules()}
    every = {tensor.data_ptr(): tensor for each in family.models.values() for tensor in each.loaded.model.parameters()}
    own = sum(each.numel() for pointer, each in every.items() if pointer not in held(base))
    assert own < sum(each.numel() for each in base.parameters())  # the adapters, and a projector for each of them


def test_each_member_is_what_it_is_alone(family: Family, folders: dict[str, Path], tiny: str) -> None:
    picture = Image.new("RGB", (64, 64), (255, 0, 0))
    queries = [Query.ask("what color is the shape?", picture), Query.ask("say no")]
    decoding = Decoding(max_new_tokens=5, temperature=0.8, seed=3)
    alone = {name: load_model(folders.get(name, tiny), device="cpu") for name in family.models}
    expected = {name: logits(each.model) for name, each in alone.items()}
    answers = {name: Generator(each, pack=False).generate(queries, decoding) for name, each in alone.items()}
    assert len({tuple(each.flatten().tolist()) for each in expected.values()}) == len(family.models)
    for _ in range(2):  # the second time all others have answered in between
        for name, each in family.models.items():
            assert torch.equal(logits(each.loaded.model), expected[name]), name
            assert each.generator.generate(queries, decoding) == answers[name], name
            assert each.kind == "base" or each.loaded.manifest == alone[name].manifest


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_in_memory_once_too(folders: dict[str, Path], tiny: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    family = load_family([str(folders[name]) for name in METHODS[:2]], device="cpu", bits=bits)
    base = family.models["tiny"].loaded.model
    for _ in range(2):
        for name, each in family.models.items():
            alone = load_model(folders.get(name, tiny), device="cpu", bits=bits)
            assert torch.equal(logits(each.loaded.model), logits(alone.model))
            assert held(base) <= held(each.loaded.model)


def test_experts_are_counted(family: Family) -> None:
    counts = {name: each.experts for name, each in family.models.items()}
    assert counts.pop("teamlora") == 4 and set(counts.values()) == {0}


def test_an_adapter_is_packed_where_it_has_its_base_for_itself(family: Family, folders: dict[str, Path]) -> None:
    assert not is_prepared(family.models["teamlora"].loaded.model)
    one = load_family([str(folders["teamlora"])], device="cpu")
    tuned, base = one.models.values()
    assert is_prepared(tuned.loaded.model) and held(base.loaded.model) <= held(tuned.loaded.model)
    for mine, other in ((tuned, family.models["teamlora"]), (base, family.models["tiny"])):
        torch.testing.assert_close(logits(mine.loaded.model), logits(other.loaded.model), rtol=1e-4, atol=1e-4)


def test_biases_that_an_adapter_trained_are_its_own(tiny: str, run_maker: RunMaker, tmp_path: Path) -> None:
    folder = run_maker(BaseSpec(tiny), "lora", tmp_path / "biased", bias="all")
    pictured = torch.zeros(1, 3, 64, 64)
    family = load_family([str(folder)], device="cpu")
    alone = {"biased": load_model(folder, device="cpu"), "tiny": load_model(tiny, device="cpu")}
    features: dict[str, list[torch.Tensor]] = {}
    for name, each in family.models.items():
        for model in (each.loaded.model, alone[name].model):
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            with torch.inference_mode():
                found = base.get_image_features(pixel_values=pictured, return_dict=True).pooler_output
            features.setdefault(name, []).append(torch.stack(list(found)))
    for mine, other in features.values():
        assert torch.equal(mine, other)
    assert not torch.equal(features["biased"][0], features["tiny"][0])


def test_a_model_trained_in_full_and_another_base_stand_beside(
    folders: dict[str, Path], tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole"
    base = load_base(BaseSpec(tiny))
    with torch.no_grad():
        next(base.model.parameters()).add_(1.0)
    base.model.save_pretrained(whole)
    base.tokenizer.save_pretrained(whole)
    base.image_processor.save_pretrained(whole)
    write_run_card(whole, RunCard("full", BaseSpec(tiny), base_fingerprint(BaseSpec(tiny)), "v1", "pad", {}))
    text = str(Path(tiny).parent / "tiny_text")
    family = load_family([str(folders["lora"]), str(whole), text], device="cpu")
    assert [(each.id, each.kind, each.parent) for each in family.models.values()] == [
        ("lora", "adapter", "tiny"),
        ("tiny", "base", None),
        ("whole", "whole", None),
        ("tiny_text", "base", None),
    ]
    assert not held(family.models["whole"].loaded.model) & held(family.models["tiny"].loaded.model)
    said = [record.getMessage() for record in caplog.records if record.name == "llava_teamlora.serving"]
    assert len(said) == 2 and "whole was trained in full" in said[0] and "tiny_text lies on another base" in said[1]
    with pytest.raises(UserError, match="holds a whole model.*name its base"):
        load_model(whole, untuned=True)


def test_a_base_named_beside_its_adapter_is_not_loaded_again(folders: dict[str, Path], tiny: str) -> None:
    family = load_family([str(folders["lora"]), tiny], device="cpu", names={tiny: "plain"})
    assert [*family.models] == ["lora", "plain"] and family.models["lora"].parent == "plain"
    assert held(family.models["plain"].loaded.model) <= held(family.models["lora"].loaded.model)
    assert family.first.id == "lora"


def test_a_base_put_together_in_the_run_answers_without_eyes(tiny: str, run_maker: RunMaker, tmp_path: Path) -> None:
    llm = made_bases.make_language_model(tmp_path / "llm", tiny)
    tower = made_bases.make_clip(tmp_path / "clip", tiny)
    folder = run_maker(BaseSpec(llm, vision_tower=tower), "lora", tmp_path / "run")
    tuned, base = load_family([str(folder)], device="cpu").models.values()
    picture = Image.new("RGB", (8, 8))
    assert len(tuned.generator.generate([Query.ask("what?", picture)], Decoding(2))) == 1
    assert len(base.generator.generate([Query.ask("what?")], Decoding(2))) == 1
    with pytest.raises(UserError, match="takes no pictures"):
        base.generator.generate([Query.ask("what?", picture)], Decoding(2))


def test_names_are_unique(folders: dict[str, Path], tiny: str, tmp_path: Path) -> None:
    for name in ("lora", "checkpoint-5"):
        shutil.copytree(folders["lora"], tmp_path / "second" / name)
    paths = [str(folders["lora"]), *(str(tmp_path / "second" / name) for name in ("lora", "checkpoint-5"))]
    assert [*load_family(paths, device="cpu").models] == ["lora", "tiny", "lora-2", "second/checkpoint-5"]
    with pytest.raises(UserError, match=r"lora: is named twice"):
        load_family([paths[0], f"{paths[0]}/."])
    with pytest.raises(UserError, match="a: is the name of several models"):
        load_family(paths[:2], device="cpu", names=dict.fromkeys(paths[:2], "a"))
    with pytest.raises(UserError, match="elsewhere: is given a name"):
        load_family([tiny], device="cpu", names={"elsewhere": "a"})
    with pytest.raises(UserError, match="no model is named"):
        load_family([])
