"""Encoder, decoders, masks, and the self-supervised models made of them."""

from diffmae_video.models.classifier import VideoClassifier
from diffmae_video.models.decoders import DECODERS
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.latent_dae import LatentDAE
from diffmae_video.models.mae import MAE
from diffmae_video.models.masked_autoencoder import Context, MaskedAutoencoder, Output
from diffmae_video.models.masks import (
    MaskChoice,
    MaskMix,
    make_mask,
    mask_indices,
    pixel_mask_to_tokens,
    tokens_to_pixel_mask,
)

__all__ = [
    "DECODERS",
    "MAE",
    "Context",
    "DiffMAE",
    "LatentDAE",
    "MaskChoice",
    "MaskMix",
    "MaskedAutoencoder",
    "Output",
    "SpaceTimeViT",
    "VideoClassifier",
    "make_mask",
    "mask_indices",
    "pixel_mask_to_tokens",
    "tokens_to_pixel_mask",
]
