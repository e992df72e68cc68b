"""What an inpainted region is measured by: likeness to the original, steadiness, detail, and variety of results.

Frames are uint8 (T, H, W, 3) RGB; masks are bool (T, H, W), True = hidden, and only what was hidden is measured. Sums
are float64. LPIPS, which needs weights, is in ``perceptual``.
"""

from __future__ import annotations

import numpy as np

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # pixels: a window of 11 x 11
SSIM_K1, SSIM_K2 = 0.01, 0.03
DETAIL_SIGMA, DETAIL_RADIUS = 2.0, 8  # pixels
NO_DETAIL = 1e-6  # grey levels^2, mean: rounding of the blur leaves far less, one pixel in a million that differs more


def psnr(pred: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pixels, ``10 log10(255^2 / MSE)``; infinite where they are equal.

    Args:
        pred, target: uint8 of one shape (..., 3).
        mask: bool (...): only the pixels that are True count; None = all.

    Raises:
        ValueError: shapes that differ, other types, or a mask without a True pixel.
    """
    _check_pair(pred, target, mask)
    if mask is not None:
        pred, target = pred[mask], target[mask]
    error = np.mean((pred.astype(np.float64) - target.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(pred: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity of the frames, mean over the hidden pixels and RGB; at most 1, which means equal.

    Wang et al. 2004 ("Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13): means,
    variances and covariance under a Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, range 255.
    At the border of a frame the window sees the frame mirrored, its edge pixels twice (c b a | a b c). A hidden pixel
    within 5 pixels of the mask's border is compared together with visible ones, which are equal in both.

    Args:
        pred, target: uint8 (T, H, W, 3), H and W at least 11.
        mask: bool (T, H, W), True = hidden.

    Raises:
        ValueError: shapes, types or a mask that do not fit, or frames smaller than the window.
    """
    _check_frames(pred, target, mask)
    window = 2 * SSIM_RADIUS + 1
    if min(mask.shape[1:]) < window:
        raise ValueError(
            f"SSIM compares windows of {window}x{window} pixels, the frames are {mask.shape[1]}x{mask.shape[2]}: "
            "measure larger frames, or use psnr"
        )
    total = 0.0
    for number in np.flatnonzero(mask.any(axis=(1, 2))):  # one by one: the maps of a long video would fill the memory
        total += _ssim_map(pred[number], target[number])[mask[number]].sum()
    return float(total / (3 * mask.sum()))


def frame_difference_error(pred: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """How far the change from frame to frame is from the original's, in grey levels (0..255); 0 = the same motion.

    Mean of ``|(pred[t+1] - pred[t]) - (target[t+1] - target[t])|`` over RGB and the pixels that are hidden in at least
    one of the two frames. No optical flow is involved. A constant error of colour does not count, flicker does; a still
    fill of a moving region is wrong by the motion that it lacks.

    Args:
        pred, target: uint8 (T, H, W, 3).
        mask: bool (T, H, W), True = hidden.

    Returns:
        NaN for a single frame, which has no change.

    Raises:
        ValueError: shapes, types or a mask that do not fit.
    """
    _check_frames(pred, target, mask)
    if len(mask) == 1:
        return float("nan")
    error = pred.astype(np.int16) - target.astype(np.int16)  # the difference of changes is the change of differences
    return float(np.abs(np.diff(error, axis=0))[mask[1:] | mask[:-1]].mean(dtype=np.float64))


def high_frequency_ratio(
    pred: np.ndarray, target: np.ndarray, mask: np.ndarray, inside: tuple[int, int] | None = None
) -> float:
    """Energy of fine detail in the hidden pixels, relative to the original's.

    1 = as much detail, below = blurred, above = noisy. Detail is a frame minus itself blurred by a Gaussian of
    sigma 2 pixels (17 x 17, the frame mirrored at its border); the energy is the mean of its squares over RGB and the
    hidden pixels of all frames. It says how much detail there is, not whether it is the right one.

    **Seams**: a step between two patches that were generated apart is detail by this definition, and so is one at the
    border of the mask. A blurred result with visible patch borders can so reach 1 without any detail of its own.
    ``inside`` leaves seams out: from every patch its plane (mean and slopes, least squares) is taken first, then it is
    blurred as a picture of its own, so that no pixel is compared with one of another patch. A step between patches or
    patches of wrong colours add nothing then. The two ratios of a clip are not comparable with each other.

    Args:
        pred, target: uint8 (T, H, W, 3).
        mask: bool (T, H, W), True = hidden; it need not follow the patches.
        inside: rows and columns of a patch, at least 3 each (less has no detail beside its slope), which divide H and
            W; None = patches play no part.

    Returns:
        0 or more; NaN where the original has no detail (flat colours).

    Raises:
        ValueError: shapes, types, a mask or a patch that do not fit.
    """
    _check_frames(pred, target, mask)
    if inside is not None and (min(inside) < 3 or mask.shape[1] % inside[0] or mask.shape[2] % inside[1]):
        raise ValueError(
            f"inside={tuple(inside)} must be rows and columns of a patch, at least 3 each, that divide the frames' "
            f"{mask.shape[1]}x{mask.shape[2]} pixels; None measures without patches"
        )
    found, wanted = _detail_energy(pred, mask, inside), _detail_energy(target, mask, inside)
    return found / wanted if wanted > NO_DETAIL else float("nan")


def diversity(samples: np.ndarray, mask: np.ndarray) -> float:
    """How much K results of one input differ: standard deviation across them in grey levels, mean over hidden pixels.

    The deviation of every pixel and colour has K - 1 in its denominator, so that its square does not depend on K on
    average. 0 = all results are equal.

    Args:
        samples: uint8 (K, T, H, W, 3).
        mask: bool (T, H, W), True = hidden.

    Returns:
        NaN for a single sample, which says nothing about others.

    Raises:
        ValueError: shapes, types or a mask that do not fit.
    """
    if samples.ndim != 5 or not len(samples):
        raise ValueError(f"expected at least one sample, uint8 (K, T, H, W, 3), got shape {samples.shape}")
    _check_frames(samples[0], samples[0], mask)
    if len(samples) == 1:
        return float("nan")
    return float(samples[:, mask].astype(np.float64).std(axis=0, ddof=1).mean())


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Fréchet distance of two Gaussians that are fitted to two sets of features; 0 = the same mean and covariance.

    ``||mu_a - mu_b||^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017, arXiv:1706.08500, eq. 6), with
    unbiased covariances. Of few rows the estimate is too large, strongly so with no more rows than columns, where the
    covariances do not have full rank. Compare only distances of equal numbers of rows and of the same features; numbers
    from other features than those of Inception are no "FID".

    Args:
        features_a: (n, d).
        features_b: (m, d).

    Raises:
        ValueError: shapes that do not fit, fewer than 2 rows, or a value that is not finite.
    """
    features_a, features_b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"expected features (n, d) and (m, d), got {features_a.shape} and {features_b.shape}")
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(
            f"a covariance needs at least 2 rows of features, got {len(features_a)} and {len(features_b)}: "
            "measure on more clips"
        )
    if not (np.isfinite(features_a).all() and np.isfinite(features_b).all()):
        raise ValueError("a feature is NaN or infinite: look at what the feature network was given")
    root_a, root_b = _covariance_root(features_a), _covariance_root(features_b)
    # C_a C_b = A'A B'B has the eigenvalues of (A B')(A B')', so their square roots are the singular values of A B'. No
    # small eigenvalue is squared and rooted on the way, which is where the usual matrix square root loses its digits.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = ((features_a.mean(axis=0) - features_b.mean(axis=0)) ** 2).sum()
    return max(0.0, float(means + (root_a**2).sum() + (root_b**2).sum() - 2 * shared))


def _check_pair(pred: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> None:
    if pred.shape != target.shape or (mask is not None and mask.shape != pred.shape[:-1]):
        raise ValueError(
            f"shapes do not agree: prediction {pred.shape}, target {target.shape}, "
            f"mask {None if mask is None else mask.shape}"
        )
    if pred.dtype != np.uint8 or target.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, 0 to 255; got {pred.dtype} and {target.dtype}")
    if mask is not None and mask.dtype != np.bool_:
        raise ValueError(f"a mask must be bool, True = hidden; got {mask.dtype}")
    if mask is not None and not mask.any():
        raise ValueError("the mask hides nothing: there is no pixel to compare")


def _check_frames(pred: np.ndarray, target: np.ndarray, mask: np.ndarray) -> None:
    _check_pair(pred, target, mask)
    if pred.ndim != 4 or pred.shape[-1] != 3:
        raise ValueError(f"expected frames (T, H, W, 3), got {pred.shape}")


def _ssim_map(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """SSIM of every pixel and colour of a frame (H, W, 3)."""
    x, y = pred.astype(np.float64), target.astype(np.float64)
    windowed = [_blur(image, SSIM_SIGMA, SSIM_RADIUS) for image in (x, y, x * x, y * y, x * y)]
    mean_x, mean_y, square_x, square_y, product = windowed
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = (255 * SSIM_K1) ** 2, (255 * SSIM_K2) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def _detail_energy(frames: np.ndarray, mask: np.ndarray, inside: tuple[int, int] | None) -> float:
    """Mean square of the detail over RGB and the hidden pixels, grey levels^2."""
    numbers = np.flatnonzero(mask.any(axis=(1, 2)))
    total = sum(float((_detail(frames[number], inside)[mask[number]] ** 2).sum()) for number in numbers)
    return total / (3 * int(mask.sum()))


def _detail(frame: np.ndarray, inside: tuple[int, int] | None) -> np.ndarray:
    """What a blur takes away from a frame (H, W, 3), as a whole or within its patches."""
    image = frame.astype(np.float64)
    if inside is None:
        return image - _blur(image, DETAIL_SIGMA, DETAIL_RADIUS)
    (height, width, _), (ph, pw) = image.shape, inside
    patches = image.reshape(height // ph, ph, width // pw, pw, 3).swapaxes(1, 2)  # (rows, columns, ph, pw, 3)
    flat = _without_plane(patches)
    return (flat - _blur(flat, DETAIL_SIGMA, DETAIL_RADIUS)).swapaxes(1, 2).reshape(image.shape)


def _without_plane(patches: np.ndarray) -> np.ndarray:
    """Patches (..., ph, pw, 3) without their mean and their slopes down and across (least squares)."""
    flat = patches - patches.mean(axis=(-3, -2), keepdims=True)
    down = np.arange(flat.shape[-3], dtype=np.float64)[:, None, None]
    across = np.arange(flat.shape[-2], dtype=np.float64)[:, None]
    for place in (down - down.mean(), across - across.mean()):  # at right angles: one after the other is exact
        flat = flat - place * (flat * place).mean(axis=(-3, -2), keepdims=True) / (place**2).mean()
    return flat


def _blur(images: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Images (..., H, W, C) under a Gaussian of 2 radius + 1 pixels; their borders are mirrored, edge pixels twice."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (images.ndim - 3, images.ndim - 2):
        length = images.shape[axis]
        around = [(radius, radius) if a == axis else (0, 0) for a in range(images.ndim)]
        padded = np.moveaxis(np.pad(images, around, mode="symmetric"), axis, 0)
        blurred = sum(weight * padded[k : k + length] for k, weight in enumerate(weights))
        images = np.moveaxis(blurred, 0, axis)
    return images


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R (min(n, d), d) with R'R = the covariance (d, d) of features (n, d)."""
    centred = features - features.mean(axis=0)
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1)
