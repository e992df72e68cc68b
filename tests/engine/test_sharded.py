"""Checkpoints as folders: what comes back, on how many processes, what damage is seen, and what reads them."""

import json
import logging
import os

import pytest
import saving_processes
import torch
from engine_fakes import FakeModel, finish, log_lines, make_trainer, run_in_process
from saving_processes import make_state

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.build.model_folder import read_parts, write_parts
from diffmae_video.config import dump, load_config
from diffmae_video.engine.checkpoint import find_checkpoint
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint
from diffmae_video.engine.manifest import read_manifest
from diffmae_video.engine.sharded import Snapshot, load_sharded, save_sharded
from diffmae_video.engine.sharded_checkpoints import ShardedCheckpoints

FILE = saving_processes.__file__


@pytest.fixture(autouse=True)
def quiet_torch():
    """Torch writes a dozen lines for every one of these calls to a logger of its own, where one listens to all."""
    logging.getLogger("dcp_logger").setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        if "dcp_logger" in name:
            logging.getLogger(name).setLevel(logging.WARNING)


def same(ours, theirs) -> bool:
    """Equal values of equal types, tensors included."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.fixture
def manager(tmp_path):
    return ShardedCheckpoints(tmp_path / "checkpoints")


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_is_saved_is_what_is_loaded(manager):
    state = make_state(7)
    state["model"] |= {
        "half": torch.randn(3, 2).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "flag": torch.tensor([True, False]),
        "strided": torch.arange(12.0).reshape(3, 4).t()[1:],
    }
    state["ema"], state["ema_updates"] = {name: 2 * value for name, value in state["model"].items()}, 7
    state["monitor"] = {"sums": [1.5, None, "text"], "nested": ({"a": (1, 2)},)}
    assert manager.save(state, 7) == manager.path(7)
    found, path = manager.load_latest()
    assert path == manager.path(7) and same(dict(sorted(found.items())), dict(sorted(state.items())))
    assert names(path) == ["__0_0.distcp", "manifest.json", "values.pt"]
    assert names(manager.folder) == ["latest", "step_00000007"]


def test_the_manifest_tells_people_what_they_look_at(manager):
    content = json.loads((manager.save(make_state(7), 7) / "manifest.json").read_text())
    assert content["progress"] == {"step": 7, "clips": 56} and content["config"] == "SEED: 7\n"
    assert content["world_size"] == 1 and content["tensors"]["model/layer.2"]["size"] == [40, 27]


def test_tensors_come_to_where_those_of_the_run_are(manager):
    """As on a GPU: the tensors of the state lie as those that are given for them, and counts stay as they were."""
    manager.save(make_state(7), 7)
    into = {"model": {"layer.0": torch.empty(40, 25, device="meta")}, "optimizer": {"state": {0: torch.empty(40, 25)}}}
    with pytest.raises(CheckpointError, match="cannot be loaded"):  # nothing can be read into a tensor without content
        manager.load_latest(into)
    into["model"]["layer.0"] = torch.zeros(25, 40)  # of another shape: the trainer will say that it does not fit
    assert manager.load_latest(into)[0]["model"]["layer.0"].shape == (40, 25)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two tensors"):
        Snapshot.of({**make_state(1), "model": {"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)}})


# ----------------------------------------------------------------------------------------------------------- damage


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "__0_0.distcp").unlink(),
        lambda folder: (folder / "__0_0.distcp").write_bytes((folder / "__0_0.distcp").read_bytes()[:-1]),
        lambda folder: flip(folder / "__0_0.distcp", 5000),
        lambda folder: flip(folder / "values.pt", 500),
        lambda folder: (folder / "values.pt").unlink(),
        lambda folder: flip(folder / "manifest.json", 300),
        lambda folder: (folder / "manifest.json").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:200]),
        lambda folder: (folder / "manifest.json").write_text("[1, 2]"),
        lambda folder: (folder / "manifest.json").write_text('{"sha256": ""}'),
    ],
    ids=[
        "no part", "part cut", "bit of a part", "bit of the values", "no values", "bit of the manifest",
        "empty manifest", "manifest cut", "another JSON", "empty JSON",
    ],
)  # fmt: skip
def test_a_damaged_newest_folder_is_passed_over_and_nothing_good_is_deleted(manager, caplog, damage):
    manager.save(make_state(10), 10)
    manager.save(make_state(20), 20)
    damage(manager.path(20))
    with pytest.raises(DamagedCheckpoint):
        load_sharded(manager.path(20))
    assert find_checkpoint(manager.folder)[1] == manager.path(10) and manager.path(20).exists()

    state, path = manager.load_latest()
    assert path == manager.path(10) and state["progress"]["step"] == 10
    assert "using the one before it" in caplog.text
    assert names(manager.folder) == ["latest", "step_00000010", "step_00000020.damaged"]
    manager.save(make_state(20), 20)  # the run goes on, and comes to the same step again
    damage(manager.path(20))
    assert manager.load_latest()[1] == manager.path(10)  # a second damaged one takes the place of the first


def test_a_folder_without_manifest_is_none_and_removed_by_the_next_run(manager, caplog):
    caplog.set_level(logging.INFO)
    manager.save(make_state(10), 10)
    manager.save(make_state(20), 20)
    (manager.path(20) / "manifest.json").unlink()
    assert manager.latest() == manager.path(10) and find_checkpoint(manager.folder.parent)[1] == manager.path(10)
    with pytest.raises(DamagedCheckpoint, match="written last"):
        find_checkpoint(manager.path(20))
    ShardedCheckpoints(manager.folder)
    assert names(manager.folder) == ["latest", "step_00000010"] and "never finished" in caplog.text


def test_a_part_that_another_process_wrote_elsewhere_is_no_checkpoint(tmp_path, monkeypatch):
    """On machines that do not share the file system."""
    monkeypatch.setattr("diffmae_video.engine.manifest.file_size", lambda path: None)
    with pytest.raises(OSError, match="must be on a file system that all machines of the run share"):
        save_sharded(tmp_path / "step_00000001", Snapshot.of(make_state(1)), None)
    assert not (tmp_path / "step_00000001" / "manifest.json").exists()


def rewritten(folder, change):
    """A manifest that somebody has changed, with a checksum that fits."""
    from diffmae_video.engine import manifest

    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"]
    change(content)
    (folder / "manifest.json").write_text(json.dumps({"sha256": manifest._digest(content), **content}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["parts"].update({"../../other": [3, "0"]}), "parts that no checkpoint has"),
        (lambda content: content["tensors"]["model/layer.0"]["pieces"][0].__setitem__(2, "/etc/passwd"), "/etc/passwd"),
        (lambda content: content["tensors"]["model/layer.0"].update(size=[2**40, 2**20]), "more than its parts hold"),
        (lambda content: content["tensors"]["model/layer.0"].update(size=[25, 40]), "contradicts itself"),
        (lambda content: content["tensors"]["model/layer.0"].update(dtype="load"), "unknown type"),
        (lambda content: content["tensors"].pop("model/layer.0"), "does not belong"),
        (lambda content: content["parts"].pop("values.pt"), "values.pt"),
        (lambda content: content.pop("config"), "config"),
    ],
)
def test_a_manifest_cannot_point_elsewhere_or_ask_for_the_memory(manager, change, words):
    rewritten(manager.save(make_state(10), 10), change)
    with pytest.raises(DamagedCheckpoint, match=words):
        load_sharded(manager.path(10))


# --------------------------------------------------------------------------------------------- on several processes


def together(function, folder, size, *arguments, **keywords) -> list[int]:
    """Exit codes of ``size`` processes that call a function of saving_processes."""
    ranks = [
        run_in_process(function, str(folder), rank, size, *arguments, wait=False, file=FILE, **keywords)
        for rank in range(size)
    ]
    for process in ranks:
        finish(process)
    return [process.exitcode for process in ranks]


@pytest.mark.parametrize("background", [False, True])
def test_shards_of_two_processes_come_back_on_one_two_and_three(tmp_path, background):
    """Where rows do not divide evenly too, and where a process has none; in the background, as they were when saved."""
    assert together("save_rank", tmp_path, 2, background) == [0, 0]
    assert (tmp_path / "rank_0").read_text() == (tmp_path / "rank_1").read_text() == "True"
    parts = read_manifest(tmp_path / "checkpoints" / "step_00000005")["parts"]
    assert sorted(parts) == ["__0_0.distcp", "__1_0.distcp", "values.pt"]
    for size in (2, 3):
        assert together("load_rank", tmp_path, size) == [0] * size
        assert all((tmp_path / f"loaded_{size}_{rank}").exists() for rank in range(size))
    state, path = find_checkpoint(tmp_path)  # one process, without a group: whole tensors
    assert path.name == "step_00000005"
    for name in saving_processes.SIZES:
        assert torch.equal(state["model"][name], saving_processes.whole_tensor(name)), name
    moments = state["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], 2 * saving_processes.whole_tensor("rows")) and moments["step"] == 5


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_of_one_process_is_seen_by_all(tmp_path, background):
    checkpoints = ShardedCheckpoints(tmp_path / "checkpoints")
    checkpoints.save(make_state(3), 3)
    assert together("save_rank", tmp_path, 2, background, lost=1) == [0, 0]
    assert (tmp_path / "rank_0").read_text() == (tmp_path / "rank_1").read_text() == "False"
    assert names(checkpoints.folder) == ["latest", "step_00000003"] and checkpoints.load_latest() is not None


def test_a_run_goes_on_with_other_processes_wrappers_and_formats(tmp_path):
    """FSDP on two processes, stopped; one alone; FSDP in the background; a file: the same curve as a run of its own."""
    options = {"steps": 12, "failing": (5, 7)}
    torch.manual_seed(0)
    alone = make_trainer(tmp_path / "alone", model=FakeModel(dropout=0.0), ema_decay=0.9, **options)
    alone.run()
    run = tmp_path / "run"
    run.mkdir()
    assert together("train_sharded", run, 2, "first", 3, False, **options) == [143, 143]
    assert find_checkpoint(run)[1].name == "step_00000004"
    assert together("train_sharded", run, 1, "second", 3, False, **options) == [143]
    assert together("train_sharded", run, 2, "third", 2, True, **options) == [143, 143]
    assert find_checkpoint(run)[1].name == "step_00000010"
    last = make_trainer(run, model=FakeModel(dropout=0.0), ema_decay=0.9, **options)
    last.run()
    assert isinstance(last.checkpoints, CheckpointManager) and find_checkpoint(run)[1].name == "step_00000012.pt"
    for ours, theirs in zip(log_lines(run), log_lines(tmp_path / "alone"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = last.state_dict(), alone.state_dict()
    for entry in ("model", "ema"):
        for name, value in theirs[entry].items():
            assert torch.allclose(ours[entry][name], value, atol=1e-5), (entry, name)
    assert ours["progress"] == theirs["progress"] and ours["ema_updates"] == theirs["ema_updates"] == 12


# ------------------------------------------------------------------------------------------------- used, not resumed

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "sharded"])
def test_models_and_exports_come_from_either(tmp_path, kind):
    cfg = load_config([], [*TINY, "SEED", "3"])
    model = build_model(cfg).eval()
    averages = {name: value + 1 for name, value in model.state_dict().items()}
    state = {
        "format": 1,
        "model": model.state_dict(),
        "ema": averages,
        "optimizer": {},
        "config": dump(cfg),
        "progress": {"step": 5, "clips": 40},
    }
    manager = saving_processes.make_manager(tmp_path / "run" / "checkpoints", kind)
    manager.save(state, 5)
    for place in (tmp_path / "run", manager.path(5), manager.folder / "latest"):
        loaded = load_model(place)
        assert loaded.cfg.SEED == 3 and all(
            torch.equal(value, averages[name]) for name, value in loaded.state_dict().items()
        )
    (tmp_path / "exported").mkdir()
    write_parts(tmp_path / "exported", read_parts(tmp_path / "run"), "a model")
    exported, path = find_checkpoint(tmp_path / "exported")
    assert path.name == "model.safetensors" and exported["notes"]["step"] == "5"
    assert all(torch.equal(exported["model"][name], value) for name, value in averages.items())
