"""Masked and denoising pre-training of space-time Vision Transformers on video, and video inpainting with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmae_video.build import load_model

__version__ = "0.1.0"
__all__ = ["load_model"]


def __getattr__(name: str):
    # Imported on first use: `import diffmae_video` alone should not cost the import of torch.
    if name == "load_model":
        from diffmae_video.build import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
