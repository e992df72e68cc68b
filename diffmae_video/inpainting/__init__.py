"""Inpainting: visible pixels and a mask in, a completed clip or video out.

``inpaint`` takes clips of the model's own size; ``inpaint_video`` takes frames of any size and number and covers them
with such clips. The pixels under the mask are never read, and the visible ones come back as they were.
"""

from diffmae_video.inpainting.clips import inpaint
from diffmae_video.inpainting.sampling import OVERLAPS, SamplingStep
from diffmae_video.inpainting.video import inpaint_video
from diffmae_video.inpainting.windows import FITS, working_size

__all__ = ["FITS", "OVERLAPS", "SamplingStep", "inpaint", "inpaint_video", "working_size"]
