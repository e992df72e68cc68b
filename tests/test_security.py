"""What comes from outside - weights, configurations, shards, masks - runs no code, stays in its folder, fits in memory;
and nothing listens to other machines."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.clip_features import load_clip_teacher
from diffmae_video.config import ConfigError, dump, from_yaml, load_config
from diffmae_video.conversion import ConversionError, read_weights
from diffmae_video.data import UnreadableVideo, read_frames
from diffmae_video.data.packed import packed_path
from diffmae_video.engine import find_checkpoint, load_checkpoint, load_weights
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint
from diffmae_video.engine.manifest import MANIFEST, VALUES, read_manifest, size_and_sum, write_manifest
from diffmae_video.engine.monitor import Monitor
from diffmae_video.engine.sharded import Snapshot, save_sharded
from diffmae_video.mask_input import folder_mask, read_mask_picture
from diffmae_video.models.tokenizer_vae import load_vae
from diffmae_video.perceptual import load_lpips

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


CLIP_CONFIG = {
    "model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"], "hidden_size": 32, "image_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8,
}  # fmt: skip


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def mark(tmp_path) -> Iterator[Path]:
    """What an attack would make."""
    yield tmp_path / "attacked"
    assert not (tmp_path / "attacked").exists(), "code from a file was run"


def state(config: str = "SEED: 0\n", **more: object) -> dict:
    progress = {"step": 1, "clips": 8}
    return {
        "format": 1,
        "model": {"w": torch.ones(4, 4)},
        "optimizer": {},
        "progress": progress,
        "config": config,
        **more,
    }


# ----------------------------------------------------------------------------------------------------------- weights


def torch_saved(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def old_torch_saved(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def pickled(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


def test_the_attack_works_where_nobody_guards(tmp_path):
    """Else the tests below would prove nothing."""
    torch.load(torch_saved(tmp_path / "a.pt", Attack(tmp_path / "works")), weights_only=False)
    assert (tmp_path / "works").is_dir()


@pytest.mark.parametrize("written", [torch_saved, old_torch_saved, pickled])
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("step_00000001.pt", load_checkpoint),
        ("step_00000001.pt", find_checkpoint),
        ("step_00000001.pt", load_model),
        ("checkpoints/step_00000001.pt", lambda path: find_checkpoint(path.parents[1])),
        ("checkpoints/step_00000001.pt", lambda path: load_model(path.parent)),
        ("checkpoints/step_00000001.pt", lambda path: CheckpointManager(path.parent).load_latest()),
        ("model.safetensors", load_weights),
        ("model.safetensors", lambda path: load_model(path.parent)),
        ("weights.pth", read_weights),
        ("weights.safetensors", read_weights),
        ("pytorch_model.bin", lambda path: read_weights(path.parent)),
        ("alexnet.pth", lambda path: load_lpips(path, path)),
        ("alexnet.safetensors", lambda path: load_lpips(path, path)),
    ],
)
def test_weights_run_no_code(tmp_path, mark, written, name, load):
    path = written(tmp_path / "files" / name, state(extra=Attack(mark)))
    with pytest.raises((CheckpointError, ConversionError, ValueError)):
        load(path)


@pytest.mark.parametrize("written", [torch_saved, pickled])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_folders_of_clip_run_no_code(tmp_path, mark, written, name):
    pytest.importorskip("transformers")
    written(tmp_path / "clip" / name, {"vision_model.w": torch.ones(1), "extra": Attack(mark)})
    (tmp_path / "clip" / "config.json").write_text(json.dumps(CLIP_CONFIG))
    with pytest.raises((FileNotFoundError, ValueError), match="pickle|not a whole safetensors"):
        load_clip_teacher(tmp_path / "clip", (2, 8, 8))


@pytest.mark.parametrize("written", [torch_saved, pickled])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_folders_of_a_vae_run_no_code(tmp_path, mark, written, suffix):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    diffusers.AutoencoderKL(**blocks, block_out_channels=[32]).save_config(tmp_path / "vae")
    written(tmp_path / "vae" / f"diffusion_pytorch_model.{suffix}", {"w": torch.ones(1), "extra": Attack(mark)})
    with pytest.raises(ValueError, match="cannot be read"):
        load_vae(tmp_path / "vae")


def test_an_index_of_weights_names_files_of_its_folder_alone(tmp_path):
    pytest.importorskip("transformers")
    torch_saved(tmp_path / "secret.bin", {"w": torch.ones(1)})
    (tmp_path / "model").mkdir()
    for part in ("../secret.bin", str(tmp_path / "secret.bin")):
        for index in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
            (tmp_path / "model" / index).write_text(json.dumps({"weight_map": {"w": part}}))
        with pytest.raises(ConversionError, match=r"secret.bin, which is no file of this folder"):
            read_weights(tmp_path / "model")
        (tmp_path / "model" / "config.json").write_text(json.dumps(CLIP_CONFIG))
        with pytest.raises(ValueError, match=r"secret.bin, which is no file of this folder"):
            load_clip_teacher(tmp_path / "model", (2, 8, 8))


def test_features_in_npz_run_no_code(tmp_path, mark):
    """tools/extract_features.py reads its own files to go on."""
    spec = importlib.util.spec_from_file_location("feature_files", ROOT / "tools" / "feature_files.py")
    feature_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(feature_files)
    np.savez(tmp_path / "f.npz", features=np.array([Attack(mark)], dtype=object), metadata=np.array("{}"))
    with pytest.raises(ValueError):
        feature_files.read_features(tmp_path / "f.npz", ["features"])


# -------------------------------------------------------------------------------------------- checkpoints as folders


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint folder."""
    save_sharded(tmp_path / "step_00000001", Snapshot.of(state(rng=torch.zeros(3))), None)
    return tmp_path / "step_00000001"


def sign(folder: Path) -> None:
    """Makes the checksums right again, as an attacker would."""
    content = read_manifest(folder)
    del content["parts"]
    content["parts"] = {path.name: size_and_sum(path) for path in folder.iterdir() if path.name != MANIFEST}
    write_manifest(folder, content)


def test_a_pickle_that_torch_would_read_is_never_touched(folder, mark):
    """``.metadata`` is where torch.distributed.checkpoint keeps, as a pickle, what our manifest has."""
    pickled(folder / ".metadata", Attack(mark))
    assert torch.equal(find_checkpoint(folder)[0]["model"]["w"], torch.ones(4, 4))


@pytest.mark.parametrize("written", [torch_saved, old_torch_saved, pickled])
def test_the_values_of_a_folder_run_no_code(folder, mark, written):
    written(folder / VALUES, {"model": {"w": torch.empty(4, 4, device="meta")}, "extra": Attack(mark)})
    sign(folder)
    with pytest.raises(CheckpointError):
        load_model(folder)


@pytest.mark.parametrize("written", [torch_saved, old_torch_saved, pickled])
def test_the_parts_of_a_folder_run_no_code(folder, mark, written):
    part = written(folder / "__0_0.distcp", [torch.ones(4, 4), Attack(mark)])
    content = read_manifest(folder)
    content["tensors"]["model/w"]["pieces"] = [[[0, 0], [4, 4], part.name, 0, part.stat().st_size]]
    write_manifest(folder, content | {"parts": {part.name: size_and_sum(part), VALUES: size_and_sum(folder / VALUES)}})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        find_checkpoint(folder)


def test_bytes_in_a_folder_are_never_unpickled(folder, mark):
    """Torch's reader unpickles what the metadata calls bytes; a manifest has nothing but tensors."""
    content = read_manifest(folder)
    content["tensors"]["model/w"] = {"type": "bytes", "pieces": []}
    with pytest.raises(DamagedCheckpoint):
        write_manifest(folder, content)
        find_checkpoint(folder)


def test_a_deeply_nested_manifest_is_damage(folder):
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(DamagedCheckpoint):
        find_checkpoint(folder)


# ------------------------------------------------------------------------------------------------------------ YAML

TAGS = ["!!python/object/apply:os.mkdir [{0}]", "!!python/object/new:os.mkdir [{0}]", "!!python/name:os.mkdir ''"]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_runs_no_code_wherever_it_is_read(tmp_path, mark, tag):
    value = tag.format(mark)
    (tmp_path / "base.yaml").write_text(f"SEED: {value}\n")
    (tmp_path / "derived.yaml").write_text("_BASE_: base.yaml\nTASK: pretrain\n")
    (tmp_path / "top.yaml").write_text(f"{value}\n")
    attempts: dict[str, Callable[[], object]] = {
        "file": lambda: load_config([tmp_path / "base.yaml"]),
        "base": lambda: load_config([tmp_path / "derived.yaml"]),
        "whole file": lambda: load_config([tmp_path / "top.yaml"]),
        "override": lambda: load_config([], ["SEED", value]),
        "list": lambda: load_config([], ["MODEL.PATCH_SIZE", f"[2, 8, {value}]"]),
        "base entry": lambda: load_config([written(tmp_path / "entry.yaml", f"_BASE_: {value}\n")]),
        "text": lambda: from_yaml(f"SEED: {value}\n"),
        "checkpoint": lambda: load_model(torch_saved(tmp_path / "c.pt", state(f"SEED: {value}\n"))),
    }
    for name, attempt in attempts.items():
        with pytest.raises(ConfigError):
            print(name, attempt())


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_that_refers_to_itself_over_and_over_is_refused(tmp_path):
    """Nine levels of nine references each: 9^9 values, were they all put together."""
    levels = ["a0: &a0 [1, 1]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError):
        load_config([written(tmp_path / "laughs.yaml", "\n".join([*levels, "MODEL: {PATCH_SIZE: *a9}\n"]))])


# -------------------------------------------------------------------------------------------- shards, masks, pictures


def test_shards_and_their_index_stay_in_their_folder(tmp_path, images):
    """Members are read where they lie: names and links lead nowhere. (tests/data/test_shards.py has the rest.)"""
    content = images["png"].read_bytes()
    shard = tmp_path / "set" / "a.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name in ("../../outside.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "/etc/passwd")):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, target
            tar.addfile(link)
    from diffmae_video.data import read_manifest as read_list

    entries = read_list(shard.parent)
    assert len(entries) == 2 and all(entry.path.startswith(f"{shard}@") for entry in entries)
    assert all(".." not in entry.path for entry in entries)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"a.tar", "index.scanned.json"} | {
        path.name for path in shard.parent.iterdir()
    }

    other = tmp_path / "secret.tar"
    other.write_bytes(shard.read_bytes())
    columns = {"key": ["x"], "ext": ["png"], "offset": [512], "bytes": [len(content)], "label": [0]}
    for name in ("../secret.tar", str(other)):
        entry = {"name": name, "size": other.stat().st_size, "modified": 0, **columns}
        index = {"kind": "tar shards", "format": 1, "shards": [entry]}
        (shard.parent / "index.json").write_text(json.dumps(index))
        with pytest.raises((FileNotFoundError, ValueError)):
            read_list(shard.parent)


def test_a_packed_file_that_claims_to_be_huge_is_not_made_room_for(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with pytest.raises(UnreadableVideo, match="truncated"):
        read_frames(packed_path(tmp_path / "a.tar", 512, 2**50, "x.mp4"), [0])


def test_a_mask_folder_gives_pictures_alone(tmp_path):
    """Links are followed (a folder is its owner's); what they lead to is taken as a picture, or not at all."""
    folder = tmp_path / "masks"
    folder.mkdir()
    secret = written(tmp_path / "secret.txt", "the password is 1234\n")
    (folder / "0.png").symlink_to(secret)
    (folder / "1.txt").symlink_to(secret)  # not even looked at
    with pytest.raises(ValueError) as error:
        folder_mask(folder, (1, 8, 8), [0], 1)
    assert "1234" not in str(error.value)
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="holds no pictures"):  # a device, and a picture without an end
        folder_mask(folder, (1, 8, 8), [0], 1)


def picture_bomb(path: Path, side: int = 30_000) -> Path:
    """A PNG of side x side black pixels in about 110 KiB."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(side)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_pictures_that_unpack_to_more_than_the_memory_are_refused(tmp_path):
    bomb = picture_bomb(tmp_path / "bomb.png")
    assert bomb.stat().st_size < 2**20 and Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableVideo, match="DecompressionBomb"):
        read_frames(bomb, [0])
    with pytest.raises(ValueError):
        read_mask_picture(bomb, 64, 64)


def compressed(path: Path, content: object) -> Path:
    """What torch.save writes, with its entries compressed: torch.load would unpack them."""
    plain = io.BytesIO()
    torch.save(content, plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return path


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("step_00000001.pt", load_checkpoint),
        ("weights.pth", read_weights),
        ("alexnet.pth", lambda path: load_lpips(path, path)),
    ],
)
def test_weights_that_unpack_to_more_than_they_are_are_refused(tmp_path, name, load):
    path = compressed(tmp_path / name, state(model={"w": torch.zeros(2**20)}))
    assert path.stat().st_size < 2**16
    assert torch.load(path, weights_only=True)["model"]["w"].shape == (2**20,)  # as said: it would
    with pytest.raises((CheckpointError, ConversionError, ValueError), match="compressed"):
        load(path)


def test_values_of_a_folder_that_unpack_to_more_than_they_are_are_refused(folder):
    compressed(folder / VALUES, {"model": {"w": torch.empty(4, 4, device="meta")}, "big": torch.zeros(2**20)})
    sign(folder)
    with pytest.raises(CheckpointError, match="compressed"):
        find_checkpoint(folder)


# --------------------------------------------------------------------------------------------------------- listening


def listening(pid: int | str = "self") -> set[str]:
    """Addresses, in hexadecimal as /proc has them, at which a process accepts connections."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except FileNotFoundError:  # that of this listing itself
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
linux = pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="reads what Linux says of its sockets")


@linux
def test_what_listens_is_seen():
    with socket.create_server(("0.0.0.0", 0)), socket.create_server(("127.0.0.1", 0)):
        assert listening() >= {"00000000", "0100007F"}


PROCESS = """
import sys; sys.path.insert(0, sys.argv[2])
import torch, importlib.util
spec = importlib.util.spec_from_file_location("test_security", sys.argv[1])
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
from diffmae_video.engine.world import joined, world_from_environment
world = world_from_environment()
with joined(world, torch.device("cpu"), 60):
    torch.distributed.all_reduce(torch.ones(1))
    places = module.listening() | module.listening(module.os.getppid())
    module.Path(sys.argv[3], str(world.rank)).write_text(" ".join(sorted(places)))
    torch.distributed.barrier()
"""


@linux
def test_processes_of_one_machine_listen_to_themselves_alone(tmp_path):
    """Those that NUM_GPUS starts, and the launcher with the store where they meet."""
    from diffmae_video.engine.launch import launch

    command = [sys.executable, "-c", PROCESS, __file__, str(ROOT), str(tmp_path)]
    assert launch(command, 2) == 0
    for rank in range(2):
        places = (tmp_path / str(rank)).read_text().split()
        assert places and set(places) <= LOOPBACK, places


@linux
def test_tensorboard_files_are_written_without_a_server(tmp_path):
    pytest.importorskip("tensorboard")
    before = listening()
    monitor = Monitor(tmp_path, 8, 8, 1, True, terminal=False)
    monitor.open(0, 0)
    assert list((tmp_path / "tensorboard").iterdir()) and listening() == before
    monitor.close()


def test_the_page_listens_to_this_machine_alone():
    help_text = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "serve_demo.py"), "--help"], capture_output=True, text=True, timeout=120
    ).stdout
    assert "default 127.0.0.1: this machine alone" in " ".join(help_text.split())
    tree = ast.parse((ROOT / "tools" / "serve_demo.py").read_text())
    options = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and arguments(node)[:1] == ["--host"]]
    assert [keywords(node)["default"] for node in options] == ["127.0.0.1"]
    shared = [
        keywords(node)["share"] for node in ast.walk(tree) if isinstance(node, ast.Call) and "share" in keywords(node)
    ]
    assert shared == [False]


# ----------------------------------------------------------------------------------------------- every line of source


def arguments(call: ast.Call) -> list[object]:
    return [node.value if isinstance(node, ast.Constant) else None for node in call.args]


def keywords(call: ast.Call) -> dict[str | None, object]:
    """Of a call: constants by name, the source text of what is none."""
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    return {name: v.value if isinstance(v, ast.Constant) else ast.unparse(v) for name, v in values.items()}


OWN_PIPES = {"diffmae_video/data/watchdog.py"}  # between two processes of one run


def objection(file: str, call: ast.Call) -> str:
    """Why a call has no place in this repository; "" where it has."""
    name, given = ast.unparse(call.func), keywords(call)
    if name == "torch.load" and given.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if name.startswith("yaml.") and name.split(".")[1] in ("load", "load_all", "full_load", "unsafe_load"):
        return "YAML that is not safe"
    if name in ("yaml.compose", "yaml.parse") and given.get("Loader") != "yaml.SafeLoader":
        return "YAML without the safe loader"
    if name in ("pickle.load", "pickle.loads", "pickle.Unpickler") and file not in OWN_PIPES:
        return "a pickle"
    if name.endswith("np.load") and given.get("allow_pickle", False) is not False:
        return "NumPy's pickles"
    if name.split(".")[-1] in ("extractall", "unpack_archive"):
        return "unpacking of an archive"
    if name in ("eval", "exec", "os.system", "os.popen") or given.get("shell", False) is not False:
        return "text that is run"
    return ""


def test_nothing_in_the_repository_loads_unsafely():
    files = [path for top in ("diffmae_video", "tools", "datasets", "slurm") for path in (ROOT / top).rglob("*.py")]
    assert len(files) > 100
    found = []
    for path in files:
        file = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (reason := objection(file, node)):
                found.append(f"{file}:{node.lineno}: {reason}")
    assert not found, "\n".join(found)


def test_a_whole_checkpoint_of_ours_passes_all_these_guards(tmp_path):
    cfg = load_config([], TINY)
    model = build_model(cfg)
    for name in ("a.pt", "checkpoints/step_00000001.pt"):
        torch_saved(tmp_path / name, {**state(dump(cfg)), "model": model.state_dict()})
        assert load_model(tmp_path / name).cfg == cfg
