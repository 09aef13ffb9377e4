"""A run as its user meets it: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from llava_teamlora.checkpoint import load_model
from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.generation import Generator
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.run import train
from llava_teamlora.tuners.routed.inference import is_prepared

Train = Callable[..., Path]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_run_folder_is_complete(trained: Train, tiny: str) -> None:
    run = trained()
    for folder in (run, run / "checkpoint-6"):
        names = {path.name for path in folder.iterdir()}
        assert names >= {
            "adapter_config.json", "adapter_model.safetensors", "run.yaml", "tokenizer.json",
            "preprocessor_config.json",
        }  # fmt: skip
    assert not (run / ".incomplete").exists()
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-6"]  # save_total_limit 1
    results = read_run_card(run).results
    assert results["steps"] == 6 and results["validation_loss"] > 0 and results["train_seconds"] > 0
    weights = adapter(run)
    assert any("multi_modal_projector" in name for name in weights)
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "teamlora_B" in name)
    # The same folder through plain peft: adapter and projector come along.
    plain = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(tiny), str(run)).eval()
    ours = load_model(run, device="cpu").model
    ids = torch.tensor([[1, 5, 9, 7]])
    assert torch.equal(plain(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_only_adapter_and_projector_change(argv: list[str], trained: Train, tiny: str) -> None:
    base = LlavaForConditionalGeneration.from_pretrained(tiny).state_dict()
    loaded = load_model(trained(), device="cpu").model
    state = loaded.get_base_model().state_dict()
    for name, weight in base.items():
        adapted = ".language_model.layers" in name and ".mlp." in name
        inner = name.replace("_proj.", "_proj.base_layer.") if adapted else name
        inner = inner.replace("multi_modal_projector.", "multi_modal_projector.original_module.")
        assert torch.equal(state[inner], weight), name
    assert not any("vision_tower" in name and "teamlora" in name for name in loaded.state_dict())


def test_two_runs_are_equal_and_a_resumed_run_equals_both(trained: Train, tmp_path: Path) -> None:
    straight = trained("--output_dir", str(tmp_path / "straight"))
    resumed = trained("--output_dir", str(tmp_path / "resumed"), "--save_total_limit", "9")
    # As after a crash past step 4: the run's end and its later checkpoint never came to be.
    shutil.rmtree(resumed / "checkpoint-6")
    (resumed / "run.yaml").unlink()
    (resumed / "adapter_model.safetensors").unlink()
    trained("--output_dir", str(resumed), "--save_total_limit", "9")
    assert same(adapter(straight), adapter(resumed))
    assert losses(straight) == losses(resumed)


def test_resume_in_the_second_epoch(trained: Train, tmp_path: Path) -> None:
    extra = ("--num_train_epochs", "2", "--save_steps", "4", "--save_total_limit", "9")
    straight = trained("--output_dir", str(tmp_path / "straight"), *extra)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(straight / "checkpoint-8", resumed / "checkpoint-8")
    trained("--output_dir", str(resumed), *extra)
    assert same(adapter(straight), adapter(resumed))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.heavy), signal.SIGKILL]
)
def test_interrupted_process_goes_on(argv: list[str], number: int, tmp_path: Path) -> None:
    argv = [*argv, "--num_train_epochs", "4", "--save_steps", "3"]  # 24 steps
    run = tmp_path / "run"
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "llava_teamlora.cli", "train", *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    output = process.communicate(timeout=120)[0]
    assert not (run / "run.yaml").exists(), output
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130 and "Run the same command again to go on" in output, output
    assert train(argv) == 0
    assert train([*argv, "--output_dir", str(tmp_path / "straight")]) == 0
    assert losses(run)[-1] == losses(tmp_path / "straight")[-1]
    assert same(adapter(run), adapter(tmp_path / "straight"))


def test_half_written_checkpoint_is_never_resumed(trained: Train, argv: list[str], tmp_path: Path) -> None:
    run = trained("--max_steps", "2")
    (run / "run.yaml").unlink()
    broken = run / "checkpoint-9"  # newer, but without the card that is written last
    shutil.copytree(run / "checkpoint-2", broken)
    (broken / "run.yaml").unlink()
    weights = adapter(run)
    (run / "adapter_model.safetensors").unlink()
    assert train([*argv, "--max_steps", "2"]) == 0  # went on from checkpoint-2, where no step is left to do
    assert read_run_card(run).results["steps"] == 2 and same(adapter(run), weights)
    (run / "run.yaml").unlink()
    with pytest.raises(UserError, match="checkpoint-9: is not a whole checkpoint folder"):
        train([*argv, "--resume_from_checkpoint", str(broken)])


def test_finished_run_is_not_overwritten(trained: Train, argv: list[str], capsys: pytest.CaptureFixture) -> None:
    run = trained("--max_steps", "2")
    before = (run / "adapter_model.safetensors").read_bytes()
    assert train([*argv, "--max_steps", "2"]) == 0
    assert "finished already; nothing to train" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was made otherwise \(max_steps 2 -> 3\)"):
        train([*argv, "--max_steps", "3"])
    with pytest.raises(UserError, match="no such file"):  # a typo must not cost the former run
        train([*argv, "--data_path", "typo.json", "--overwrite_output_dir", "True"])
    assert (run / "adapter_model.safetensors").read_bytes() == before
    assert train([*argv, "--max_steps", "1", "--overwrite_output_dir", "True"]) == 0
    assert read_run_card(run).results["steps"] == 1


@pytest.mark.parametrize("name", ["thesis.tex", "checkpoint-notes", "checkpoint-5"])
def test_overwriting_spares_foreign_files(trained: Train, argv: list[str], name: str) -> None:
    run = trained("--max_steps", "1")
    (run / name).mkdir()
    with pytest.raises(UserError, match=f"holds '{name}', which no run wrote"):
        train([*argv, "--overwrite_output_dir", "True"])
    assert (run / name).exists() and (run / "run.yaml").exists()


def test_resuming_otherwise_is_refused(trained: Train, argv: list[str]) -> None:
    run = trained("--max_steps", "2")
    (run / "run.yaml").unlink()
    with pytest.raises(UserError, match=r"was made otherwise \(learning_rate 0.001 -> 0.01\)"):
        train([*argv, "--max_steps", "2", "--learning_rate", "0.01"])
    with pytest.raises(UserError, match="holds checkpoint-2; drop --resume_from_checkpoint False"):
        train([*argv, "--max_steps", "2", "--resume_from_checkpoint", "False"])
    data = Path(argv[argv.index("--data_path") + 1])
    data.write_text(data.read_text().replace("what color", "which color"))
    with pytest.raises(UserError, match="was made otherwise .*data_sha256"):
        train([*argv, "--max_steps", "2"])


def test_resuming_needs_a_checkpoint(trained: Train, argv: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        train([*argv, "--resume_from_checkpoint", "True"])
    finished = trained("--max_steps", "1", "--output_dir", str(tmp_path / "other"))
    with pytest.raises(UserError, match="is not a whole checkpoint folder"):
        train([*argv, "--resume_from_checkpoint", str(finished)])


def test_a_template_must_end_as_the_tokenizer_does(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_teamlora.data.templates import TEMPLATES

    monkeypatch.setitem(TEMPLATES, "v1", replace(TEMPLATES["v1"], end="<|end|>"))
    with pytest.raises(UserError, match=r"'<\|end\|>', which is not one token of .*, whose own is '</s>'"):
        train(argv)


def test_a_picture_that_breaks_in_mid_run(
    trained: Train, argv: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of very many pictures only headers are read beforehand: what is found later ends in one line too."""
    from llava_teamlora.data import images

    monkeypatch.setattr(images, "_problem", lambda path, decode: None)
    data = Path(argv[argv.index("--data_path") + 1])
    (data.parent / "images" / "1.png").write_bytes(b"gone")
    with pytest.raises(UserError) as caught:
        train([*argv, "--num_train_epochs", "1", "--dataloader_num_workers", "1"])
    message = str(caught.value)
    assert "record 1 (id 1)" in message and "not a readable picture" in message and "Traceback" not in message


def test_half_precision_with_and_without_pictures(trained: Train) -> None:
    """bf16: the base is bfloat16, what trains float32; the batches without pictures take the projector along."""
    run = trained("--bf16", "True")
    assert all(weight.dtype == torch.float32 for weight in adapter(run).values())
    file = run / "adapter_model.safetensors"
    written = file.read_bytes()
    # Read for answers, all of it is in the base's dtype, so that packing rounds nothing.
    half, wide = (load_model(run, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    kept = load_model(run, device="cpu", dtype="bfloat16", wide_adapter=True).model
    saved = {name: weight for name, weight in adapter(run).items() if "teamlora" in name}
    found = get_peft_model_state_dict(kept)
    assert saved and all(torch.equal(found[name], weight) for name, weight in saved.items())
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        of_half, of_wide = (loaded.model(input_ids=ids).logits.float() for loaded in (half, wide))
        assert (of_half - of_wide).norm() < 0.03 * of_wide.norm()
    assert is_prepared(Generator(half).base) and not any(module.training for module in half.model.modules())
    assert file.read_bytes() == written


def test_a_diverged_run_is_no_finished_run(argv: list[str], tmp_path: Path) -> None:
    for _ in range(2):  # the second time all steps are done already
        with pytest.raises(UserError, match="the loss is .*lower --learning_rate"):
            train([*argv, "--learning_rate", "1e20", "--max_grad_norm", "0"])
        assert not (tmp_path / "run" / "run.yaml").exists()


def test_steps_without_any_answer_do_no_harm(trained: Train, argv: list[str]) -> None:
    """Some samples lose their answers to the length limit; a batch of such has loss 0, not 0 / 0."""
    data = Path(argv[argv.index("--data_path") + 1])
    rows = [row for row in json.loads(data.read_text()) if "image" not in row]
    rows += [json.loads(json.dumps(row)) for row in rows[:4]]
    for row in rows[:8]:
        row["conversations"][0]["value"] = "what color is it? " * 40
    data.write_text(json.dumps(rows))
    run = trained("--model_max_length", "120", "--per_device_train_batch_size", "1")
    assert all(weight.isfinite().all() for weight in adapter(run).values())
    assert 0.0 in losses(run)


def test_a_rebuilt_base_is_not_resumed_on(trained: Train, argv: list[str], tiny: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    flags = ("--model_name_or_path", str(base), "--max_steps", "1")
    trained(*flags)
    with (base / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(UserError, match="was made otherwise .*base_fingerprint"):
        train([*argv, *flags])


def test_a_damaged_adapter_is_refused(trained: Train) -> None:
    from safetensors.torch import save_file

    path = trained("--max_steps", "1") / "adapter_model.safetensors"
    weights = load_file(path)
    lost = next(name for name in weights if "teamlora_B" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="does not fit its configuration .*teamlora_B"):
        load_model(path.parent, device="cpu")
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="its adapter cannot be read"):
        load_model(path.parent, device="cpu")


def test_overwriting_spares_a_folder_of_runs(trained: Train, argv: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = trained("--max_steps", "1", "--output_dir", str(home / "runs" / "mine"))
    with pytest.raises(UserError, match="holds 'runs', which no run wrote"):
        train([*argv, "--output_dir", str(home), "--overwrite_output_dir", "True"])
    assert (run / "run.yaml").exists()


def test_unwritable_folder_is_told_before_training(argv: list[str]) -> None:
    with pytest.raises(UserError, match="/proc/run: cannot be written to"):
        train([*argv, "--output_dir", "/proc/run"])


def test_a_changed_base_is_refused(trained: Train, tiny: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    run = trained("--model_name_or_path", str(base), "--max_steps", "1")
    load_model(run, device="cpu")
    moved = tmp_path / "moved"
    base.rename(moved)
    with pytest.raises(UserError, match="say where it is with --model_base"):
        load_model(run, device="cpu")
    assert load_model(run, device="cpu", model_base=str(moved)).manifest["kind"] == "run"
    with (moved / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(UserError, match="was trained on a base with fingerprint"):
        load_model(run, device="cpu", model_base=str(moved))


def test_methods_train_equal_parameters(trained: Train, tmp_path: Path) -> None:
    ours = trained("--max_steps", "1", "--output_dir", str(tmp_path / "team"))
    theirs = trained(
        "--max_steps", "1", "--method", "lora", "--match_params", "teamlora:r=8,num_experts=4",
        "--output_dir", str(tmp_path / "lora"),
    )  # fmt: skip
    counts = [read_run_card(folder).results["trainable_parameters"] for folder in (ours, theirs)]
    assert counts[1] == pytest.approx(counts[0], rel=0.01)
    assert json.loads((theirs / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_frozen_projector_and_gradient_checkpointing(trained: Train) -> None:
    run = trained("--max_steps", "2", "--freeze_mm_mlp_adapter", "True", "--gradient_checkpointing", "True")
    assert not any("multi_modal_projector" in name for name in adapter(run))


def test_dry_run_shows_and_writes_nothing(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert train([*argv, "--dry_run", "True"]) == 0
    shown = capsys.readouterr().out
    assert "mm_projector_lr" in shown and "teamlora_interaction" in shown
    assert re.search(r"<image> x \d+", shown) or "⟦red</s>⟧" in shown
    assert re.search(r"ASSISTANT:⟦\w+</s>⟧", shown)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--data_path", "none.json", "error: none.json: no such file"),
        ("--image_folder", "nowhere", "error: nowhere: no such folder (--image_folder)"),
        ("--model_name_or_path", "nowhere", "neither a folder here nor a hub model in reach"),
        ("--version", "v2", "error: --version 'v2' is not a template"),
        ("--optimm", "x", "error: llava-teamlora train: unknown flag --optimm; did you mean '--optim'?"),
        ("--target_modules", "nothing", "matches no module"),
        ("--output_dir", "DATA", "is a file, not a folder (--output_dir)"),
    ],
)
def test_mistakes_end_in_one_line(
    argv: list[str], flag: str, value: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    value = argv[argv.index("--data_path") + 1] if value == "DATA" else value
    assert main(["train", *argv, flag, value]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("error: ")


def test_missing_picture_and_bad_records_end_in_one_line(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    data = Path(argv[argv.index("--data_path") + 1])
    rows = json.loads(data.read_text())
    (data.parent / "images" / rows[1]["image"]).unlink()
    assert main(["train", *argv]) == 1
    assert "record 1 (id 1)" in capsys.readouterr().err
    rows[4]["conversations"][0]["value"] += "<image>"
    data.write_text(json.dumps(rows))
    assert main(["train", *argv]) == 1
    assert "record 4 (id 4): 2 x <image>" in capsys.readouterr().err
    data.write_text(data.read_text()[:-5])
    assert main(["train", *argv]) == 1
    assert "broken JSON at line 1" in capsys.readouterr().err


def test_full_disk_keeps_the_last_checkpoint(
    trained: Train, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_teamlora.training.trainer import LlavaTrainer

    real = LlavaTrainer._save_optimizer_and_scheduler

    def full(self: LlavaTrainer, folder: str) -> None:
        if self.state.global_step > 2:
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(LlavaTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(UserError, match="checkpoint-4: cannot be saved .*No space left.*checkpoint-2 is whole"):
        train(argv)
    monkeypatch.undo()
    run = tmp_path / "run"
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    assert train(argv) == 0
    straight = trained("--output_dir", str(tmp_path / "straight"))
    assert losses(run) == losses(straight)


def test_projector_learns_at_its_own_rate(trained: Train) -> None:
    run = trained("--mm_projector_lr", "5e-5", "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "2")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rates = [(entry["learning_rate"], entry["projector_learning_rate"]) for entry in history if "loss" in entry]
    assert rates[-1] == pytest.approx((1e-3, 5e-5))
    assert all(ours / theirs == pytest.approx(20) for ours, theirs in rates if theirs)
    groups = torch.load(run / "checkpoint-6" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {(group["name"], group["lr"]) for group in groups} == {
        ("adapter", 1e-3), ("projector", 5e-5), ("projector, no decay", 5e-5),
    }  # fmt: skip


def test_a_zero_projector_rate_freezes_it_and_text_only_batches_train(trained: Train, argv: list[str]) -> None:
    """Batches without pictures are in this data (grouped by modality): they must leave the projector as it is."""
    run = trained("--mm_projector_lr", "0", "--weight_decay", "0.1")
    model = load_model(run, device="cpu").model
    projector = model.base_model.model.model.multi_modal_projector
    for name, weight in projector.original_module.state_dict().items():
        assert torch.equal(projector.modules_to_save["default"].state_dict()[name], weight)
