"""What a user gives as a mask -> bool pixels (T, H, W), True = hidden.

A mask is the name of a strategy or of a region, a box that stands or moves, a list of frames, a picture, a folder of
pictures or a video: ``read_mask`` tells which. All of docs/inpainting.md's table is read here.
"""

from diffmae_video.mask_input.grow import grow_mask
from diffmae_video.mask_input.pictures import PICTURES, read_mask_picture
from diffmae_video.mask_input.reading import object_numbers, read_mask
from diffmae_video.mask_input.regions import REGIONS, box_mask, frames_mask, moving_box_mask, region_mask
from diffmae_video.mask_input.sequences import folder_mask, picture_files, picture_mask, video_mask
from diffmae_video.mask_input.strategies import patch_in_pixels, strategy_mask

__all__ = [
    "PICTURES",
    "REGIONS",
    "box_mask",
    "folder_mask",
    "frames_mask",
    "grow_mask",
    "moving_box_mask",
    "object_numbers",
    "patch_in_pixels",
    "picture_files",
    "picture_mask",
    "read_mask",
    "read_mask_picture",
    "region_mask",
    "strategy_mask",
    "video_mask",
]
