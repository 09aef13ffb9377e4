"""``llava-teamlora convert-adapter``: run folders and bare adapter folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from made_runs import MakeRun, answers
from safetensors.torch import load_file

from llava_teamlora.cli import main
from llava_teamlora.models.fingerprint import file_sha256
from llava_teamlora.run_card import read_run_card
from llava_teamlora.training.flags.command_line import parse_arguments


def convert(source: Path, output: Path, *flags: str) -> int:
    return main(["convert-adapter", str(source), "--output", str(output), *flags])


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("lora", ("--to", "teamlora", "--num_experts", "4")),
        ("lora", ("--to", "teamlora", "--num_experts", "2", "--interaction_init", "uniform")),
        ("lora", ("--to", "moelora", "--num_experts", "4")),
        ("moelora", ("--to", "teamlora")),
        ("teamlora", ("--to", "moelora", "--keep_interaction")),
        ("teamlora", ("--clone_expert", "all")),
        ("hydralora", ("--clone_expert", "all")),
        ("moelora", ("--to", "teamlora", "--clone_expert", "all")),
    ],
    ids=str,
)
def test_equal_answers(make_run: MakeRun, method: str, flags: tuple[str, ...], tmp_path: Path, tiny: str) -> None:
    run, out = make_run(method, r=8), tmp_path / "out"
    assert convert(run, out, *flags) == 0
    expected = answers(run)
    assert (expected - answers(tiny)).abs().max() > 1e-2
    torch.testing.assert_close(answers(out), expected, rtol=1e-4, atol=1e-4)


def test_the_run_card_tells_what_the_folder_is_now(make_run: MakeRun, tmp_path: Path) -> None:
    run, out, again = make_run("lora", r=8), tmp_path / "out", tmp_path / "again"
    assert convert(run, out, "--to", "teamlora", "--num_experts", "4") == 0
    card = read_run_card(out)
    assert card.method == "teamlora" and not card.results
    expected = {"method": "teamlora", "r": 2, "num_experts": 4, "interaction_init": "identity"}
    assert {name: card.arguments[name] for name in expected} == expected
    assert card.identity["converted"] == {
        "folder": str(run),
        "method": "lora",
        "adapter_sha256": file_sha256(run / "adapter_model.safetensors"),
        "change": {"to": "teamlora", "num_experts": 4},
    }
    assert not (out / "trainer_state.json").exists() and (out / "tokenizer.json").exists()
    # The same arguments start a run of that shape.
    arguments = parse_arguments(["--config", str(out / "run.yaml"), "--use_cpu", "True"])
    assert arguments.method.method == "teamlora" and arguments.method.r == 2
    assert convert(out, again, "--drop_expert", "1", "3", "--renormalise") == 0
    card = read_run_card(again)
    assert card.arguments["num_experts"] == 2 and card.identity["converted"]["from"]["method"] == "lora"
    assert yaml.safe_load((again / "run.yaml").read_text())["method"] == "teamlora"


def test_surgery_changes_what_it_says(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = make_run("teamlora", r=2, num_experts=3)
    for name, flags, shown in (
        ("silent", ("--drop_expert", "2"), "3 experts of rank 2 on 12 linears"),
        ("gone", ("--drop_expert", "2", "--renormalise"), "2 experts of rank 2 on 12 linears"),
        ("more", ("--clone_expert", "0"), "4 experts of rank 2 on 12 linears"),
    ):
        assert convert(run, tmp_path / name, *flags) == 0
        assert shown in capsys.readouterr().out
        assert torch.isfinite(answers(tmp_path / name)).all()


def test_a_bare_adapter_folder_stays_one(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("moelora", r=2), tmp_path / "out"
    (run / "run.yaml").unlink()
    assert convert(run, out, "--to", "teamlora") == 0
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert any("teamlora_interaction" in key for key in load_file(out / "adapter_model.safetensors"))


def test_refusals(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture, tiny: str) -> None:
    team, lora, out = make_run("teamlora", r=2), make_run("lora", "lora", r=6), tmp_path / "out"
    hydra = make_run("hydralora", "hydra", r=2)
    capsys.readouterr()  # progress bars
    for source, flags, message in (
        (team, (), "nothing to do: give --to, --drop_expert or --clone_expert"),
        (team, ("--to", "moelora"), "the interaction matrix is not the identity in 12 of 12 layers"),
        (team, ("--to", "teamlora"), "is a teamlora adapter already"),
        (team, ("--drop_expert", "4"), "there is no expert 4: this adapter has experts 0 to 3"),
        (team, ("--clone_expert", "first"), "--clone_expert 'first' is neither"),
        (team, ("--drop_expert", "1", "--clone_expert", "0"), "run twice"),
        (team, ("--to", "moelora", "--num_experts", "2"), "--num_experts is for cutting a LoRA"),
        (lora, ("--to", "teamlora"), "needs --num_experts"),
        (lora, ("--to", "teamlora", "--num_experts", "4"), "r=6 cannot be cut into 4 experts; num_experts may be 1, 2"),
        (lora, ("--drop_expert", "0"), "needs an adapter with experts"),
        (hydra, ("--to", "teamlora"), "a hydralora adapter cannot become teamlora"),
        (Path(tiny), ("--to", "teamlora"), "is not an adapter folder"),
    ):
        assert convert(source, out, *flags) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and message in printed
        assert not out.exists()
    assert convert(lora, team, "--to", "teamlora", "--num_experts", "2") == 1
    assert "is there already" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_teamlora.conversion import adapters

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = make_run("moelora", r=2)
    monkeypatch.setattr(adapters, "write_run_card", fail)
    assert convert(run, tmp_path / "out", "--to", "teamlora") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data"}


@pytest.mark.parametrize("command", ["merge", "convert-adapter"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert "examples:" in printed and f"llava-teamlora {command} runs/" in printed


def test_training_goes_on_from_a_converted_adapter(
    make_run: MakeRun, colors: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, warm, out = make_run("lora", r=8), tmp_path / "warm", tmp_path / "trained"
    assert convert(run, warm, "--to", "teamlora", "--num_experts", "4") == 0
    flags = ["train", "--config", str(warm / "run.yaml"), "--adapter_name_or_path", str(warm)]
    flags += ["--image_folder", str(colors[1]), "--output_dir", str(out), "--max_steps", "1", "--disable_tqdm", "True"]
    for extra, message in (
        (["--r", "4"], "its adapter has r=2, this run's 4; repeat its options"),
        (["--method", "hydralora"], "holds a TEAMLORA adapter, --method is hydralora"),
        (["--adapter_name_or_path", str(run)], "holds a LORA adapter, --method is teamlora"),
        (["--adapter_name_or_path", str(colors[1])], "holds no adapter_model.safetensors"),
        (["--method", "full", "--r", "2"], "method 'full' has no option"),
    ):
        assert main([*flags, *extra]) == 1
        assert message in capsys.readouterr().err
    assert main([*flags, "--learning_rate", "0"]) == 0
    torch.testing.assert_close(answers(out), answers(run), rtol=1e-4, atol=1e-4)
    assert file_sha256(warm / "adapter_model.safetensors") == read_run_card(out).identity["start_sha256"]
