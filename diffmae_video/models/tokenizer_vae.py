"""The latents of a convolutional VAE, frame by frame, cut into the patches' grid: what latent diffusion adds noise to.

The VAE is an ``AutoencoderKL`` of the package ``diffusers``, from a folder on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffmae_video.models.patches import patchify, unpatchify
from diffmae_video.models.tokenizers import Tokenizer

FRAMES_AT_A_TIME = 16  # a VAE's feature maps of a whole batch of clips would not fit


class ConvVAETokenizer(Tokenizer):
    """Frames through a convolutional VAE: a token has the latent pixels under its patch.

    A frame (3, H, W) in [-1, 1] becomes a map (c, H/f, W/f), of which a patch (pt, ph, pw) covers pt * (ph/f) * (pw/f)
    places: d = pt * (ph/f) * (pw/f) * c. The latent is the mean of the VAE's distribution, times its scaling factor.

    Args:
        vae: an ``AutoencoderKL``; its parameters become buffers, which nothing trains.
        grid: tokens (t, h, w) of the longest clips.
        patch_size: (pt, ph, pw).

    Raises:
        ValueError: a VAE of other than 3 channels, or one whose downsampling factor f does not divide the patch.
    """

    exact = False  # a network: it runs in the precision of the run

    def __init__(self, vae: nn.Module, grid: tuple[int, int, int], patch_size: tuple[int, int, int]):
        settings = vae.config
        factor = 2 ** (len(settings.block_out_channels) - 1)
        pt, ph, pw = patch_size
        if settings.in_channels != 3 or settings.out_channels != 3:
            raise ValueError(f"the VAE takes {settings.in_channels} channels, clips have 3: use a VAE of RGB images")
        if ph % factor or pw % factor:
            raise ValueError(
                f"the VAE makes frames {factor} times smaller, which does not divide the patch {ph} x {pw}: choose a "
                f"patch of a multiple of {factor} rows and columns"
            )
        super().__init__(pt * ph * pw * 3, pt * (ph // factor) * (pw // factor) * settings.latent_channels)
        self.grid, self.patch_size = tuple(grid), tuple(patch_size)
        self.latent_patch = (pt, ph // factor, pw // factor)
        self.factor, self.shift = settings.scaling_factor, settings.shift_factor or 0.0
        self.vae = parameters_to_buffers(vae).eval()

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        clip = unpatchify(patches, self._grid(patches), self.patch_size)  # (B, 3, T, H, W)
        frames = clip.transpose(1, 2).flatten(0, 1)  # (B * T, 3, H, W)
        maps = [self.vae.encode(part).latent_dist.mode() for part in frames.split(FRAMES_AT_A_TIME)]
        latents = (torch.cat(maps).float() - self.shift) * self.factor
        return patchify(latents.unflatten(0, (len(patches), -1)).transpose(1, 2), self.latent_patch)

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        maps = unpatchify(latents, self._grid(latents), self.latent_patch)  # (B, c, T, H / f, W / f)
        maps = maps.transpose(1, 2).flatten(0, 1) / self.factor + self.shift
        frames = torch.cat([self.vae.decode(part).sample for part in maps.split(FRAMES_AT_A_TIME)]).float()
        return patchify(frames.unflatten(0, (len(latents), -1)).transpose(1, 2), self.patch_size)

    def train(self, mode: bool = True) -> ConvVAETokenizer:
        """The VAE stays in eval mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def _grid(self, tokens: torch.Tensor) -> tuple[int, int, int]:
        """Of clips (B, N, ...), which may have fewer frames than the longest."""
        _, h, w = self.grid
        if tokens.shape[1] % (h * w):
            raise ValueError(f"expected whole frames of {h} x {w} tokens, got {tokens.shape[1]} tokens")
        return tokens.shape[1] // (h * w), h, w


def parameters_to_buffers(module: nn.Module) -> nn.Module:
    """Makes every parameter of a module a buffer of the same name, in place: nothing can train it any more."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module


def load_vae(folder: str | Path) -> Any:
    """The ``AutoencoderKL`` in a folder (``config.json`` and safetensors), float32 on the CPU.

    Raises:
        ImportError: the package diffusers is not installed.
        FileNotFoundError: no such folder, or no configuration in it.
        ValueError: what is there cannot be read as one.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ImportError("a convolutional VAE needs the package diffusers: pip install diffusers") from error
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no folder with an AutoencoderKL: expected config.json and "
            "diffusion_pytorch_model.safetensors in it, as AutoencoderKL.save_pretrained writes them"
        )
    try:
        vae, loading = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"the VAE in {folder} cannot be read: {error}") from error
    wrong = {kind: names for kind, names in loading.items() if names}
    if wrong:
        raise ValueError(f"the weights in {folder} are not those of its config.json: {wrong}")
    return vae
