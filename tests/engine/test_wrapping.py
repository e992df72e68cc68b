import pytest
import torch
from engine_fakes import MASKS, FakeModel, finish, log_lines, make_trainer, run_in_process
from torch import nn

from diffmae_video.engine.checkpoint import load_checkpoint
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.tasks import PretrainTask
from diffmae_video.engine.wrapping import select_device, unwrap


@pytest.mark.parametrize(
    "own",
    [{}, {"task": PretrainTask(1000, MASKS), "accumulation": 1}],
    ids=["accumulated", "mix of masks"],
)
def test_two_processes_train_like_one(tmp_path, own):
    """Gradients, losses, metrics and failures are those of the whole batch, and one process writes.

    With a mix of masks both draw what one process would, and the loss under each strategy is that of all clips.
    """
    together = tmp_path / "together"
    together.mkdir()
    options = {"steps": 4, "failing": (5, 7), "checkpoint_period": 2, **own}
    ranks = [run_in_process("train_rank", str(together), rank, 2, wait=False, **options) for rank in range(2)]
    torch.manual_seed(0)
    alone = make_trainer(tmp_path / "alone", model=FakeModel(dropout=0.0), **options)
    alone.run()
    for process in ranks:
        finish(process)
        assert process.exitcode == 0
    for ours, theirs in zip(log_lines(together), log_lines(tmp_path / "alone"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    state = load_checkpoint(together / "checkpoints" / "step_00000004.pt")
    assert state["progress"] == {"step": 4, "clips": 32, "draws": 16, "unreadable": 2}
    for name, value in alone.model.state_dict().items():
        assert torch.allclose(state["model"][name], value, atol=1e-5)  # saved without the wrapper's prefix


def test_unwrap_reaches_the_model_inside_wrappers():
    model = nn.Linear(2, 2)
    assert unwrap(model) is model
    assert unwrap(torch.compile(model, backend="eager")) is model


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(RunError, match="0 CUDA devices"):
        select_device("cuda")
    with pytest.raises(RunError, match="unknown device 'gpu'"):
        select_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto") == torch.device("cuda") and select_device("cuda:1").index == 1
    with pytest.raises(RunError, match="2 CUDA devices"):
        select_device("cuda:2")
