"""Where the numbers and pictures of a run go besides its own files: TensorBoard, Weights & Biases.

A sink has the four methods of :class:`Sink`. Its package is imported when it is made, and not before, so that a missing
one is found before the run and costs nothing where it is not asked for.
"""

from __future__ import annotations

import importlib
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from diffmae_video.engine.disk import tolerate_full_disk, write_text
from diffmae_video.engine.errors import RunError

logger = logging.getLogger(__name__)

WANDB_MODES = ("offline", "online")
WANDB_START_SECONDS, WANDB_END_SECONDS = 60, 20  # a server that does not answer holds a run up no longer than this


class Sink(Protocol):
    """Takes numbers and pictures between ``open`` and ``close``."""

    def open(self, step: int) -> None:
        """For a run that goes on after ``step``."""

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        """Values by name; those that are no single number are left out."""

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """A picture, uint8 (H, W, 3)."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``folder``; what they say about steps that a resumed run repeats is replaced.

    Raises:
        RunError: the package is missing.
    """

    def __init__(self, folder: str | Path):
        instead = "set TRAIN.TENSORBOARD False"
        self.folder = Path(folder)
        self._package = _import("torch.utils.tensorboard", "tensorboard", "TRAIN.TENSORBOARD is True", instead)
        self._events: Any = None

    def open(self, step: int) -> None:
        self._events = self._package.SummaryWriter(self.folder, purge_step=step + 1)

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        if self._events is not None:
            with tolerate_full_disk("TensorBoard events"):
                for name, value in _numbers(values).items():
                    self._events.add_scalar(f"{group}/{name}", value, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        if self._events is not None:
            with tolerate_full_disk("a TensorBoard image"):
                self._events.add_image(tag, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        self._events = None


class WeightsAndBiases:
    """A run on wandb.ai, or with ``"offline"`` in files below ``output_dir/wandb`` for ``wandb sync``.

    Its id lies in ``output_dir/wandb_run_id.txt``: a run that goes on is the same one there. Training never depends on
    it: whatever fails is reported once, and from then on nothing more is sent.

    Args:
        output_dir: folder of the run; its name is the run's name.
        mode: ``"offline"`` or ``"online"``.
        project: where it is listed.
        config: the run's configuration as plain values.

    Raises:
        RunError: the package is missing.
        ValueError: an unknown mode.
    """

    def __init__(self, output_dir: str | Path, mode: str, project: str, config: Mapping[str, Any]):
        if mode not in WANDB_MODES:
            raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(WANDB_MODES)}")
        self.output_dir, self.mode, self.project, self.config = Path(output_dir), mode, project, dict(config)
        self._package = _import("wandb", "wandb", f"TRAIN.WANDB is {mode!r}", 'set TRAIN.WANDB ""')
        self._run: Any = None

    def open(self, step: int) -> None:
        self._guarded(self._start)

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        named = {f"{group}/{name}": value for name, value in _numbers(values).items()}
        self._guarded(lambda: self._run and self._run.log(named, step=step))

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        self._guarded(lambda: self._run and self._run.log({tag: self._package.Image(image)}, step=step))

    def close(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        # In a thread: what is left to send must not keep a run that was asked to stop from saving its state.
        ending = threading.Thread(target=lambda: self._guarded(run.finish), name="end of W&B", daemon=True)
        ending.start()
        ending.join(WANDB_END_SECONDS)
        if ending.is_alive():
            logger.warning("W&B did not finish within %g s: the end of the run may be missing", WANDB_END_SECONDS)

    def _start(self) -> None:
        path = self.output_dir / "wandb_run_id.txt"
        if not path.exists():
            write_text(path, secrets.token_hex(4) + "\n")
        settings = self._package.Settings(console="off", init_timeout=WANDB_START_SECONDS)
        self._run = self._package.init(
            project=self.project,
            id=path.read_text().strip(),
            name=self.output_dir.resolve().name,
            dir=str(self.output_dir),
            config=self.config,
            mode=self.mode,
            settings=settings,
            **({"resume": "allow"} if self.mode == "online" else {}),
        )

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - of a service that training does not need
            self._run = None
            logger.warning(
                "W&B failed and is left out from now on; training goes on: %s: %s", type(error).__name__, error
            )


def _import(module: str, package: str, wanted: str, instead: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RunError(
            f"{wanted} but the package {package} is not installed: pip install {package}, or {instead}"
        ) from error


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
