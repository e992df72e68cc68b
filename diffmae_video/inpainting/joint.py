"""A video seen through overlapping windows of a model's clip size that predict it together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from diffmae_video.diffusion.sampling import predicted_x0
from diffmae_video.inpainting.sampling import pixel_range
from diffmae_video.inpainting.windows import Window, window_weight
from diffmae_video.models.masked_autoencoder import Context, MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens
from diffmae_video.models.patches import gather_tokens, patchify, scatter_tokens, unpatchify

WINDOWS_AT_A_TIME = 8  # that the network sees in one batch


class _Batch(NamedTuple):
    """Windows that hide equally many patches, encoded."""

    windows: list[Window]
    context: Context


class JointWindows:
    """Every window is encoded once; what they predict is averaged where they overlap.

    The weights fall linearly from a window's middle to its edges. Averaging the estimates of x_0 at every step of the
    reverse chain, rather than finished windows, is MultiDiffusion (Bar-Tal et al. 2023): the windows agree on one
    picture, where an average of pictures that differ is blurred.

    Args:
        model: a MAE or DiffMAE.
        video: (1, C, T, H, W), normalised.
        hidden: (T, H, W) bool, True = hidden.
        windows: each hides something and shows at least one whole patch; together they cover what is hidden.
    """

    def __init__(self, model: MaskedAutoencoder, video: torch.Tensor, hidden: torch.Tensor, windows: Sequence[Window]):
        self.model, self.shape = model, video.shape
        self._weight = window_weight(model.clip_shape[1:]).to(video.device)
        self._total_weight = torch.zeros(hidden.shape, device=video.device)
        for window in windows:
            self._total_weight[window] += self._weight
        masks = torch.cat([pixel_mask_to_tokens(hidden[window].unsqueeze(0), model.patch_size) for window in windows])
        counts = masks.sum(dim=1)
        self._batches = []
        for count in counts.unique().tolist():
            for rows in (counts == count).nonzero().flatten().split(WINDOWS_AT_A_TIME):
                own = [windows[row] for row in rows.tolist()]
                self._batches.append(_Batch(own, model.prepare(_cut(video, own), masks[rows])))

    def predict(self) -> torch.Tensor:
        """A MAE's prediction of the video (1, C, T, H, W); 0 in visible patches."""
        return self._merge(lambda batch: self.model.predict(batch.context).float())

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """A DiffMAE's estimate of x_0 for the noisy video ``x_t`` (1, C, T, H, W) at ``t`` (1,); 0 in visible patches.

        Whatever the model predicts, it is x_0 that is averaged.
        """
        model, abar, bounds = self.model, self.model.schedule.abar[int(t)].item(), pixel_range(self.model)

        def x0_of(batch: _Batch) -> torch.Tensor:
            x = gather_tokens(patchify(_cut(x_t, batch.windows), model.patch_size), batch.context.hidden)
            output = model.denoise(batch.context, x, t.expand(len(x)))
            return predicted_x0(output.float(), x, abar, model.prediction, bounds)

        return self._merge(x0_of)

    def _merge(self, patches_of: Callable[[_Batch], torch.Tensor]) -> torch.Tensor:
        """The video of the hidden patches (B, M, P) that every batch of windows gives."""
        total = torch.zeros(self.shape, device=self._weight.device)
        for batch in self._batches:
            patches = patches_of(batch)
            empty = patches.new_zeros(len(patches), math.prod(self.model.grid), patches.shape[-1])
            clips = unpatchify(
                scatter_tokens(empty, batch.context.hidden, patches), self.model.grid, self.model.patch_size
            )
            for window, clip in zip(batch.windows, clips, strict=True):
                total[(0, slice(None), *window)] += clip * self._weight
        return total / self._total_weight.clamp(min=1e-8)


def _cut(video: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    """Windows of a video (1, C, T, H, W) as a batch of clips."""
    return torch.stack([video[(0, slice(None), *window)] for window in windows])
