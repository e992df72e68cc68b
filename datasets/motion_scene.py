"""Scenes of the motion set: how a camera and a cut-out move over a photograph, and how frames of that are rendered.

Used by render_motion_set.py, whose text says what the set is. Nothing here reads or writes files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

# name -> what it means. The second class of each pair is the first one's path played backwards.
CLASSES = {
    "pan_right": "the camera moves right: the scene slides to the left",
    "pan_left": "the camera moves left: the scene slides to the right",
    "pan_down": "the camera moves down: the scene slides up",
    "pan_up": "the camera moves up: the scene slides down",
    "zoom_in": "the camera comes closer: the scene grows",
    "zoom_out": "the camera goes away: the scene shrinks",
    "roll_right": "the camera turns clockwise: the scene turns counter-clockwise",
    "roll_left": "the camera turns counter-clockwise: the scene turns clockwise",
    "object_right": "the cut-out moves right over a slowly drifting scene",
    "object_left": "the cut-out moves left over a slowly drifting scene",
}

# Ranges that the views of all classes share. Lengths are in units of the photograph's shorter side.
VIEW_SIDE = (0.55, 0.8)
VIEW_ANGLE = math.radians(8)
PAN = (0.24, 0.36)  # way of a pan, in view sides (less where the photograph ends)


@dataclass
class Scene:
    """Everything that moves, per frame; positions in units of the photograph's shorter side, angles in radians."""

    camera: np.ndarray  # (T, 4): x, y of the view's centre, side of the view, angle
    cutout: np.ndarray  # (T, 3): x, y of the cut-out's centre, angle
    radius: float  # of the cut-out
    harmonics: np.ndarray  # (K, 2): amplitude and phase of the outline's waves, which make a pebble of the circle
    texture_centre: np.ndarray  # (2,): where on the second photograph the cut-out was cut


def sweep(rng: np.random.Generator, low: float, high: float, way: float, progress: np.ndarray) -> np.ndarray:
    """A path of length ``way`` placed anywhere in [low, high]; constant for ``way`` = 0."""
    way = min(way, high - low)
    start = rng.uniform(low, high - way)
    return start + way * progress


def camera_path(rng: np.random.Generator, motion: str, aspect: float, progress: np.ndarray) -> np.ndarray:
    """(T, 4) camera of the *first* class of a pair: pan_right, pan_down, zoom_in, roll_right or object_right."""
    angle_way = rng.uniform(1.1, 1.5) * VIEW_ANGLE if motion == "roll_right" else 0.0
    angle = sweep(rng, -VIEW_ANGLE, VIEW_ANGLE, angle_way, progress)
    zoom_way = rng.uniform(0.6, 0.8) * math.log(VIEW_SIDE[1] / VIEW_SIDE[0]) if motion == "zoom_in" else 0.0
    # Zooming in = the view shrinks; in the logarithm, so that the speed looks even.
    side = np.exp(-sweep(rng, -math.log(VIEW_SIDE[1]), -math.log(VIEW_SIDE[0]), zoom_way, progress))
    way = rng.uniform(*PAN) * side[0]
    ways = {"pan_right": (way, 0.0), "pan_down": (0.0, way)}.get(motion, (0.0, 0.0))
    if motion == "object_right":  # the scene drifts a little, in any direction
        direction, drift = rng.uniform(0, 2 * math.pi), rng.uniform(0.03, 0.08) * side[0]
        ways = (drift * math.cos(direction), drift * math.sin(direction))
    reach = float(np.max(side * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))))) / 2  # of a turned view
    extents = (max(aspect, 1.0), max(1 / aspect, 1.0))
    centre = [
        sweep(rng, reach, extent - reach, abs(way), progress if way >= 0 else 1 - progress)
        for extent, way in zip(extents, ways, strict=True)
    ]
    return np.stack([*centre, side, angle], axis=1)


def cutout_path(rng: np.random.Generator, motion: str, camera: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """(T, 3) cut-out: lying still on the photograph, or (object_right) crossing the view on a slightly curved path."""
    middle_x, middle_y, side, angle = camera[len(camera) // 2]
    x, y = rng.uniform(-0.28, 0.28, size=2)  # in the view of the middle frame, in view sides
    turn = np.full(len(camera), rng.uniform(0, 2 * math.pi))
    x, y = np.full(len(camera), x), np.full(len(camera), y)
    if motion == "object_right":
        x = x * 0.5 + rng.uniform(0.4, 0.6) * (progress - 0.5)
        y = y + rng.uniform(-0.06, 0.06) * np.sin(math.pi * progress)
        turn = turn + rng.uniform(-0.5, 0.5) * progress
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([middle_x + side * (cos * x - sin * y), middle_y + side * (sin * x + cos * y), turn], axis=1)


def draw_scene(rng: np.random.Generator, name: str, frames: int, aspect: float) -> Scene:
    """Draw the scene of one clip of class ``name`` over a photograph of this width / height."""
    names = list(CLASSES)
    backwards = names.index(name) % 2 == 1
    motion = names[names.index(name) // 2 * 2]
    time_ = np.linspace(0, 1, frames)
    ease = rng.uniform(0, 0.6)  # 0 = constant speed; more = starts and stops gently
    progress = (1 - ease) * time_ + ease * (3 * time_**2 - 2 * time_**3)
    camera = camera_path(rng, motion, aspect, progress)
    cutout = cutout_path(rng, motion, camera, progress)
    if backwards:
        camera, cutout = camera[::-1].copy(), cutout[::-1].copy()
    waves = np.stack([rng.uniform(0, 0.16, size=3) / np.arange(1, 4), rng.uniform(0, 2 * math.pi, size=3)], axis=1)
    radius = rng.uniform(0.13, 0.2) * math.sqrt(VIEW_SIDE[0] * VIEW_SIDE[1])
    return Scene(camera, cutout, radius, waves, rng.uniform(0.35, 0.65, size=2))


def sample_photograph(photograph: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Colours (T, h, w, 3) at ``points`` (T, h, w, 2), x and y in units of the photograph's shorter side."""
    _, height, width = photograph.shape
    extent = torch.tensor([width, height]) / min(height, width)
    batch = photograph.expand(len(points), -1, -1, -1)
    colours = grid_sample(
        batch, (2 * points / extent - 1).float(), mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return colours.permute(0, 2, 3, 1)


def rotate(points: torch.Tensor, angle: np.ndarray) -> torch.Tensor:
    """Turn ``points`` (T, h, w, 2) by ``angle`` (T,)."""
    cos, sin = (torch.from_numpy(f(angle)).view(-1, 1, 1) for f in (np.cos, np.sin))
    x, y = points.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)


def coverage(points: torch.Tensor, scene: Scene, softness: torch.Tensor | float) -> torch.Tensor:
    """How much the cut-out covers each of ``points`` (T, h, w, 2) given around its centre: 1 inside, 0 outside."""
    distance = points.norm(dim=-1)
    bearing = torch.atan2(points[..., 1], points[..., 0])
    outline = torch.ones_like(bearing)
    for order, (amplitude, phase) in enumerate(scene.harmonics, start=2):
        outline = outline + amplitude * torch.cos(order * bearing + phase)
    return ((scene.radius * outline - distance) / softness + 0.5).clamp(0, 1)


def render(scene: Scene, photograph: torch.Tensor, texture: torch.Tensor, size: int) -> np.ndarray:
    """Frames uint8 (T, size, size, 3) of ``scene``; the cut-out shows ``texture`` and throws a soft shadow."""
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    view = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (h, w, 2): x, y
    position, side, angle = scene.camera[:, :2], scene.camera[:, 2], scene.camera[:, 3]
    side = torch.from_numpy(side.copy()).view(-1, 1, 1)
    points = rotate(view * side[..., None], angle) + torch.from_numpy(position.copy()).view(-1, 1, 1, 2)
    frames = sample_photograph(photograph, points)

    around = points - torch.from_numpy(scene.cutout[:, :2].copy()).view(-1, 1, 1, 2)
    local = rotate(around, -scene.cutout[:, 2])
    pixel = side / size
    shadow = coverage(rotate(around - 0.25 * scene.radius, -scene.cutout[:, 2]), scene, 0.5 * scene.radius)
    frames = frames * (1 - 0.45 * shadow[..., None]).float()
    alpha = coverage(local, scene, 1.5 * pixel)[..., None].float()
    extent = torch.tensor([texture.shape[2], texture.shape[1]]) / min(texture.shape[1:])
    colours = sample_photograph(texture, local + torch.from_numpy(scene.texture_centre) * extent)
    frames = alpha * colours + (1 - alpha) * frames
    return frames.round().clamp(0, 255).to(torch.uint8).numpy()
