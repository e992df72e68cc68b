"""A checkpoint as a folder: every process writes its own part of the tensors, and reads what it needs of all parts.

For models that no single process should have to gather. ``torch.distributed.checkpoint`` divides the tensors (each
shard of a ``DTensor`` is written by a process that has it, other tensors by one of all) and puts them together again on
any number of processes. In the folder ``step_00000500``::

    __0_0.distcp, __1_0.distcp, ...    tensors of ``model``, ``optimizer`` and ``ema``, from process 0, 1, ...
    values.pt                          all the rest, with tensors without content where those belong
    manifest.json                      what the parts are, with their checksums, and where in them every tensor is

The manifest is written last, by the first process: a folder without one is not a checkpoint. It stands in place of the
pickle in which ``torch.distributed.checkpoint`` would keep where the tensors are: nothing of such a folder is ever
unpickled.
"""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from diffmae_video.engine.disk import NO_SPACE, HashedFile, sync_folder
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint, one_line
from diffmae_video.engine.manifest import (
    SHOWN,
    VALUES,
    check_parts,
    dtype_of,
    read_manifest,
    size_and_sum,
    write_manifest,
)
from diffmae_video.zip_files import compressed_entry

SHARDED = ("model", "optimizer", "ema")  # entries of a state whose tensors are divided
SUMS = "checksums"  # name under which every process hands its own to the first one

# A process alone saves as one: torch need not warn. (Not where it is called: in a thread that would change the filters
# of the others.)
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

Keys = tuple[Any, ...]  # that lead to a value in nested dictionaries, lists and tuples


class Snapshot(NamedTuple):
    """A state, ready to be written."""

    tensors: dict[str, torch.Tensor]  # by name, of this process; DTensors among them
    values: bytes  # what values.pt will be
    shown: dict[str, Any]  # entries ``SHOWN``

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Snapshot:
        """Of a checkpoint's dictionary; the tensors are the same, not copies.

        Every process has the same keys, and the same values outside of ``SHARDED``, of which the first one's are kept.
        """
        tensors: dict[str, torch.Tensor] = {}

        def take(path: Keys, tensor: torch.Tensor) -> torch.Tensor:
            if path[0] not in SHARDED:
                return tensor
            if tensors.setdefault(_name(path), tensor) is not tensor:
                raise ValueError(f"two tensors of the state would have the name {_name(path)}")
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        values = io.BytesIO()
        torch.save(_replaced({key: state[key] for key in state if key not in SHOWN}, take), values)
        return cls(tensors, values.getvalue(), copy.deepcopy({key: state[key] for key in SHOWN}))


# ------------------------------------------------------------------------------------------------------------ writing


def save_sharded(folder: Path, snapshot: Snapshot, group: torch.distributed.ProcessGroup | None) -> None:
    """Writes a checkpoint folder; all processes of ``group`` call this. It is complete when this returns.

    Args:
        folder: made if it is not there; on a file system that all of them share.
        snapshot: of this process's state.
        group: of processes, with a backend for the CPU; None = this process alone.

    Raises:
        OSError: a part cannot be written, on whichever process; errno ENOSPC or EDQUOT when there is no room.
        CheckpointError: another failure of one of the processes.
    """
    try:
        writer = _Writer(folder, snapshot)
        dcp.save(snapshot.tensors, storage_writer=writer, process_group=group, no_dist=group is None)
    except dcp.CheckpointException as failure:
        raise _reason(failure) from failure


def _reason(failure: dcp.CheckpointException) -> Exception:
    """What went wrong, of all that the processes report: a full disk first."""
    errors = [(rank, error) for rank, (error, _) in sorted(failure.failures.items())]
    for _, error in errors:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return error
    rank, error = errors[0]
    if isinstance(error, OSError):
        return error
    return CheckpointError(f"rank {rank} could not write its part of the checkpoint: {one_line(error)}")


class _Files(FileSystem):
    """The file system of a writer; ``sums`` has [size, checksum] of every file that was written, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Any]] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[HashedFile]:
        with HashedFile(Path(path)) as file:
            yield file
            self.sums[Path(path).name] = [file.size, file.checksum()]


class _Writer(dcp.FileSystemWriter):
    """Torch's writer, with checksums, and with our manifest in place of its pickle."""

    def __init__(self, folder: Path, snapshot: Snapshot):
        super().__init__(folder, sync_files=True)
        self.folder, self.snapshot, self.fs = folder, snapshot, _Files()

    def storage_meta(self) -> None:
        """Nothing: torch would note the folder's path."""

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Future[list[WriteResult]]:
        """Of every process: writes its part, reads it again, and adds its checksum to what goes to the first one."""
        self.folder.mkdir(parents=True, exist_ok=True)  # the first process may have removed an earlier one since
        results = super().write_data(plan, planner).wait()
        sync_folder(self.folder)
        for name, expected in self.fs.sums.items():
            if size_and_sum(self.folder / name) != expected:
                raise OSError(f"{self.folder / name} does not hold what was just written to it: is the disk failing?")
        done: Future[list[WriteResult]] = Future()
        done.set_result([*results, WriteResult(MetadataIndex(SUMS), 0, dict(self.fs.sums))])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Of the first process, when all have written: the values, then the manifest."""
        parts: dict[str, list[Any]] = {}
        places: dict[MetadataIndex, Any] = {}
        for result in itertools.chain(*results):
            if result.index.fqn == SUMS:
                parts |= result.storage_data
            else:
                places[result.index] = result.storage_data
        with self.fs.create_stream(self.folder / VALUES, "wb") as file:
            file.write(self.snapshot.values)
            os.fsync(file.fileno())
        parts[VALUES] = self.fs.sums[VALUES]
        tensors = {name: _describe(name, info, places) for name, info in metadata.state_dict_metadata.items()}
        write_manifest(
            self.folder, {"world_size": len(results), **self.snapshot.shown, "parts": parts, "tensors": tensors}
        )


def _describe(name: str, info: TensorStorageMetadata, places: Mapping[MetadataIndex, Any]) -> dict[str, Any]:
    """The entry of a tensor; ``places`` has something like a :class:`Place` for each of its pieces."""
    pieces = []
    for chunk in info.chunks:
        place = places[MetadataIndex(name, chunk.offsets)]
        pieces.append([list(chunk.offsets), list(chunk.sizes), place.relative_path, place.offset, place.length])
    return {"dtype": str(info.properties.dtype).split(".")[-1], "size": list(info.size), "pieces": pieces}


# ------------------------------------------------------------------------------------------------------------ reading


def load_sharded(folder: Path, into: Mapping[str, Any] | None = None, check: bool = True) -> dict[str, Any]:
    """Reads a checkpoint folder, each process what it needs.

    Args:
        folder: with a manifest.
        into: tensors, nested as in a state, that say how those of the state lie: one that is found on the way to a
            tensor of the state, and has its shape, gives it device and sharding. Without one, a tensor comes whole and
            on the CPU.
        check: compare every part with its checksum first; one process of several is enough.

    Raises:
        DamagedCheckpoint: no manifest, or a part is missing, incomplete, or not what was written.
        CheckpointError: whole, but it cannot be read.
    """
    manifest = read_manifest(folder)
    if check:
        check_parts(folder, manifest["parts"])
    if compressed_entry(folder / VALUES):
        raise DamagedCheckpoint(f"{folder / VALUES} is compressed: no checkpoint is")
    try:
        values = torch.load(folder / VALUES, map_location="cpu", weights_only=True)
        tensors: dict[str, torch.Tensor] = {}

        def make(path: Keys, tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_meta:
                return tensor
            info, name = manifest["tensors"][_name(path)], _name(path)
            if list(tensor.shape) != info["size"] or str(tensor.dtype) != f"torch.{info['dtype']}":
                raise DamagedCheckpoint(f"{folder} contradicts itself: {name} is not what its manifest says")
            tensors[name] = _room_for(tensor, _found(into, path))
            return tensors[name]

        state = _replaced(values, make)
        dcp.load(tensors, storage_reader=_Reader(folder, manifest["tensors"]), no_dist=True)
    except (pickle.UnpicklingError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder / VALUES} does not belong to the folder's manifest: {error}") from error
    except (dcp.CheckpointException, RuntimeError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} cannot be loaded: {one_line(error)}") from error
    return {**state, **{key: manifest[key] for key in SHOWN}}


class _Reader(dcp.FileSystemReader):
    """Torch's reader, with what the manifest says of the tensors in place of its pickle."""

    def __init__(self, folder: Path, tensors: Mapping[str, Any]):
        super().__init__(folder)
        self.tensors = tensors

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return _metadata(self.tensors, self.load_id)


class Place(NamedTuple):
    """Where in the parts a piece of a tensor is; the names are those that torch's reader asks for."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


def _metadata(tensors: Mapping[str, Any], load_id: str) -> Metadata:
    """What torch's reader wants to know: the inverse of :func:`_describe`."""
    found: dict[str, TensorStorageMetadata] = {}
    places: dict[MetadataIndex, Place] = {}
    for name, info in tensors.items():
        chunks = [ChunkStorageMetadata(torch.Size(piece[0]), torch.Size(piece[1])) for piece in info["pieces"]]
        found[name] = TensorStorageMetadata(TensorProperties(dtype_of(info)), torch.Size(info["size"]), chunks)
        for piece in info["pieces"]:
            places[MetadataIndex(name, piece[0])] = Place(*piece[2:])
    return Metadata(found, storage_data=places, storage_meta=StorageMeta(load_id=load_id))


def _room_for(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """An empty tensor of the shape and type of ``tensor``, which lies as ``like`` does."""
    if like is None or like.shape != tensor.shape:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    return torch.empty_like(like.detach(), dtype=tensor.dtype)


def _found(into: Any, path: Keys) -> torch.Tensor | None:
    """The first tensor of ``into`` on a path."""
    for key in path:
        if isinstance(into, torch.Tensor):
            break
        into = into.get(key) if isinstance(into, Mapping) else None
    return into if isinstance(into, torch.Tensor) else None


# ------------------------------------------------------------------------------------------------------------- helpers


def _name(path: Keys) -> str:
    return "/".join(map(str, path))


def _replaced(value: Any, change: Callable[[Keys, torch.Tensor], Any], path: Keys = ()) -> Any:
    """``value`` with new dictionaries, lists and tuples, and with ``change(path, tensor)`` in place of every tensor."""
    if isinstance(value, torch.Tensor):
        return change(path, value)
    if isinstance(value, dict):
        return {key: _replaced(entry, change, (*path, key)) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(entry, change, (*path, index)) for index, entry in enumerate(value))
    return value
