"""Videos seen through overlapping windows of a model's clip size that predict them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from diffmae_video.diffusion.sampling import predicted_x0
from diffmae_video.inpainting.windows import Window
from diffmae_video.models.masked_autoencoder import Context, MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens
from diffmae_video.models.patches import gather_patches, scatter_tokens, unpatchify

WINDOWS_AT_A_TIME = 16  # that the network sees in one batch

Place = tuple[int, Window]  # which video, and where in it


class _Batch(NamedTuple):
    """Windows that hide equally many patches, encoded."""

    places: list[Place]
    context: Context


class JointWindows:
    """Every window is encoded once; what they predict is averaged where they overlap.

    Averaging the estimates of x_0 at every step of the reverse chain, rather than finished windows, is MultiDiffusion
    (Bar-Tal et al. 2023): the windows agree on one picture, where an average of pictures that differ is blurred.

    Args:
        model: a MAE or DiffMAE.
        videos: (B, C, T, H, W), normalised.
        hidden: (B, T, H, W) bool, True = hidden.
        windows: of every video. Those that hide something and show at least one whole patch are used.
        weight: (clip frames, rows, columns) > 0, of a window's prediction in the average.
        clamp: (low, high) bounds of every single prediction of x_0, or None.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        videos: torch.Tensor,
        hidden: torch.Tensor,
        windows: Sequence[Window],
        weight: torch.Tensor,
        clamp: tuple[float, float] | None = None,
    ):
        self.model, self.shape, self.clamp = model, videos.shape, clamp
        self._weight = weight.to(videos.device)
        self._total_weight = torch.zeros(hidden.shape, device=videos.device)
        places: list[Place] = []
        masks = []
        for window in windows:
            tokens = pixel_mask_to_tokens(hidden[(slice(None), *window)], model.patch_size)
            useful = tokens.any(dim=1) & ~tokens.all(dim=1)
            for row in useful.nonzero().flatten().tolist():
                places.append((row, window))
                masks.append(tokens[row])
                self._total_weight[(row, *window)] += self._weight
        self._batches = self._encode(videos, places, torch.stack(masks)) if places else []

    def _encode(self, videos: torch.Tensor, places: list[Place], masks: torch.Tensor) -> list[_Batch]:
        batches, counts = [], masks.sum(dim=1)
        for count in counts.unique().tolist():
            for chosen in (counts == count).nonzero().flatten().split(WINDOWS_AT_A_TIME):
                own = [places[i] for i in chosen.tolist()]
                batches.append(_Batch(own, self.model.prepare(_cut(videos, own), masks[chosen])))
        return batches

    def predict(self) -> torch.Tensor:
        """A MAE's prediction of the videos (B, C, T, H, W); 0 where no window predicts anything."""
        return self._merge(lambda batch: self.model.predict(batch.context).float())

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """A DiffMAE's estimate of x_0 for the noisy videos ``x_t`` (B, C, T, H, W), all at one timestep ``t`` (B,).

        Whatever the model predicts, it is x_0 that is averaged; 0 where no window predicts anything.
        """
        model, abar = self.model, self.model.schedule.abar[int(t[0])].item()

        def x0_of(batch: _Batch) -> torch.Tensor:
            x = gather_patches(_cut(x_t, batch.places), batch.context.hidden, model.patch_size)
            output = model.denoise(batch.context, x, t[:1].expand(len(x)))
            return predicted_x0(output.float(), x, abar, model.prediction, self.clamp)

        return self._merge(x0_of)

    def _merge(self, patches_of: Callable[[_Batch], torch.Tensor]) -> torch.Tensor:
        """The videos of the hidden patches (B', M, P) that every batch of windows gives."""
        model, total = self.model, torch.zeros(self.shape, device=self._weight.device)
        for batch in self._batches:
            patches = patches_of(batch)
            tokens = patches.new_zeros(len(patches), math.prod(model.grid), patches.shape[-1])
            tokens = scatter_tokens(tokens, batch.context.hidden, patches)
            for (row, window), clip in zip(batch.places, unpatchify(tokens, model.grid, model.patch_size), strict=True):
                total[(row, slice(None), *window)] += clip * self._weight
        return total / self._total_weight.clamp(min=1e-8).unsqueeze(1)


def _cut(videos: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
    """Windows of videos (B, C, T, H, W) as a batch of clips."""
    return torch.stack([videos[(row, slice(None), *window)] for row, window in places])
