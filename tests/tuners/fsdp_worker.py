"""One of the processes of test_fsdp.py: shard, train, gather, save. Usage: torchrun … fsdp_worker.py FOLDER"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from cases import OURS, Case
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from llava_teamlora.tuners.routed import choice

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
BROADCAST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def train_sharded(case: Case, folder: Path) -> None:
    """Two steps, each process on its own half of the batch, as test_fsdp.py takes them alone."""
    model = case.random().train()
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    here = sum(parameter.to_local().numel() for parameter in model.parameters())
    assert here < 0.6 * whole, (here, whole)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = case.inputs()["input_ids"][dist.get_rank()][None]
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    gathered = get_model_state_dict(model, options=FULL)  # empty but on the first process
    model.save_pretrained(folder / str(case), state_dict=gathered, is_main_process=dist.get_rank() == 0)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        model.reshard()  # torch leaves the root's own weights whole after a forward pass
        for parameter in model.parameters():
            parameter.mul_(0.5)
        set_model_state_dict(model, gathered, options=BROADCAST)
        assert torch.equal(model(input_ids=ids).logits, expected)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for each in OURS:
        if each.model == "llama":
            train_sharded(each, Path(sys.argv[1]))
    assert not choice._told, f"a fused form that could run did not: {choice._told}"
    dist.destroy_process_group()
