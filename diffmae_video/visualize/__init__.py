"""Pictures for people: panels side by side, contact sheets, denoising trajectories, curves, feature maps.

Everything returns uint8 RGB arrays, a picture (H, W, 3) or a video (T, H, W, 3); ``diffmae_video.data.writing`` puts
them into files. docs/pictures.md shows one of each.
"""

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
