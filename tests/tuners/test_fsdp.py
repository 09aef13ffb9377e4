"""torch's own FSDP2 (fully_shard) on two processes: really sharded, trains as one does, gathered, saved, loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import OURS, Case
from peft import PeftModel, get_peft_model_state_dict

CASES = [case for case in OURS if case.model == "llama"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an adapter for each case, trained and saved by two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(Path(__file__).with_name("fsdp_worker.py")), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_equal_one(case: Case, sharded: Path) -> None:
    model = case.random().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = case.inputs()["input_ids"]
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loaded = PeftModel.from_pretrained(case.base(), sharded / str(case))
    expected, found = get_peft_model_state_dict(model), get_peft_model_state_dict(loaded)
    start = get_peft_model_state_dict(case.random())
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert not torch.allclose(weight, start[name], atol=1e-3), name
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=name)
