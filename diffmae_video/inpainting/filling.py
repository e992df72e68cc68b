"""From hidden to predicted pixels: what clips and videos have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diffmae_video.diffusion.randomness import Generators, randn
from diffmae_video.inpainting.joint import JointWindows
from diffmae_video.inpainting.passes import NothingVisible, in_two_passes
from diffmae_video.inpainting.sampling import OnStep, Sampling, SamplingStep, pixel_range
from diffmae_video.inpainting.windows import Window, all_windows, patch_weight, window_weight
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens, tokens_to_pixel_mask

Progress = Callable[[int, int], None]


class Filler:
    """Fills videos of one size with a model.

    Args:
        model, sampling: what fills, and how.
        size: (T, H, W) of the videos: whole patches, at least the model's clip.
        on_step, progress: see ``inpaint_video``.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        sampling: Sampling,
        size: Sequence[int],
        on_step: OnStep | None = None,
        progress: Progress | None = None,
    ):
        self.model, self.sampling, self.on_step, self.progress = model, sampling, on_step, progress
        clip, patch = model.clip_shape[1:], model.patch_size
        self.windows = all_windows(size, clip, patch)
        self.weight, self.margin = window_weight(clip), (0, 0)
        if sampling.overlap == "time" and patch[0] > 1:
            # Frames are repeated at both ends, so that a window can begin in the middle of the first patch.
            self.margin = (patch[0] // 2, patch[0] - patch[0] // 2)
            shifted = all_windows((size[0] + patch[0], *size[1:]), clip, patch)
            self.windows = [_later(window, self.margin[0]) for window in self.windows] + shifted
            self.weight = self.weight * patch_weight(clip[0], patch[0])[:, None, None]

    def fill(
        self, videos: torch.Tensor, hidden: torch.Tensor, noise: torch.Tensor, generators: Generators
    ) -> torch.Tensor:
        """Normalised videos (B, C, T, H, W) with what ``hidden`` (B, T, H, W) says predicted.

        ``noise``: the chain's start, shaped like the videos; ``generators``: of further noise, one, or one per video.

        Raises:
            NothingVisible: see ``passes.py``.
        """
        front, back = self.margin
        frames = torch.arange(-front, videos.shape[2] + back, device=videos.device).clamp(0, videos.shape[2] - 1)
        videos, hidden = videos[:, :, frames], hidden[:, frames]
        if front + back:
            # Frames that are repeated have noise of their own: the network has only seen independent noise.
            more = randn((*noise.shape[:2], front + back, *noise.shape[3:]), generators, noise.device)
            noise = torch.cat([more[:, :, :front], noise, more[:, :, front:]], dim=2)
        whole, in_parts = self._sort(hidden)
        filled = videos.clone()
        for rows, fill in ((whole, self._fill), (in_parts, self._fill_in_two_passes)):
            if rows:
                own = [generators[row] for row in rows] if isinstance(generators, list) else generators
                filled[rows] = fill(videos[rows], hidden[rows], noise[rows], own, rows)
        return filled[:, :, front : filled.shape[2] - back]

    def _sort(self, hidden: torch.Tensor) -> tuple[list[int], list[int]]:
        """Numbers of the videos that hide something: those filled at once, and those that need two passes."""
        rows = hidden.flatten(1).any(dim=1).nonzero().flatten().tolist()
        in_parts = [row for row in rows if not self._covered(hidden[row])]
        for row in in_parts:
            if any(hidden[(row, *window)].all() for window in self.windows):
                raise NothingVisible()
        return [row for row in rows if row not in in_parts], in_parts

    def _covered(self, hidden: torch.Tensor) -> bool:
        """Whether the windows that show at least a whole patch cover all that is hidden (T, H, W)."""
        left = hidden.clone()
        for window in self.windows:
            if not pixel_mask_to_tokens(hidden[window].unsqueeze(0), self.model.patch_size).all():
                left[window] = False
        return not left.any()

    def _fill_in_two_passes(self, videos, hidden, noise, generators, rows) -> torch.Tensor:
        def fill_half(start: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
            return self._fill(start, half, noise, generators, rows)

        return in_two_passes(videos, hidden, self.model.patch_size, fill_half)

    def _fill(
        self,
        videos: torch.Tensor,
        hidden: torch.Tensor,
        noise: torch.Tensor,
        generators: Generators,
        rows: Sequence[int],
    ) -> torch.Tensor:
        model, sampling, generated = self.model, self.sampling, hidden.unsqueeze(1)
        # Dynamic thresholding looks at the values that clamping would have cut off.
        clamp = pixel_range(model) if sampling.threshold is None else None
        joint = JointWindows(model, videos, hidden, self.windows, self.weight, clamp)
        if not isinstance(model, DiffMAE):
            if self.progress is not None:
                self.progress(1, 1)
            return torch.where(generated, joint.predict(), videos)
        if not sampling.impute:  # what the chain leaves as it is are then whole visible patches
            generated = _whole_patches(hidden, model).unsqueeze(1)
        calls = 0

        def report(t: int, x_t: torch.Tensor, x0: torch.Tensor) -> None:
            nonlocal calls
            calls += 1
            if self.progress is not None:
                self.progress(calls, sampling.steps)
            if self.on_step is not None:
                shown = (self._pixels(torch.where(hidden.unsqueeze(1), x, videos)) for x in (x_t, x0))
                self.on_step(SamplingStep(calls, sampling.steps, t, *shown, rows))

        return sampling.run(
            model,
            joint.denoise,
            noise,
            "x0",
            generators,
            lambda x0: torch.where(generated, x0, videos),
            report,
        )

    def _pixels(self, videos: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] of videos with their margins."""
        front, back = self.margin
        return self.model.denormalize(videos[:, :, front : videos.shape[2] - back]).clamp(0, 1)


def _later(window: Window, frames: int) -> Window:
    return slice(window[0].start + frames, window[0].stop + frames), *window[1:]


def _whole_patches(hidden: torch.Tensor, model: MaskedAutoencoder) -> torch.Tensor:
    """Pixel masks (B, T, H, W) grown to whole patches."""
    grid = tuple(size // patch for size, patch in zip(hidden.shape[1:], model.patch_size, strict=True))
    return tokens_to_pixel_mask(pixel_mask_to_tokens(hidden, model.patch_size), grid, model.patch_size)
