"""``llava-teamlora convert``: the other layout computes the same, bit for bit, or nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_originals import IMAGE, Originals, make_originals
from made_runs import MakeRun, answers
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.constants import PROJECTOR
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import BaseSpec, load_base
from llava_teamlora.models.projector import write_projector

IDS = [1, 20, 30, IMAGE, 40, 50, 60]


@pytest.fixture
def originals(tmp_path: Path, tiny: str) -> Originals:
    (tmp_path / "made").mkdir()
    return make_originals(tmp_path / "made", tiny)


def convert(source: Path | str, to: str, output: Path, *flags: str) -> int:
    return main(["convert", str(source), "--to", to, "--output", str(output), *flags])


def pixels() -> torch.Tensor:
    return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(folder: Path | str, picture: bool, vocabulary: int = 820) -> torch.Tensor:
    """``[T, V]`` by this package, of a base in any layout."""
    base = load_base(BaseSpec(str(folder)))
    assert base.image_token_id is not None
    return forward(base.model.eval(), base.image_token_id, base.tokens_per_image, picture)[:, :vocabulary]


def forward(model: torch.nn.Module, image: int, length: int, picture: bool) -> torch.Tensor:
    ids = [[image] * length if token == IMAGE else [token] for token in IDS if picture or token != IMAGE]
    kwargs = {"pixel_values": pixels()[None]} if picture else {}
    return model(input_ids=torch.tensor([[token for part in ids for token in part]]), **kwargs).logits[0]


@pytest.mark.parametrize("picture", [False, True])
def test_there_and_back_is_equal_to_the_bit(originals: Originals, tmp_path: Path, picture: bool) -> None:
    original, there, back = originals.full(), tmp_path / "there", tmp_path / "back"
    assert convert(original, "transformers", there) == 0
    assert convert(there, "original", back, "--vision_tower", str(originals.root / "clip")) == 0
    expected = logits(original, picture)
    assert torch.equal(expected, originals.logits([t for t in IDS if picture or t != IMAGE], pixels()))
    assert torch.equal(logits(there, picture), expected)
    assert torch.equal(logits(back, picture), expected)
    written = load_file(back / "model.safetensors")
    wanted = originals.full_weights()
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], weight) for name, weight in wanted.items())


def test_transformers_reads_the_folder_without_this_package(originals: Originals, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert convert(originals.full(tower=True), "transformers", there, "--max_shard_size", "20KB") == 0
    assert len(list(there.glob("model-*-of-*.safetensors"))) > 1
    model, info = LlavaForConditionalGeneration.from_pretrained(there, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    found = forward(model.eval(), 820, 16, True)[:, :820]
    assert torch.equal(found.detach(), originals.logits(IDS, pixels()))
    processor = AutoProcessor.from_pretrained(there, use_fast=False)
    inputs = processor(text="<image> what is it?", images=torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert sum(token == 820 for token in inputs["input_ids"][0]) == 16
    names = {name.split(".")[0] for path in there.glob("*.safetensors") for name in load_file(path)}
    assert names == {"language_model", "multi_modal_projector", "vision_tower"}


def test_the_config_is_one_that_llava_knows(originals: Originals, tmp_path: Path) -> None:
    """Every field of the source comes back, also those that transformers has renamed since."""
    there, back = tmp_path / "there", tmp_path / "back"
    source = originals.full(rope_scaling={"type": "linear", "factor": 2.0}, image_aspect_ratio="square")
    assert convert(source, "transformers", there) == 0
    assert convert(there, "original", back, "--vision_tower", str(originals.root / "clip")) == 0
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, back))
    same = before.keys() - {"_name_or_path"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert json.loads((there / "config.json").read_text())["image_aspect_ratio"] == "square"


def test_a_lora_becomes_a_whole_model(originals: Originals, tmp_path: Path) -> None:
    """What LLaVA's merge_lora_weights.py does; also in half precision."""
    lora, whole, half = originals.lora(), tmp_path / "whole", tmp_path / "half"
    assert convert(lora, "original", whole) == 0
    expected = originals.logits(IDS, pixels(), originals.merged())
    torch.testing.assert_close(logits(whole, True), expected, rtol=1e-5, atol=1e-5)
    assert json.loads((whole / "config.json").read_text())["mm_vision_tower"] == str(originals.root / "clip")
    assert not (whole / "vision_tower").exists()
    assert convert(lora, "transformers", half, "--dtype", "float16", "--model_base", str(originals.root / "llm")) == 0
    assert {weight.dtype for weight in load_file(half / "model.safetensors").values()} == {torch.float16}


def test_a_tower_without_a_name_is_written_beside(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert convert(tiny, "original", out) == 0
    printed = capsys.readouterr().out
    assert "The vision tower lies in vision_tower/" in printed and "tokenizer.model" in printed
    assert json.loads((out / "config.json").read_text())["mm_vision_tower"] == str(out / "vision_tower")
    assert torch.equal(logits(out, True), logits(tiny, True))
    moved = tmp_path / "moved"
    out.rename(moved)
    assert torch.equal(logits(moved, True), logits(tiny, True))
    back = tmp_path / "back"
    assert convert(moved, "transformers", back) == 0
    assert torch.equal(logits(back, True), logits(tiny, True))
    ids = [
        load_base(BaseSpec(str(folder))).tokenizer("what color is the circle?")["input_ids"] for folder in (tiny, back)
    ]
    assert ids[0] == ids[1]


def test_a_lora_run_becomes_a_lora_of_llavas(make_run: MakeRun, tmp_path: Path, tiny: str) -> None:
    run, out, base = make_run("lora", r=4), tmp_path / "out", tmp_path / "base"
    assert convert(tiny, "original", base) == 0
    assert convert(run, "original", out, "--vision_tower", str(base / "vision_tower")) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin", "config.json"}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in load_file(out / "adapter_model.safetensors")
    beside = torch.load(out / "non_lora_trainables.bin", weights_only=True)
    assert set(beside) == {
        f"base_model.model.model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")
    }
    expected = answers(run)
    assert (expected - answers(tiny)).abs().max() > 1e-2
    torch.testing.assert_close(answers(out), expected, rtol=1e-4, atol=1e-4)
    on_original = load_model(out, device="cpu", model_base=str(base))
    assert on_original.manifest["kind"] == "base" and on_original.vision is not None


def test_a_projector_run_becomes_a_projector_of_llavas(make_run: MakeRun, tmp_path: Path, tiny: str) -> None:
    run, out = make_run("projector"), tmp_path / "out"
    assert convert(run, "original", out, "--vision_tower", "openai/clip-vit-large-patch14-336") == 0
    assert {path.name for path in out.iterdir()} == {"mm_projector.bin", "config.json"}
    torch.testing.assert_close(answers(out), answers(run), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("teamlora", "a teamlora run cannot be written in LLaVA's layout"),
        ("prompt_tuning", "a prompt_tuning run cannot be written"),
        ("moslora", r"write the run as a whole model first \(llava-teamlora merge\)"),
    ],
)
def test_methods_that_llava_does_not_know(
    make_run: MakeRun, method: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import re

    run = make_run(method, **({} if method == "prompt_tuning" else {"r": 2}))
    assert convert(run, "original", tmp_path / "out") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_refusals(
    originals: Originals, make_run: MakeRun, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture
) -> None:
    run, full, out = make_run("lora", r=2), originals.full(), tmp_path / "out"
    llm, clip = str(originals.root / "llm"), str(originals.root / "clip")
    capsys.readouterr()
    for source, to, flags, message in (
        (tiny, "transformers", (), "is in that layout already (--to transformers)"),
        (full, "original", (), "is in that layout already (--to original)"),
        (llm, "original", (), "is a 'llama' model, no LLaVA"),
        (run, "transformers", (), "llava-teamlora merge writes it"),
        (run, "original", (), "keeps its vision tower inside, but an original LLaVA names one"),
        (tiny, "original", ("--vision_tower", clip), "its weights are not those of"),
        (tiny, "original", ("--model_base", llm), "is a whole LLaVA; drop --model_base"),
        (full, "transformers", ("--dtype", "int8"), "--dtype 'int8' is not one of float32"),
        (full, "transformers", ("--max_shard_size", "many"), "--max_shard_size 'many'"),
        (tmp_path / "none", "original", (), "none: no such folder"),
    ):
        assert convert(source, to, out, *flags) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    assert convert(full, "transformers", out) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_disk_that_lies_is_noticed(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from llava_teamlora.conversion import weight_files

    def spoil(weights: dict, folder: Path, **kwargs: object) -> None:
        name = next(iter(weights))
        save({**weights, name: weights[name] + 1}, folder, **kwargs)

    save = weight_files.save_torch_state_dict
    monkeypatch.setattr(weight_files, "save_torch_state_dict", spoil)
    assert convert(originals.full(), "transformers", tmp_path / "out") == 1
    assert "is not what was to be written; is the disk sound?" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"made"}


def test_a_run_refuses_a_base_of_another_size(originals: Originals, make_run: MakeRun) -> None:
    run = make_run("lora", r=2)
    for base in (originals.full(), originals.root / "llm"):
        with pytest.raises(UserError):
            load_model(run, device="cpu", model_base=str(base))


def test_training_takes_an_original_and_its_run_comes_back(
    originals: Originals, colors: tuple[Path, Path], tmp_path: Path
) -> None:
    """A LoRA folder of LLaVA's under a run of ours: trained, loaded, merged, written for LLaVA."""
    out, merged, back = tmp_path / "run", tmp_path / "merged", tmp_path / "back"
    flags = ["train", "--model_name_or_path", str(originals.lora()), "--data_path", str(colors[0])]
    flags += ["--image_folder", str(colors[1]), "--output_dir", str(out), "--method", "lora", "--r", "2"]
    flags += ["--use_cpu", "True", "--max_steps", "1", "--report_to", "none", "--disable_tqdm", "True"]
    assert main([*flags, "--image_aspect_ratio", "square", "--learning_rate", "0.1", "--warmup_steps", "0"]) == 0
    assert main(["merge", str(out), "--output", str(merged)]) == 0
    assert convert(merged, "original", back, "--vision_tower", str(originals.root / "clip")) == 0
    loaded = load_model(back, device="cpu")
    assert loaded.vision is not None and loaded.vision.aspect_ratio == "square"
    expected = answers(out)[..., :820]
    torch.testing.assert_close(answers(merged)[..., :820], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answers(back)[..., :820], expected, rtol=1e-4, atol=1e-4)


def test_a_run_of_full_fine_tuning_becomes_a_whole_folder(
    originals: Originals, colors: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    flags = ["train", "--model_name_or_path", str(originals.full()), "--data_path", str(colors[0])]
    flags += ["--image_folder", str(colors[1]), "--output_dir", str(run), "--method", "full", "--use_cpu", "True"]
    assert main([*flags, "--max_steps", "1", "--report_to", "none", "--disable_tqdm", "True"]) == 0
    assert convert(run, "original", out, "--vision_tower", str(originals.root / "clip")) == 0
    torch.testing.assert_close(answers(out)[..., :820], answers(run)[..., :820], rtol=1e-6, atol=1e-6)


def test_stage_two_takes_the_folder_of_stage_one(
    originals: Originals, colors: tuple[Path, Path], tmp_path: Path
) -> None:
    """``--pretrain_mm_mlp_adapter`` with a run folder: the projector in it."""
    parts = ["--model_name_or_path", str(originals.root / "llm"), "--vision_tower", str(originals.root / "clip")]
    flags = ["train", *parts, "--data_path", str(colors[0]), "--image_folder", str(colors[1]), "--use_cpu", "True"]
    flags += ["--max_steps", "1", "--report_to", "none", "--disable_tqdm", "True"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*flags, "--method", "projector", "--output_dir", str(one)]) == 0
    more = ["--pretrain_mm_mlp_adapter", str(one), "--freeze_mm_mlp_adapter", "True", "--output_dir", str(two)]
    assert main([*flags, "--method", "lora", "--r", "2", *more]) == 0
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    name = next(key for key in first if key.endswith("linear_1.weight"))
    assert torch.equal(first[name], second[name])
    (one / "mm_projector.bin").unlink()  # the second folder holds it too
    assert convert(two, "original", tmp_path / "out") == 0
    torch.testing.assert_close(answers(tmp_path / "out")[..., :820], answers(two)[..., :820], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "method"), [("tiny", "lora"), ("tiny", "prompt_tuning"), ("original", "lora")])
def test_a_given_projector_stays_with_a_run_that_freezes_it(
    originals: Originals, colors: tuple[Path, Path], tmp_path: Path, tiny: str, kind: str, method: str
) -> None:
    """Of a finished LLaVA too, which has a projector of its own."""
    source, given, run = tiny if kind == "tiny" else str(originals.full()), tmp_path / "given.bin", tmp_path / "run"
    other: Any = load_base(BaseSpec(source)).model
    weights = {f"{PROJECTOR}.{k}": v + 1 for k, v in other.model.multi_modal_projector.state_dict().items()}
    write_projector(weights, "mlp2x_gelu", given)
    flags = ["train", "--model_name_or_path", source, "--data_path", str(colors[0]), "--image_folder", str(colors[1])]
    flags += ["--output_dir", str(run), "--method", method, "--use_cpu", "True", "--max_steps", "1"]
    flags += ["--report_to", "none", "--disable_tqdm", "True", "--freeze_mm_mlp_adapter", "True"]
    assert main([*flags, "--pretrain_mm_mlp_adapter", str(given)]) == 0
    given.unlink()
    found = load_model(run, device="cpu").model.get_base_model().model.multi_modal_projector.state_dict()
    for name, weight in weights.items():
        assert torch.equal(found[f"modules_to_save.default.{name.removeprefix(f'{PROJECTOR}.')}"], weight)
    file = run / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if PROJECTOR not in name}, file)
    with pytest.raises(UserError, match=r"given.bin, but adapter_model.safetensors does not hold it"):
        load_model(run, device="cpu")


def test_a_run_is_not_written_for_another_base(
    originals: Originals, make_run: MakeRun, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture
) -> None:
    run, other, out = make_run("lora", r=2), tmp_path / "other", tmp_path / "out"
    shutil.copytree(tiny, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    flags = ("--model_base", str(other), "--vision_tower", str(originals.root / "clip"))
    assert convert(run, "original", out, *flags) == 1
    assert "was trained on a base with fingerprint" in capsys.readouterr().err and not out.exists()
