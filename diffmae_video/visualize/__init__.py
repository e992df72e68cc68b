"""Pictures for people: panels side by side, contact sheets, denoising trajectories, curves, feature maps.

Everything returns uint8 RGB arrays, a picture (H, W, 3) or a video (T, H, W, 3); ``diffmae_video.data.writing`` puts
them into files. docs/pictures.md shows one of each. Names are imported when they are first used: curves need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmae_video.visualize.comparison import comparison_sheet, deviation_frames, pixel_deviation, seed_grid
    from diffmae_video.visualize.confusion import confusion_matrix
    from diffmae_video.visualize.curves import Panel, line_plot, schedule_curves
    from diffmae_video.visualize.features import feature_colours, feature_maps, feature_sheet
    from diffmae_video.visualize.layout import (
        BACKGROUND,
        GAP,
        HEAT,
        HIDDEN_GREY,
        evenly_spaced,
        upscale,
    )
    from diffmae_video.visualize.panels import contact_sheet, frame_sheet, masked_frames, side_by_side
    from diffmae_video.visualize.trajectory import RecordedStep, Trajectory, trajectory_strip, trajectory_video

_MODULES = {
    "BACKGROUND": "layout",
    "GAP": "layout",
    "HEAT": "layout",
    "HIDDEN_GREY": "layout",
    "Panel": "curves",
    "RecordedStep": "trajectory",
    "Trajectory": "trajectory",
    "comparison_sheet": "comparison",
    "confusion_matrix": "confusion",
    "contact_sheet": "panels",
    "deviation_frames": "comparison",
    "evenly_spaced": "layout",
    "feature_colours": "features",
    "feature_maps": "features",
    "feature_sheet": "features",
    "frame_sheet": "panels",
    "line_plot": "curves",
    "masked_frames": "panels",
    "pixel_deviation": "comparison",
    "schedule_curves": "curves",
    "seed_grid": "comparison",
    "side_by_side": "panels",
    "trajectory_strip": "trajectory",
    "trajectory_video": "trajectory",
    "upscale": "layout",
}

__all__ = [
    "BACKGROUND",
    "GAP",
    "HEAT",
    "HIDDEN_GREY",
    "Panel",
    "RecordedStep",
    "Trajectory",
    "comparison_sheet",
    "confusion_matrix",
    "contact_sheet",
    "deviation_frames",
    "evenly_spaced",
    "feature_colours",
    "feature_maps",
    "feature_sheet",
    "frame_sheet",
    "line_plot",
    "masked_frames",
    "pixel_deviation",
    "schedule_curves",
    "seed_grid",
    "side_by_side",
    "trajectory_strip",
    "trajectory_video",
    "upscale",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
