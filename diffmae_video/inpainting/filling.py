"""From hidden to predicted pixels: what clips and videos have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diffmae_video.diffusion.randomness import Generators, randn
from diffmae_video.inpainting.joint import JointWindows
from diffmae_video.inpainting.passes import NothingVisible, in_two_passes
from diffmae_video.inpainting.sampling import OnStep, Sampling, SamplingStep, pixel_range
from diffmae_video.inpainting.windows import Window, all_windows, layout
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens, tokens_to_pixel_mask

Progress = Callable[[int, int], None]

# abar from which on ``overlap="all"`` shifts windows in space, too: x_t tells more by then than the patches around, of
# which shifted windows see fewer whole ones.
LATE = 0.05


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
        self.layout = layout(tuple(size), model.clip_shape[1:], model.patch_size, sampling.overlap)

    def fill(
        self, videos: torch.Tensor, hidden: torch.Tensor, noise: torch.Tensor, generators: Generators
    ) -> torch.Tensor:
        """Normalised videos (B, C, T, H, W) with what ``hidden`` (B, T, H, W) says predicted.

        ``noise``: the chain's start, shaped like the videos; ``generators``: of further noise, one, or one per video.

        Raises:
            NothingVisible: see ``passes.py``.
        """
        whole, in_parts = self._sort(hidden)
        filled = videos.clone()
        for rows, fill in ((whole, self._fill), (in_parts, self._fill_in_two_passes)):
            if rows:
                own = [generators[row] for row in rows] if isinstance(generators, list) else generators
                filled[rows] = fill(videos[rows], hidden[rows], noise[rows], own, rows)
        return filled

    def _sort(self, hidden: torch.Tensor) -> tuple[list[int], list[int]]:
        """Numbers of the videos that hide something: those filled at once, and those that need two passes."""
        clip, patch = self.model.clip_shape[1:], self.model.patch_size
        windows = all_windows(tuple(hidden.shape[1:]), clip, patch)
        rows = hidden.flatten(1).any(dim=1).nonzero().flatten().tolist()
        in_parts = [row for row in rows if not is_covered(hidden[row], windows, patch)]
        for row in in_parts:
            if any(hidden[(row, *window)].all() for window in windows):
                raise NothingVisible()
        return [row for row in rows if row not in in_parts], in_parts

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
        model, sampling, size = self.model, self.sampling, videos.shape[2:]
        # What the chain leaves as it is: all that is visible, or, without imputation, whole visible patches.
        generated = (hidden if sampling.impute else _whole_patches(hidden, model)).unsqueeze(1)
        generated, videos, noise = self._repeat(generated), self._repeat(videos), self._larger(noise, generators)
        hidden = self._repeat(hidden.unsqueeze(1))[:, 0]
        # Dynamic thresholding looks at the values that clamping would have cut off.
        clamp = pixel_range(model) if sampling.threshold is None else None
        joint = JointWindows(model, videos, hidden, *self.layout.early, clamp)
        if not isinstance(model, DiffMAE):
            if self.progress is not None:
                self.progress(1, 1)
            return self._inner(torch.where(hidden.unsqueeze(1), joint.predict(), videos), size)
        late = JointWindows(model, videos, hidden, *self.layout.late, clamp) if self.layout.late else joint
        abar, calls = model.schedule.abar.tolist(), 0

        def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if abar[int(t[0])] >= LATE:
                return late.denoise(x_t, t)
            # Margins in space are beyond all windows yet: they have what stands beside them.
            return (
                self._repeat(self._inner(joint.denoise(x_t, t), size)) if late is not joint else joint.denoise(x_t, t)
            )

        def report(t: int, x_t: torch.Tensor, x0: torch.Tensor) -> None:
            nonlocal calls
            calls += 1
            if self.progress is not None:
                self.progress(calls, sampling.steps)
            if self.on_step is not None:
                shown = (self._inner(torch.where(hidden.unsqueeze(1), x, videos), size) for x in (x_t, x0))
                pixels = (model.denormalize(video).clamp(0, 1) for video in shown)
                self.on_step(SamplingStep(calls, sampling.steps, t, *pixels, rows))

        filled = sampling.run(
            model,
            denoise,
            noise,
            "x0",
            generators,
            lambda x0: torch.where(generated, x0, videos),
            report,
        )
        return self._inner(filled, size)

    def _repeat(self, videos: torch.Tensor) -> torch.Tensor:
        """Videos (B, C, T, H, W) whose outer frames, rows and columns are repeated into the margins."""
        for axis, (front, back) in enumerate(self.layout.margins, start=2):
            if front + back:
                length = videos.shape[axis]
                places = torch.arange(-front, length + back, device=videos.device).clamp(0, length - 1)
                videos = videos.index_select(axis, places)
        return videos

    def _larger(self, noise: torch.Tensor, generators: Generators) -> torch.Tensor:
        """``noise`` with more of it in the margins: repeated, it would be nothing that the network has ever seen."""
        if not any(map(any, self.layout.margins)):
            return noise
        size = (
            length + front + back for length, (front, back) in zip(noise.shape[2:], self.layout.margins, strict=True)
        )
        larger = randn((*noise.shape[:2], *size), generators, noise.device)
        self._inner(larger, noise.shape[2:]).copy_(noise)
        return larger

    def _inner(self, videos: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The part of ``videos`` with margins that has the size of those without; a view."""
        inner = [slice(front, front + length) for (front, _), length in zip(self.layout.margins, size, strict=True)]
        return videos[(slice(None), slice(None), *inner)]


def is_covered(hidden: torch.Tensor, windows: Sequence[Window], patch_size: tuple[int, int, int]) -> bool:
    """Whether the windows that show at least a whole patch cover all that is hidden, bool (T, H, W)."""
    left = hidden.clone()
    for window in windows:
        if not pixel_mask_to_tokens(hidden[window].unsqueeze(0), patch_size).all():
            left[window] = False
    return not left.any()


def _whole_patches(hidden: torch.Tensor, model: MaskedAutoencoder) -> torch.Tensor:
    """Pixel masks (B, T, H, W) grown to whole patches."""
    grid = tuple(size // patch for size, patch in zip(hidden.shape[1:], model.patch_size, strict=True))
    return tokens_to_pixel_mask(pixel_mask_to_tokens(hidden, model.patch_size), grid, model.patch_size)
