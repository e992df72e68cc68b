import errno
import os
import zipfile

import pytest
import torch

from diffmae_video.engine import checkpoint
from diffmae_video.engine.checkpoint import (
    config_changes,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    tensor_bytes,
)
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.disk import temporary_path
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint


def make_state(value: float = 1.0) -> dict:
    return {
        "format": 1,
        "model": {"weight": torch.full((50, 50), value)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"betas": (0.9, 0.95), "fused": None}],
        },
        "progress": {"step": 1, "clips": 8, "draws": 4, "unreadable": 0},
        "config": "SEED: 0\n",
    }


@pytest.fixture
def manager(tmp_path):
    return CheckpointManager(tmp_path / "checkpoints")


def names(manager) -> list[str]:
    return sorted(os.listdir(manager.folder))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "a.pt", make_state(2.5))
    state = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(state["model"]["weight"], torch.full((50, 50), 2.5))
    assert state["optimizer"]["param_groups"][0] == {"betas": (0.9, 0.95), "fused": None}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_two_newest_are_kept_and_latest_names_the_newest(manager):
    for step in (10, 20, 30):
        assert manager.save(make_state(step), step) == manager.path(step)
    assert names(manager) == ["latest", "step_00000020.pt", "step_00000030.pt"]
    assert (manager.folder / "latest").read_text() == "step_00000030.pt\n"
    assert manager.latest() == manager.path(30)


def test_keep_period_keeps_for_good(tmp_path):
    manager = CheckpointManager(tmp_path, keep_period=20)
    for step in (10, 20, 30, 40, 50, 60, 65):
        manager.save(make_state(), step)
    assert [name for name in names(manager) if name != "latest"] == [
        "step_00000020.pt",
        "step_00000040.pt",
        "step_00000060.pt",
        "step_00000065.pt",
    ]


def flip_byte_of_weights(data: bytes) -> bytes:
    place = data.index(torch.full((4,), 20.0).numpy().tobytes()) + 400
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\0" * len(data),  # what a power cut can leave of a file that was not synced
        lambda data: data[:5000] + b"\0" * 512 + data[5512:],
        flip_byte_of_weights,
    ],
    ids=["empty", "1 byte", "half", "last byte missing", "zeros", "a block of zeros", "one bit"],
)
def test_a_damaged_newest_file_is_passed_over_and_nothing_good_is_deleted(manager, caplog, damage):
    manager.save(make_state(10.0), 10)
    manager.save(make_state(20.0), 20)
    newest = manager.path(20)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(newest)

    state, path = CheckpointManager(manager.folder).load_latest()
    assert path == manager.path(10) and state["model"]["weight"][0, 0] == 10.0
    assert "step_00000020.pt" in caplog.text and "using the one before it" in caplog.text
    assert names(manager) == ["latest", "step_00000010.pt", "step_00000020.pt.damaged"]

    # The damaged one no longer counts among the two that are kept.
    manager.save(make_state(15.0), 15)
    assert manager.path(10).exists() and manager.load_latest()[1] == manager.path(15)


def test_a_file_with_missing_entries_is_passed_over(manager):
    manager.save(make_state(), 10)
    state = make_state()
    del state["optimizer"]
    manager.save(state, 20)
    assert manager.load_latest()[1] == manager.path(10)


def test_no_good_checkpoint_is_an_error_not_a_fresh_start(manager):
    assert manager.load_latest() is None
    manager.save(make_state(), 10)
    manager.path(10).write_bytes(b"PK nonsense")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
            manager.load_latest()
    assert manager.path(10).exists()


def test_code_in_a_file_is_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({**make_state(), "config": Attack()}, tmp_path / "a.pt")
    with pytest.raises(DamagedCheckpoint, match="more than tensors"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "attacked").exists()


def test_a_newer_format_is_refused_and_not_taken_for_damage(manager):
    manager.save(make_state(), 10)
    manager.save({**make_state(), "format": 2}, 20)
    with pytest.raises(CheckpointError, match="format 2") as error:
        manager.load_latest()
    assert not isinstance(error.value, DamagedCheckpoint)


def test_disk_full_leaves_the_earlier_checkpoints_and_says_what_is_needed(manager, caplog):
    manager.save(make_state(10.0), 10)
    before = {name: (manager.folder / name).read_bytes() for name in names(manager)}
    # A device on which every write fails with "no space left".
    temporary_path(manager.path(20)).symlink_to("/dev/full")
    assert manager.save(make_state(20.0), 20) is None
    assert {name: (manager.folder / name).read_bytes() for name in names(manager)} == before
    assert "step 20 was NOT saved" in caplog.text and "MiB are needed" in caplog.text
    assert manager.save(make_state(30.0), 30) == manager.path(30)


def test_disk_full_in_the_middle_of_a_file(manager, monkeypatch):
    manager.save(make_state(10.0), 10)
    room, real = [3000], os.write

    def write(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    assert manager.save(make_state(20.0), 20) is None
    monkeypatch.undo()
    assert names(manager) == ["latest", "step_00000010.pt"]
    assert manager.load_latest()[0]["model"]["weight"][0, 0] == 10.0


def test_another_write_error_is_raised(manager, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        manager.save(make_state(), 10)
    assert names(manager) == []


def test_left_over_temporary_files_are_removed(manager):
    left_over = temporary_path(manager.path(10))
    left_over.write_bytes(b"half")
    CheckpointManager(manager.folder)
    assert not left_over.exists()


@pytest.mark.parametrize("which", ["", "checkpoints", "checkpoints/latest", "checkpoints/step_00000020.pt"])
def test_find_checkpoint_takes_a_run_its_folder_latest_or_a_file(manager, which):
    manager.save(make_state(10.0), 10)
    manager.save(make_state(20.0), 20)
    state, path = find_checkpoint(manager.folder.parent / which)
    assert path == manager.path(20) and state["model"]["weight"][0, 0] == 20.0


def test_find_checkpoint_passes_over_a_damaged_newest_without_renaming_it(manager):
    manager.save(make_state(10.0), 10)
    manager.save(make_state(20.0), 20)
    manager.path(20).write_bytes(manager.path(20).read_bytes()[:-5])
    assert find_checkpoint(manager.folder / "latest")[1] == manager.path(10)
    assert manager.path(20).exists()
    with pytest.raises(DamagedCheckpoint):
        find_checkpoint(manager.path(20))


def test_find_checkpoint_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_checkpoint(tmp_path / "nowhere.pt")


def test_every_part_of_a_file_has_a_checksum(tmp_path):
    """torch.load does not compare checksums itself; that they are there and right is what damage detection rests on."""
    save_checkpoint(tmp_path / "a.pt", make_state())
    entries = zipfile.ZipFile(tmp_path / "a.pt").infolist()
    assert len(entries) > 3 and all(entry.CRC for entry in entries if entry.file_size)


def test_config_changes_and_sizes():
    assert config_changes("A: 1\nB: 2\n", "A: 1\nB: 3\n") == ["- B: 2", "+ B: 3"]
    assert config_changes("A: 1\n", "A: 1\n") == []
    assert tensor_bytes({"a": torch.zeros(10), "b": [torch.zeros(2, dtype=torch.uint8), "text", 5]}) == 42
    assert checkpoint.FORMAT == 1
