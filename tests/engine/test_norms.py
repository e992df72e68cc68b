"""Norms of parameters and of what a step changes in them, where one process has them and where several have parts."""

from __future__ import annotations

import multiprocessing
import runpy

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from diffmae_video.engine.norms import copies, update_norms


def as_one_vector(tensors) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()


def test_the_update_of_a_real_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, bias=False))
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    model(torch.randn(6, 5)).square().mean().backward()
    gradient = as_one_vector(p.grad for p in parameters)
    before = copies(parameters)
    optimizer.step()
    after = as_one_vector(parameters)
    assert update_norms(parameters, before) == pytest.approx(
        {"param_norm": after, "update_norm": 0.5 * gradient}, rel=1e-5
    )
    assert as_one_vector(parameters) == after, "measuring changes nothing"


def check_shards(folder: str, rank: int) -> None:
    """Runs in each of two processes, which have uneven parts: three rows and two, one and none."""
    distributed.init_process_group("gloo", store=distributed.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = [torch.randn(5, 3), torch.randn(1, 2)]
    parameters = [nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)])) for tensor in whole]
    before = copies(parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(3)
    norm = as_one_vector(whole)
    assert update_norms(parameters, before) == pytest.approx(
        {"param_norm": 3 * norm, "update_norm": 2 * norm}, rel=1e-5
    )
    distributed.destroy_process_group()


def test_sharded_parameters_count_whole_on_every_process(tmp_path):
    context = multiprocessing.get_context("forkserver")
    calls = [{"CALL": (str(tmp_path), rank)} for rank in range(2)]
    ranks = [context.Process(target=runpy.run_path, args=(__file__, call, "process_of_its_own")) for call in calls]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
        assert process.exitcode == 0


if __name__ == "process_of_its_own":
    torch.set_num_threads(1)
    check_shards(*CALL)  # noqa: F821 (given by the test)
