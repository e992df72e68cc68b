"""Clips of videos and images: one class for every manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from diffmae_video.data.decoding import BACKENDS, UnreadableVideo, is_image, read_frames, video_info
from diffmae_video.data.manifest import Entry
from diffmae_video.data.sampling import SAMPLINGS, frame_indices
from diffmae_video.data.seeding import generator_from
from diffmae_video.data.transforms import center_crop, random_resized_crop_flip

# Videos tried for one draw. At one unreadable video in two, far beyond what a run tolerates, this fails once in 10^6.
MAX_TRIES = 20


class ClipSample(NamedTuple):
    """What one draw gives."""

    clips: torch.Tensor  # uint8 (R, C, T, S, S): R clips of one video
    label: int
    draw: int
    path: str  # the video that was read: another one than drawn, if that was unreadable
    failures: tuple[tuple[str, str], ...]  # (path, message) of every unreadable video met


class ClipDataset(Dataset):
    """Fixed-size uint8 clips, indexed by (draw, index).

    ``draw`` counts all draws of a run from 0 and determines, with the seed, everything random about the clip;
    ``index`` says which video. An image is a video of one frame: it fills a clip of T > 1 by repeating.

    In training a video that cannot be read is recorded in the sample's ``failures`` and replaced by another one,
    chosen from (seed, draw, try). In evaluation nothing is random and nothing replaced.

    Args:
        entries: what ``read_manifest`` returns.
        num_frames: T.
        sampling_rate: distance between two frames of a clip, in frames of the video; not used by "segment".
        crop_size: S, height and width of a clip in pixels.
        crop_scale: training: (smallest, largest) share of the frame's area that a crop keeps.
        crop_aspect: training: (smallest, largest) width / height of a crop.
        horizontal_flip: training: mirror half of the clips.
        repeats: training: R clips per draw, their frames read in one pass.
        train: random clip and crop; otherwise the centred clip and the central square.
        decoder: "auto", "decord", "torchcodec" or "pyav", as for ``read_frames``.
        decode_short_side: shorter side (pixels) to which frames are scaled while decoding; 0 = full size.
        seed: >= 0.
        sampling: "dense" (frames ``sampling_rate`` apart) or "segment" (one frame out of each of T equal parts).
        test_clips: evaluation: R clips, spread over the video; training takes ``repeats``.
        decode_timeout: seconds after which decoding is cut off and the video counts as unreadable; 0 = never.
        transform: training: what makes a clip uint8 (C, T, S, S) of frames uint8 (T, H, W, C), with all randomness from
            the generator passed, in place of crop and flip (see ``data.pipelines``); called once per repeat.

    Raises:
        ValueError: no entries, or an argument out of its range.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        num_frames: int,
        sampling_rate: int,
        crop_size: int,
        crop_scale: Sequence[float] = (0.5, 1.0),
        crop_aspect: Sequence[float] = (0.75, 4 / 3),
        horizontal_flip: bool = True,
        repeats: int = 1,
        train: bool = True,
        decoder: str = "auto",
        decode_short_side: int = 0,
        seed: int = 0,
        sampling: str = "dense",
        test_clips: int = 1,
        decode_timeout: float = 0,
        transform: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    ) -> None:
        if not entries:
            raise ValueError("a dataset needs at least one video")
        if min(num_frames, sampling_rate, crop_size, repeats, test_clips) < 1:
            raise ValueError("num_frames, sampling_rate, crop_size, repeats and test_clips must be at least 1")
        if sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling {sampling!r}; choose one of {', '.join(SAMPLINGS)}")
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must satisfy 0 < smallest <= largest <= 1, got {tuple(crop_scale)}")
        if not 0 < crop_aspect[0] <= crop_aspect[1]:
            raise ValueError(f"crop_aspect must satisfy 0 < smallest <= largest, got {tuple(crop_aspect)}")
        if transform is not None and not train:
            raise ValueError("a transform is for training; evaluation shows the centred clip as it is")
        if decoder not in BACKENDS:
            raise ValueError(f"unknown decoder {decoder!r}; choose one of {', '.join(BACKENDS)}")
        # Two arrays instead of Python objects: forked workers then share their memory (touching an object's
        # reference count copies its page).
        self._paths = np.array([os.fsencode(entry.path) for entry in entries])
        self._labels = np.array([entry.label for entry in entries], np.int64)
        self.num_frames = num_frames
        self.sampling_rate = sampling_rate
        self.crop_size = crop_size
        self.crop_scale = tuple(crop_scale)
        self.crop_aspect = tuple(crop_aspect)
        self.horizontal_flip = horizontal_flip
        self.repeats = repeats if train else test_clips
        self.sampling = sampling
        self.train = train
        self.decoder = decoder
        self.decode_short_side = decode_short_side
        self.decode_timeout = decode_timeout
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._paths)

    def entry(self, index: int) -> Entry:
        """Path and label of a video."""
        return Entry(os.fsdecode(self._paths[index]), int(self._labels[index]))

    def __getitem__(self, draw_and_index: tuple[int, int]) -> ClipSample:
        """The clips of one draw.

        Raises:
            UnreadableVideo: evaluation: the video cannot be read or is missing; training: so are all of its
                ``MAX_TRIES`` replacements.
            ImportError: the decoder is not installed.
        """
        draw, index = draw_and_index
        failures: list[tuple[str, str]] = []
        for attempt in range(MAX_TRIES if self.train else 1):
            if attempt > 0:
                index = int(torch.randint(len(self), (), generator=generator_from(self.seed, draw, attempt)))
            path, label = self.entry(index)
            try:
                clips = self._clips(path, draw, attempt)
            except (UnreadableVideo, FileNotFoundError) as error:
                failures.append((path, str(error)))
                continue
            return ClipSample(clips, label, draw, path, tuple(failures))
        path, message = failures[-1]
        if self.train:
            message = f"{MAX_TRIES} videos in a row could not be read; the last one: {message}"
        raise UnreadableVideo(path, message.removeprefix(f"{path}: "))

    def _clips(self, path: str, draw: int, attempt: int) -> torch.Tensor:
        """uint8 (R, C, T, S, S); the frames that several clips share are decoded once."""
        length = 1 if is_image(path) else video_info(path, self.decoder, self.decode_timeout).frames
        generators = [generator_from(self.seed, draw, attempt, repeat) for repeat in range(self.repeats)]
        numbers = [
            frame_indices(
                self.sampling,
                length,
                self.num_frames,
                self.sampling_rate,
                generator if self.train else None,
                clip=0 if self.train else repeat,
                clips=1 if self.train else self.repeats,
            )
            for repeat, generator in enumerate(generators)
        ]
        needed = np.unique(np.concatenate(numbers))
        frames = read_frames(path, needed, self.decoder, self.decode_short_side, self.decode_timeout)
        frames = torch.from_numpy(frames)
        clips = [
            # index_select copies whole frames; frames[...] does the same ten times slower
            self._augment(frames.index_select(0, torch.from_numpy(np.searchsorted(needed, wanted))), generator)
            for wanted, generator in zip(numbers, generators, strict=True)
        ]
        return torch.stack(clips)

    def _augment(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(T, H, W, C) -> (C, T, S, S)"""
        if not self.train:
            return center_crop(frames, self.crop_size)
        if self.transform is not None:
            return self.transform(frames, generator)
        return random_resized_crop_flip(
            frames, self.crop_size, self.crop_scale, self.crop_aspect, self.horizontal_flip, generator
        )
