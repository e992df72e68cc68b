"""What runs in the processes of the tests of checkpoints: some are killed while they save, some save together."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import torch

if __name__ == "process_of_its_own":
    sys.path.insert(0, str(Path(__file__).parent))

from engine_fakes import KILL_SPOTS, FakeModel, kill_at_call, make_trainer
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.errors import TrainingInterrupted
from diffmae_video.engine.sharded_checkpoints import ShardedCheckpoints
from diffmae_video.engine.world import Peers, World


def make_state(step: int) -> dict:
    """A checkpoint whose every value says of which step it is."""
    return {
        "format": 1,
        "model": {f"layer.{n}": torch.full((40, 25 + n), float(step)) for n in range(4)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": torch.full((40, 25), float(step))}},
            "param_groups": [{"params": [0], "betas": (0.9, 0.95), "fused": None}],
        },
        "progress": {"step": step, "clips": 8 * step},
        "config": f"SEED: {step}\n",
        "rng": {"cpu": torch.full((16,), step % 200, dtype=torch.uint8)},
    }


def make_manager(folder: str | Path, kind: str, **options) -> CheckpointManager:
    if kind == "file":
        return CheckpointManager(folder, **options)
    return ShardedCheckpoints(folder, background=kind == "background", **options)


def save_until_killed(folder: str, kind: str, report: str, kill: tuple[str, int] | None) -> None:
    """Saves step after step, from the newest on, and reports each that is complete in a line of the file ``report``."""
    torch.set_num_threads(1)
    manager = make_manager(folder, kind)
    found = manager.load_latest()
    step = found[0]["progress"]["step"] if found else 0
    lines = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write  # the report's own: a kill spot may count the calls of os.write
    if kill is not None:
        kill_at_call(*KILL_SPOTS[kill[0]], kill[1])
    while True:
        step += 1
        assert manager.save(make_state(step), step) is not None
        if manager.wait():
            write(lines, f"{step}\n".encode())


# ------------------------------------------------------------------------------------------------- several processes

SIZES = {"rows": (7, 3), "even": (8, 4), "one_row": (1, 6), "columns": (3, 5)}  # 7 and 1 rows do not divide evenly


def whole_tensor(name: str) -> torch.Tensor:
    """What a tensor holds, on any number of processes."""
    size = SIZES[name]
    return torch.arange(float(size[0] * size[1])).reshape(size) + 100 * sorted(SIZES).index(name)


def _places(size: int) -> dict[str, torch.Tensor]:
    mesh = init_device_mesh("cpu", (size,))
    kinds = {"rows": Shard(0), "even": Shard(0), "one_row": Shard(0), "columns": Shard(1)}
    tensors = {name: distribute_tensor(whole_tensor(name), mesh, [kind]) for name, kind in kinds.items()}
    return tensors | {"plain": torch.ones(3), "replicated": distribute_tensor(torch.ones(4), mesh, [Replicate()])}


def _join(folder: str, rank: int, size: int, name: str) -> World:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/{name}", size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    return World(rank, size, rank)


def save_rank(folder: str, rank: int, size: int, background: bool, lost: int | None = None) -> None:
    """One of several processes that save a state of sharded tensors; process ``lost`` has no room on its disk."""
    world = _join(folder, rank, size, "save")
    manager = ShardedCheckpoints(f"{folder}/checkpoints", world=world, background=background)
    tensors = _places(size)
    state = {**make_state(5), "model": tensors}
    state["optimizer"]["state"][0] = {"exp_avg": tensors["rows"] * 2, "step": torch.tensor(5.0)}
    if rank == lost:
        real = os.write
        full = OSError(28, "No space left on device")
        os.write = lambda descriptor, data: (_ for _ in ()).throw(full) if len(data) > 200 else real(descriptor, data)
    path = manager.save(state, 5)
    for tensor in tensors.values():
        (tensor.to_local() if hasattr(tensor, "to_local") else tensor).fill_(-1)  # the training goes on
    stands = manager.wait() and path is not None
    Path(f"{folder}/rank_{rank}").write_text(str(stands))
    distributed.barrier()
    os._exit(0)


def load_rank(folder: str, rank: int, size: int) -> None:
    """One of several processes that load it, as many or not as have saved it."""
    world = _join(folder, rank, size, f"load_{size}")
    manager = ShardedCheckpoints(f"{folder}/checkpoints", world=world)
    like = _places(size)
    for tensor in like.values():
        (tensor.to_local() if hasattr(tensor, "to_local") else tensor).fill_(-2)
    state, _ = manager.load_latest({"model": like, "optimizer": {"state": {0: like["rows"]}}})
    model = state["model"]
    for name in SIZES:
        assert model[name].placements == like[name].placements and model[name].device_mesh == like[name].device_mesh
        assert torch.equal(model[name].full_tensor(), whole_tensor(name)), name
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"].full_tensor(), 2 * whole_tensor("rows"))
    assert torch.equal(model["plain"], torch.ones(3)) and state["progress"]["step"] == 5
    Path(f"{folder}/loaded_{size}_{rank}").touch()
    distributed.barrier()
    os._exit(0)


def train_sharded(folder: str, rank: int, size: int, name: str, stop: int | None, background: bool, **options) -> None:
    """A run of the fakes under FSDP, alone without; SIGTERM comes to its first process in its step ``stop``."""
    world, peers = World(), None
    torch.manual_seed(0)
    model = FakeModel(dropout=0.0)
    if size > 1:
        world = _join(folder, rank, size, f"{name}_group")
        peers = Peers(world, distributed.FileStore(f"{folder}/{name}_peers", size))
        mesh = init_device_mesh("cpu", (size,))
        fully_shard(model.first, mesh=mesh)
        fully_shard(model, mesh=mesh)
    torch.set_num_threads(1)
    checkpoints = ShardedCheckpoints(f"{folder}/checkpoints", world=world, background=background)
    trainer = make_trainer(folder, model=model, peers=peers, checkpoints=checkpoints, ema_decay=0.9, **options)
    if rank == 0 and stop is not None:
        update, calls = trainer.stepper.update, itertools.count(1)

        def stopped(*arguments, **keywords):
            if next(calls) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(*arguments, **keywords)

        trainer.stepper.update = stopped
    try:
        trainer.run()
        code = 0
    except TrainingInterrupted as interrupted:
        code = interrupted.exit_code
    if size > 1:
        distributed.barrier()
    os._exit(code)


if __name__ == "process_of_its_own":
    _function, _arguments, _keywords = CALL  # noqa: F821 (given by run_in_process)
    globals()[_function](*_arguments, **_keywords)
