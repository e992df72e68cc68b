"""Clips of videos and images: one class for every manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from diffmae_video.data.decoding import BACKENDS, UnreadableVideo, is_image, read_frames, video_info
from diffmae_video.data.folder_watch import FolderWatch
from diffmae_video.data.manifest import Entry
from diffmae_video.data.sampling import SAMPLINGS, frame_indices
from diffmae_video.data.seeding import generator_from
from diffmae_video.data.transforms import random_resized_crop_flip
from diffmae_video.data.views import check_fit, cut_views, view_indices

# Videos tried for one draw. At one unreadable video in two, far beyond what a run tolerates, this fails once in 10^6.
MAX_TRIES = 20


class ClipSample(NamedTuple):
    """What one draw gives."""

    clips: torch.Tensor  # uint8 (R, C, T, S, S): R clips of one video; in evaluation its views
    label: int
    draw: int
    path: str  # the video that was read: another one than drawn, if that was unreadable
    failures: tuple[tuple[str, str], ...]  # (path, message) of every unreadable video met


class ClipDataset(Dataset):
    """Fixed-size uint8 clips, indexed by (draw, index).

    ``draw`` counts all draws of a run from 0 and determines, with the seed, everything random about the clip;
    ``index`` says which video. An image is a video of one frame: it fills a clip of T > 1 by repeating.

    In training a video that cannot be read is recorded in the sample's ``failures`` and replaced by another one,
    chosen from (seed, draw, try). In evaluation nothing is random and nothing replaced. Where the folder of all videos
    is away, both wait for it.

    Args:
        entries: what ``read_manifest`` returns.
        num_frames: T.
        sampling_rate: distance between two frames of a clip, in frames of the video; not used by "segment".
        crop_size: S, height and width of a clip in pixels.
        crop_scale: training: (smallest, largest) share of the frame's area that a crop keeps.
        crop_aspect: training: (smallest, largest) width / height of a crop; with ``fit="stretch"`` as a multiple of the
            frame's own.
        horizontal_flip: training: mirror half of the clips.
        repeats: training: R clips per draw, their frames read in one pass.
        train: random clip and crop; otherwise fixed views: the centred clip and the central square, or what
            ``test_clips`` and ``test_crops`` say.
        decoder: "auto", "decord", "torchcodec" or "pyav", as for ``read_frames``.
        decode_short_side: shorter side (pixels) to which frames are scaled while decoding; 0 = full size.
        seed: >= 0.
        sampling: "dense" (frames ``sampling_rate`` apart) or "segment" (one frame out of each of T equal parts).
        test_clips, test_crops: evaluation: K clips, spread over the video, of S crops each, spread along the longer
            side: R = K * S views, view k * S + s is crop s of clip k (see ``data.views``). Training takes ``repeats``.
        decode_timeout: seconds after which decoding is cut off and the video counts as unreadable; 0 = never.
        transform: training: what makes a clip uint8 (C, T, S, S) of frames uint8 (T, H, W, C), with all randomness from
            the generator passed, in place of crop and flip (see ``data.pipelines``); called once per repeat.
        fit: "crop" keeps the shape of things. "stretch" scales the whole frame (training: a random part of its shape)
            to the square: for frames much wider than high, and for sets of tight frames of different shapes. A
            ``transform`` has to be told by itself: ``CropAndFlip(relative_aspect=True)``.
        folder_timeout: seconds to wait for a data folder that is away, see ``FolderWatch``; 0 = its videos count as
            unreadable at once.

    Attributes:
        repeats: R, clips per draw.

    Raises:
        ValueError: no entries, an argument out of its range, or several crops of stretched frames.
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
        test_crops: int = 1,
        fit: str = "crop",
        folder_timeout: float = 0,
    ) -> None:
        if not entries:
            raise ValueError("a dataset needs at least one video")
        if min(num_frames, sampling_rate, crop_size, repeats, test_clips) < 1:
            raise ValueError("num_frames, sampling_rate, crop_size, repeats and test_clips must be at least 1")
        check_fit(fit, test_crops)
        if sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling {sampling!r}; choose one of {', '.join(SAMPLINGS)}")
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must satisfy 0 < smallest <= largest <= 1, got {tuple(crop_scale)}")
        if not 0 < crop_aspect[0] <= crop_aspect[1]:
            raise ValueError(f"crop_aspect must satisfy 0 < smallest <= largest, got {tuple(crop_aspect)}")
        if transform is not None and not train:
            raise ValueError("a transform is for training; evaluation shows fixed views as they are")
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
        self.repeats = repeats if train else test_clips * test_crops
        self.test_clips, self.test_crops = test_clips, test_crops
        self.fit = fit
        self.sampling = sampling
        self.train = train
        self.decoder = decoder
        self.decode_short_side = decode_short_side
        self.decode_timeout = decode_timeout
        self.seed = seed
        self.transform = transform
        self._folder = FolderWatch((entry.path for entry in entries), folder_timeout, isolated=decode_timeout > 0)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._paths)

    @property
    def labels(self) -> np.ndarray:
        """The label of every video, int64 (N,); -1 = none."""
        return self._labels

    def entry(self, index: int) -> Entry:
        """Path and label of a video."""
        return Entry(os.fsdecode(self._paths[index]), int(self._labels[index]))

    def __getitem__(self, draw_and_index: tuple[int, int]) -> ClipSample:
        """The clips of one draw.

        Raises:
            UnreadableVideo: evaluation: the video cannot be read or is missing; training: so are all of its
                ``MAX_TRIES`` replacements.
            DataFolderGone: the folder of all videos is away, and has been for ``folder_timeout``.
            ImportError: the decoder is not installed.
        """
        draw, index = draw_and_index
        failures: list[tuple[str, str]] = []
        for attempt in range(MAX_TRIES if self.train else 1):
            if attempt > 0:
                index = int(torch.randint(len(self), (), generator=generator_from(self.seed, draw, attempt)))
            path, label = self.entry(index)
            clips = self._clips_or_reason(path, draw, attempt)
            if not isinstance(clips, str):
                return ClipSample(clips, label, draw, path, tuple(failures))
            failures.append((path, clips))
        path, message = failures[-1]
        if self.train:
            message = f"{MAX_TRIES} videos in a row could not be read; the last one: {message}"
        raise UnreadableVideo(path, message.removeprefix(f"{path}: "))

    def _clips_or_reason(self, path: str, draw: int, attempt: int) -> torch.Tensor | str:
        """What ``_clips`` gives, or why it gives nothing; tried again where all the data was away."""
        looked_again = False
        while True:
            try:
                return self._clips(path, draw, attempt)
            except (UnreadableVideo, FileNotFoundError) as error:
                reason, missing = str(error), isinstance(error, FileNotFoundError)
            if self._folder.waited(reason):
                continue
            if looked_again or not (missing and self._folder.is_back(path)):
                return reason
            looked_again = True

    def _clips(self, path: str, draw: int, attempt: int) -> torch.Tensor:
        """uint8 (R, C, T, S, S); the frames that several clips share are decoded once."""
        length = 1 if is_image(path) else video_info(path, self.decoder, self.decode_timeout).frames
        repeats = range(self.repeats if self.train else 0)
        generators = [generator_from(self.seed, draw, attempt, repeat) for repeat in repeats]
        numbers = self._frame_numbers(length, generators)
        needed, rows = np.unique(numbers, return_inverse=True)
        rows = torch.from_numpy(rows.reshape(numbers.shape))
        frames = read_frames(path, needed, self.decoder, self.decode_short_side, self.decode_timeout)
        frames = torch.from_numpy(frames)
        if not self.train:
            return cut_views(frames, rows, self.test_crops, self.crop_size, self.fit)
        # index_select copies whole frames; frames[...] does the same ten times slower
        clips = [
            self._augment(frames.index_select(0, row), generator)
            for row, generator in zip(rows, generators, strict=True)
        ]
        return torch.stack(clips)

    def _frame_numbers(self, length: int, generators: list[torch.Generator]) -> np.ndarray:
        """int64 (R, T) in training, (K, T) in evaluation, for a video of ``length`` frames."""
        options = (self.num_frames, self.sampling_rate)
        if not self.train:
            return view_indices(length, *options, self.test_clips, self.sampling)
        return np.stack([frame_indices(self.sampling, length, *options, generator) for generator in generators])

    def _augment(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(T, H, W, C) -> (C, T, S, S)"""
        if self.transform is not None:
            return self.transform(frames, generator)
        ranges = (self.crop_scale, self.crop_aspect, self.horizontal_flip)
        return random_resized_crop_flip(frames, self.crop_size, *ranges, generator, self.fit == "stretch")
