"""Learned positions and patch embeddings for another token grid, another patch, another number of frames.

Everything is a linear map along one axis, applied axis by axis. Positions go through the resampling matrix B itself.
The weights of a patch embedding go through the map that answers a resampled patch B x as they answered x.

All resampling is with half-pixel centres (``align_corners=False``) and antialiasing, that is with a kernel that widens
as the axis shrinks. The bicubic kernel is then Keys' with a = -1/2, which keeps linear ramps as the axis grows
(PyTorch's other one, a = -3/4, keeps constants only).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

INFLATIONS = ("average", "center")


def resampling_matrix(old: int, new: int, mode: str) -> torch.Tensor:
    """B (new, old), float64: resampling of an axis from ``old`` to ``new`` places, ``"bilinear"`` or ``"bicubic"``.

    Every row sums to 1: what is the same everywhere stays the same.
    """
    identity = torch.eye(old, dtype=torch.float64)
    if old == new:
        return identity
    return F.interpolate(identity[None, None], size=(new, old), mode=mode, align_corners=False, antialias=True)[0, 0]


def weight_matrix(old: int, new: int, mode: str) -> torch.Tensor:
    """A (new, old), float64: maps weights w over an axis of ``old`` places to weights w' = A w over ``new`` places.

    PI-resize (Beyer et al., FlexiViT, CVPR 2023, arXiv 2212.08013): with B = ``resampling_matrix``,

        w' = argmin E[(<x, w> - <B x, w'>)^2] over x ~ N(0, I)  =  (B^T)^+ w

    An axis that grows loses nothing: <B x, w'> = <x, w> for every x. One that shrinks cannot keep every answer, and
    the least squares alone do not keep the one to a uniform x, by far the largest part of real pixels. So here they
    are subject to sum(w') = sum(w). With G = B B^T and c = G^-1 1 / (1^T G^-1 1):

        A = A0 + c (1^T - 1^T A0),    A0 = (B^T)^+ = G^-1 B
    """
    resample = resampling_matrix(old, new, mode)
    fitted = torch.linalg.pinv(resample.T)
    if new >= old:
        return fitted
    spread = torch.linalg.solve(resample @ resample.T, torch.ones(new, dtype=torch.float64))
    return fitted + torch.outer(spread / spread.sum(), 1 - fitted.sum(dim=0))


def check_inflation(inflation: str) -> None:
    if inflation not in INFLATIONS:
        raise ValueError(f"unknown inflation {inflation!r}: choose one of {', '.join(INFLATIONS)}")


def frame_matrix(old: int, new: int, inflation: str) -> torch.Tensor:
    """A (new, old), float64, for the frames of a patch: a static clip is answered as before.

    1 to n frames: ``"average"``, every frame gets 1 / n of the weights (I3D: Carreira and Zisserman, arXiv 1705.07750),
    or ``"center"``, frame n // 2 gets all of them (ViViT: Arnab et al., arXiv 2103.15691). n to 1: their sum. n to m:
    ``weight_matrix`` with linear resampling, of which average and sum are the special cases.

    Raises:
        ValueError: unknown inflation.
    """
    check_inflation(inflation)
    if old == 1 < new and inflation == "center":
        return F.one_hot(torch.tensor([new // 2]), new).double().T
    return weight_matrix(old, new, "bilinear")


def resize_space(space: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Learned spatial positions (h * w, D) of a grid (h, w) for another one: bicubic -> (h' * w', D).

    Together with :func:`resize_time` that is the 3-D interpolation of the whole embedding: position (t, h, w) is
    time[t] + space[h, w], and each of the two resamplings leaves the other's part as it is.
    """
    if old == new:
        return space
    rows, columns = (resampling_matrix(o, n, "bicubic").to(space.device) for o, n in zip(old, new, strict=True))
    resized = torch.einsum("ah,bw,hwd->abd", rows, columns, space.double().unflatten(0, old))
    return resized.flatten(0, 1).to(space.dtype)


def resize_time(time: torch.Tensor, new: int) -> torch.Tensor:
    """Learned temporal positions (t, D) over the same span of time in ``new`` slots: linear -> (new, D).

    The one slot of an image is repeated; to an image, the slots are averaged (the middle ones weigh most).
    """
    if len(time) == new:
        return time
    return (resampling_matrix(len(time), new, "bilinear").to(time.device) @ time.double()).to(time.dtype)


def resize_table(table: torch.Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> torch.Tensor:
    """Positions learned for every token (t * h * w, D) of a grid (t, h, w) for another one -> (t' * h' * w', D).

    The two maps of :func:`resize_space` and :func:`resize_time`, so that the sum of a part for space and a part for
    time becomes the sum of the two resized parts.
    """
    slots = [resize_space(slot, old[1:], new[1:]) for slot in table.unflatten(0, (old[0], -1))]
    return resize_time(torch.stack(slots).flatten(1), new[0]).unflatten(1, (-1, table.shape[1])).flatten(0, 1)


def resize_patch_weight(
    weight: torch.Tensor, old: tuple[int, int, int], new: tuple[int, int, int], inflation: str = "average"
) -> torch.Tensor:
    """Weights (D, pt*ph*pw*C) of the embedding of patches (pt, ph, pw) for other patches -> (D, pt'*ph'*pw'*C).

    Frames go by :func:`frame_matrix`, rows and columns by :func:`weight_matrix`, bicubic.

    Raises:
        ValueError: unknown inflation.
    """
    frames = frame_matrix(old[0], new[0], inflation)
    if old == new:
        return weight
    rows, columns = (weight_matrix(o, n, "bicubic") for o, n in zip(old[1:], new[1:], strict=True))
    values = weight.double().unflatten(1, (*old, -1))  # (D, pt, ph, pw, C), the order of patchify
    for axis, matrix in enumerate((frames, rows, columns), start=1):
        values = torch.tensordot(values, matrix.to(values.device), dims=([axis], [1])).movedim(-1, axis)
    return values.flatten(1).to(weight.dtype)
