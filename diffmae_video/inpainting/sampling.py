"""How inpainting samples: the options that clips and videos share, and what is known of a step in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from diffmae_video.diffusion.randomness import Generators
from diffmae_video.diffusion.sampling import sample
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder


class SamplingStep(NamedTuple):
    """One network call of the reverse chain, of B clips of a batch, or of a video (B = 1) at its working size.

    ``noisy`` is what the network saw, ``clean`` its estimate of the result: (B, C, T, H, W) float32 pixels in [0, 1],
    the visible ones in place, on the model's device.
    """

    number: int  # 1 to ``total``
    total: int
    t: int  # timestep
    noisy: torch.Tensor
    clean: torch.Tensor
    rows: Sequence[int]  # which clips of the batch these are


OVERLAPS = ("time", "all", "none")

OnStep = Callable[[SamplingStep], None]


@dataclass(frozen=True)
class Sampling:
    """The reverse chain of an inpainting; see :func:`diffmae_video.diffusion.sample` for what is not explained here.

    Attributes:
        steps, sampler, eta, spacing, threshold: of ``sample``.
        impute: visible pixels in hidden patches steer the chain: at every step they are put back into the estimate of
            x_0, so that the next x_t has them with the right amount of noise ("replacement", Ho et al. 2022, Video
            Diffusion Models, section 3.1). Without, such pixels are not used.
        overlap: ``"time"``: every frame is predicted by windows whose patches begin half a patch apart in time, and
            weighted by how near it is to the middle of a patch; where one window jumps from a patch to the next, the
            other goes on (cycle spinning, Coifman & Donoho 1995). ``"all"``: towards the end of the chain in rows and
            columns as well, against seams between patches. ``"none"``: each by its own patch alone, two to three times
            as fast.
    """

    steps: int = 50
    sampler: str = "ddim"
    eta: float = 0.0
    spacing: str = "trailing"
    threshold: float | None = None
    impute: bool = True
    overlap: str = "time"

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise ValueError(f"unknown overlap {self.overlap!r}: choose one of {', '.join(OVERLAPS)}")

    def run(
        self,
        model: DiffMAE,
        predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        x_T: torch.Tensor,
        prediction: str,
        generator: Generators,
        constrain: Callable[[torch.Tensor], torch.Tensor] | None,
        on_step: Callable[[int, torch.Tensor, torch.Tensor], None] | None,
    ) -> torch.Tensor:
        """The chain from ``x_T`` with the noise levels and the pixel range of ``model``; arguments of ``sample``."""
        return sample(
            predict,
            x_T,
            model.schedule,
            steps=self.steps,
            sampler=self.sampler,
            prediction=prediction,
            eta=self.eta,
            clamp=pixel_range(model),
            generator=generator,
            on_step=on_step,
            spacing=self.spacing,
            threshold=self.threshold,
            constrain=constrain,
        )


def pixel_range(model: MaskedAutoencoder) -> tuple[float, float]:
    """The values that black and white have for the network, over all channels: (-1, 1) for a DiffMAE on raw pixels."""
    ends = torch.tensor([0.0, 1.0], device=model.pixel_mean.device).reshape(2, 1, 1, 1, 1)
    normalized = model.normalize(ends)
    return normalized[0].min().item(), normalized[1].max().item()


def check_model(model: MaskedAutoencoder) -> None:
    """Raises ValueError for a model whose predictions are no pixels."""
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(
            f"a {type(model).__name__} paints no hidden patches: inpaint with a DiffMAE or a MAE, decoder included"
        )
    if model.target_frames != "all":
        raise ValueError("this model predicts one frame of every patch (MODEL.TARGET_FRAMES): nothing fills the others")
    if model.target != "raw":
        raise ValueError(
            "this model was trained on per-patch normalised targets: what it predicts has lost the patches' mean and "
            "contrast and cannot be shown as pixels; inpaint with a model trained with MODEL.TARGET raw"
        )
    if model.feature_width and not model.pixel_weight:
        raise ValueError("this model was trained on features alone (MODEL.CLIP.PIXEL_WEIGHT 0): it paints no pixels")
