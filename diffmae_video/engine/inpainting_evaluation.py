"""How well hidden pixels are filled: models and fills without a network, measured on the same clips and masks."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from diffmae_video.data import EvaluationClips
from diffmae_video.engine.disk import JsonLines, write_text
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.inpainting_report import Row, write_report
from diffmae_video.engine.wrapping import autocast
from diffmae_video.inpainting import inpaint
from diffmae_video.inpainting.sampling import Sampling
from diffmae_video.models import DiffMAE, MaskedAutoencoder
from diffmae_video.perceptual import LPIPS, lpips_inside
from diffmae_video.quality import diversity, frame_difference_error, frechet_distance, high_frequency_ratio, psnr, ssim

logger = logging.getLogger(__name__)

SHOWN_CLIPS = 4  # on a sheet
MaskOf = Callable[[int], np.ndarray]  # number of a clip -> bool (T, H, W), True = hidden
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]  # frames, mask -> filled frames


@dataclass(frozen=True)
class Method:
    """What fills clips (B, C, T, H, W) uint8 under masks (B, T, H, W), one result per seed.

    ``fill(clips, mask, seeds)``; ``samples``: results of different seeds that are compared, 1 if there is but one.
    """

    name: str
    sampler: str
    steps: int
    samples: int
    fill: Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]


@dataclass
class _Account:
    """What is known of a method on a mask, clip by clip."""

    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    features: list[np.ndarray] = field(default_factory=list)
    shown: list[np.ndarray] = field(default_factory=list)


class InpaintingRun:
    """Fills the same hidden pixels in many ways, and compares with what was there.

    Args:
        models: name -> model in eval mode, all of one ``clip_shape``, on ``device``. Of a MAE there is one result.
        fills: name -> a fill without a network.
        clips: the test set.
        masks: name -> what gives the mask of a clip.
        samplings: how DiffMAEs sample; every one is a row of the tables.
        samples: results of as many seeds, for "best of" and diversity.
        overlap: of patches, for a MAE; see ``Sampling``.
        seed: of the first result of clip 0; clip i has ``seed + i``, the next result ``seed + clips + i``.
        patch_size: (pt, ph, pw) of the models, within which detail is measured.
        output_dir, config_text, device, precision, description: as of ``measuring.Measurement``.
        lpips: measures LPIPS; None = not measured.
        feature_model: its pooled tokens are the features of the Fréchet distance; None = not measured.
    """

    name = "inpaint_eval"

    def __init__(
        self,
        *,
        models: Mapping[str, MaskedAutoencoder],
        fills: Mapping[str, Fill],
        clips: EvaluationClips,
        masks: Mapping[str, MaskOf],
        samplings: Sequence[Sampling],
        samples: int,
        overlap: str,
        seed: int,
        patch_size: tuple[int, int, int],
        output_dir: str | Path,
        config_text: str,
        device: torch.device,
        precision: str,
        lpips: LPIPS | None = None,
        feature_model: torch.nn.Module | None = None,
        description: Sequence[str] = (),
    ):
        self.clips, self.masks, self.seed = clips, masks, seed
        self.patch_size, self.output_dir, self.config_text = patch_size, Path(output_dir), config_text
        self.device, self.precision, self.description = device, precision, tuple(description)
        self.lpips, self.feature_model, self.models = lpips, feature_model, dict(models)
        self.methods = [_fill_method(name, fill) for name, fill in fills.items()]
        for name, model in models.items():
            ways = samplings if isinstance(model, DiffMAE) else [None]
            self.methods += [_model_method(name, model, way, samples, overlap) for way in ways]

    def run(self) -> list[Row]:
        """Measures, writes the report and one line of ``evaluations.jsonl`` per row, and logs the tables.

        Raises:
            RunError: no clip can be read.
        """
        logger.info("output: %s", self.output_dir)
        for line in self.description:
            logger.info("%s", line)
        logger.info("%s of %d clips, %s on %s", self.name, len(self.clips.indices), self.precision, self.device)
        rows, sheets = [], {}
        for name, mask_of in self.masks.items():
            own, sheets[name] = self._measure(name, mask_of)
            rows += own
        folder = self.output_dir / self.name
        text = write_report(rows, sheets, folder, self.clips.summary())
        write_text(folder / "config.yaml", self.config_text)
        lines = JsonLines(self.output_dir / "evaluations.jsonl", keep_up_to=sys.maxsize)
        for row in rows:
            lines.append({"step": 0, "evaluator": self.name, **row.flat()})
        lines.close()
        logger.info("%s\n\ntables, values of every clip and pictures: %s", text, folder)
        return rows

    def _measure(self, mask_name: str, mask_of: MaskOf) -> tuple[list[Row], dict[str, list[np.ndarray]]]:
        """The rows of a mask, and frames of the first clips by method, with the masked and the original ones."""
        accounts = {method: _Account() for method in self.methods}
        originals, original_features, masked, total = [], [], [], len(self.clips.dataset)
        for batch in self.clips:
            numbers = [int(clip_id) for clip_id in batch.clip_ids]
            masks = np.stack([mask_of(number) for number in numbers])
            clips, mask = batch.clips.to(self.device), torch.from_numpy(masks).to(self.device)
            frames = _frames(batch.clips)
            if len(originals) < SHOWN_CLIPS:
                originals += list(frames[:SHOWN_CLIPS])
                masked += list(np.where(masks[..., None], np.uint8(128), frames)[:SHOWN_CLIPS])
            original_features += self._features(clips)
            for method, account in accounts.items():
                seeds = [[self.seed + k * total + number for number in numbers] for k in range(method.samples)]
                results = self._fill(method, clips, mask, seeds, account)
                self._account(account, frames, masks, results)
        if not originals:
            raise RunError(f"no clip could be read: {self.clips.summary()}")
        for method, account in accounts.items():
            logger.info("mask %s: %s %s %d steps done", mask_name, method.name, method.sampler, method.steps)
            if account.features:
                distance = frechet_distance(np.stack(original_features), np.stack(account.features))
                account.values["frechet"] = [distance]
        rows = [_row(mask_name, method, account) for method, account in accounts.items()]
        shown = {row.title: account.shown for row, account in zip(rows, accounts.values(), strict=True)}
        return rows, {"masked input": masked, **shown, "original": originals}

    def _fill(
        self,
        method: Method,
        clips: torch.Tensor,
        mask: torch.Tensor,
        seeds: Sequence[Sequence[int]],
        account: _Account,
    ) -> torch.Tensor:
        """uint8 (K, B, C, T, H, W), the results of K seeds; takes the time and the first one's features."""
        started = time.perf_counter()
        with torch.no_grad(), autocast(self.precision, self.device):
            results = torch.stack([method.fill(clips, mask, own) for own in seeds])
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        account.seconds += time.perf_counter() - started
        account.features += self._features(results[0])
        return results

    def _account(self, account: _Account, frames: np.ndarray, masks: np.ndarray, results: torch.Tensor) -> None:
        """Adds the measures of every clip: frames uint8 (B, T, H, W, 3), masks (B, T, H, W), results (K, B, ...)."""
        every = np.stack([_frames(result.cpu()) for result in results])
        account.shown += list(every[0][: SHOWN_CLIPS - len(account.shown)])
        for i, (original, mask) in enumerate(zip(frames, masks, strict=True)):
            found, first = {}, every[0, i]
            qualities = [psnr(sample, original, mask) for sample in every[:, i]]
            found["psnr"], found["psnr_best"] = qualities[0], max(qualities)
            found["ssim"] = ssim(first, original, mask)
            found["frame_difference"] = frame_difference_error(first, original, mask)
            found["detail_and_seams"] = high_frequency_ratio(first, original, mask)
            found["detail"] = high_frequency_ratio(first, original, mask, inside=self.patch_size[1:])
            found["diversity"] = diversity(every[:, i], mask)
            if self.lpips is not None:
                found["lpips"] = lpips_inside(self.lpips, first, original, mask)
            for name, value in found.items():
                account.values.setdefault(name, []).append(value)

    def _features(self, clips: torch.Tensor) -> list[np.ndarray]:
        if self.feature_model is None:
            return []
        model = self.feature_model
        with evaluation(model, self.device), autocast(self.precision, self.device):
            return list(model.encode(model.normalize(clips)).float().mean(dim=1).double().cpu().numpy())


def _fill_method(name: str, fill: Fill) -> Method:
    def fill_clips(clips: torch.Tensor, mask: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        filled = [fill(frames, own) for frames, own in zip(_frames(clips.cpu()), mask.cpu().numpy(), strict=True)]
        return torch.from_numpy(np.stack(filled)).permute(0, 4, 1, 2, 3).to(clips.device)

    return Method(name, "", 0, 1, fill_clips)


def _model_method(name: str, model: MaskedAutoencoder, way: Sampling | None, samples: int, overlap: str) -> Method:
    if way is None:
        return Method(name, "", 1, 1, lambda clips, mask, seeds: inpaint(model, clips, mask, overlap=overlap))
    options = asdict(way)
    label = way.sampler if way.spacing == "trailing" else f"{way.sampler}, {way.spacing}"
    return Method(
        name, label, way.steps, samples, lambda clips, mask, seeds: inpaint(model, clips, mask, seed=seeds, **options)
    )


def _row(mask_name: str, method: Method, account: _Account) -> Row:
    clips = len(account.values["psnr"])
    return Row(
        mask=mask_name,
        method=method.name,
        sampler=method.sampler,
        steps=method.steps,
        samples=method.samples,
        clips=clips,
        values=account.values,
        seconds_per_clip=account.seconds / (clips * method.samples),
    )


def _frames(clips: torch.Tensor) -> np.ndarray:
    """uint8 clips (B, C, T, H, W) -> frames (B, T, H, W, C)."""
    return clips.permute(0, 2, 3, 4, 1).contiguous().numpy()
