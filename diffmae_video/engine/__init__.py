"""Training: one loop, its checkpoints, its log, and what plugs into it (tasks and evaluators)."""

from diffmae_video.engine.checkpoint import ema_state, find_checkpoint, load_checkpoint, save_checkpoint
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.classification import ClassificationEvaluator
from diffmae_video.engine.errors import (
    CheckpointError,
    DamagedCheckpoint,
    NonFiniteLoss,
    RunError,
    TooManyUnreadable,
    TrainingInterrupted,
)
from diffmae_video.engine.evaluators import ReconstructionEvaluator
from diffmae_video.engine.inpainting_evaluation import InpaintingRun
from diffmae_video.engine.launch import launch
from diffmae_video.engine.measuring import KnnRun, TestRun
from diffmae_video.engine.monitor import Monitor, configure_logging
from diffmae_video.engine.optimizer import LrSchedule, make_adamw, make_optimizer, parameter_groups
from diffmae_video.engine.tasks import ClassifyTask, PretrainTask
from diffmae_video.engine.trainer import Trainer
from diffmae_video.engine.weights_file import WeightsFile, load_weights, save_weights
from diffmae_video.engine.world import PeerGone, Peers, World, joined
from diffmae_video.engine.wrapping import select_device

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "ClassificationEvaluator",
    "ClassifyTask",
    "DamagedCheckpoint",
    "InpaintingRun",
    "KnnRun",
    "LrSchedule",
    "Monitor",
    "NonFiniteLoss",
    "PretrainTask",
    "PeerGone",
    "Peers",
    "ReconstructionEvaluator",
    "RunError",
    "TestRun",
    "TooManyUnreadable",
    "Trainer",
    "TrainingInterrupted",
    "WeightsFile",
    "World",
    "configure_logging",
    "ema_state",
    "find_checkpoint",
    "joined",
    "launch",
    "load_checkpoint",
    "load_weights",
    "make_adamw",
    "make_optimizer",
    "parameter_groups",
    "save_checkpoint",
    "save_weights",
    "select_device",
]
