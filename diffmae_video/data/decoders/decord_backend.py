"""Frames through decord: for files whose packets are their frames (``VideoIndex.decord_problem`` is empty)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffmae_video.data import watchdog
from diffmae_video.data.decoders.common import UnreadableVideo, scaled_size
from diffmae_video.data.decoders.index import VideoIndex
from diffmae_video.data.packed import media_source

if TYPE_CHECKING:
    import decord

# decord repeats a neighbour in place of a frame that it cannot decode, unless told that not even one may be: the
# share of the frames above which it raises instead.
FAULT_TOLERANCE = 1e-9


def import_decord():  # noqa: ANN201 - the module itself
    """decord, quiet; ImportError naming the package where it is missing."""
    try:
        import decord
    except ImportError as error:
        raise ImportError('decoder "decord" is not installed: pip install decord, or use "auto"') from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read(path: str, wanted: Sequence[int], index: VideoIndex, short_side: int | None) -> np.ndarray:
    """Frames ``wanted`` (ascending, no repeats, inside the video): uint8 (len(wanted), H, W, 3).

    Raises:
        UnreadableVideo: decord does not open the file, counts other frames than the index, or fails to decode.
        ImportError: decord is not installed.
    """
    decord = import_decord()
    from decord._ffi.base import DECORDLimitReachedError

    width, height = scaled_size(index.width, index.height, short_side)
    try:
        # num_threads=1: with the default of 0 decord fails on every VP9 file.
        reader = decord.VideoReader(
            media_source(path), ctx=decord.cpu(0), width=width, height=height, num_threads=1, fault_tol=FAULT_TOLERANCE
        )
        if len(reader) != index.frames:
            raise UnreadableVideo(path, f"decord counts {len(reader)} frames instead of {index.frames}")
        return _copied(reader.get_batch(list(wanted)))
    # RuntimeError and AssertionError are what its constructor raises.
    except (decord.DECORDError, DECORDLimitReachedError, RuntimeError, AssertionError) as error:
        if isinstance(error, UnreadableVideo):
            raise
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error


class _Capsule:
    """decord's array in the form that numpy takes without a copy."""

    def __init__(self, array: decord.nd.NDArray) -> None:
        self._array = array

    def __dlpack__(self, **_: object) -> object:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


def _copied(array: decord.nd.NDArray) -> np.ndarray:
    """The frames in memory that outlives decord's reader, which takes its own back."""
    out = watchdog.empty(tuple(array.shape))
    np.copyto(out, np.from_dlpack(_Capsule(array)))
    return out
