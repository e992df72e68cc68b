"""The only place where a config becomes objects."""

from diffmae_video.build.data import DatasetError, build_dataset, build_loader, build_transform, data_sources
from diffmae_video.build.models import build_decoder, build_encoder, build_model, build_schedule, load_model
from diffmae_video.build.training import build_evaluators, build_run, build_trainer, readable_clips, training_length

__all__ = [
    "DatasetError",
    "build_dataset",
    "build_decoder",
    "build_encoder",
    "build_evaluators",
    "build_loader",
    "build_model",
    "build_run",
    "build_schedule",
    "build_trainer",
    "build_transform",
    "data_sources",
    "load_model",
    "readable_clips",
    "training_length",
]
