"""Runs that measure and train nothing: the multi-view test of a classifier, and nearest neighbours of its features."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from diffmae_video.data import EvaluationClips
from diffmae_video.engine.classification import ClassificationResult, classify
from diffmae_video.engine.classification_report import summary, write_report
from diffmae_video.engine.disk import JsonLines, write_text
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.knn import extract, knn_result
from diffmae_video.engine.world import Peers
from diffmae_video.engine.wrapping import autocast
from diffmae_video.models import VideoClassifier

logger = logging.getLogger(__name__)


class Measurement:
    """What the two runs share: the start of the log, and the files that stay in ``output_dir/<name>``.

    Args:
        model: on its device, with its weights.
        clips: the test set.
        class_names: names of the model's classes.
        output_dir: folder of the run; created when missing.
        config_text: YAML of the resolved configuration, stored beside the results.
        device: where the model is.
        precision: "bf16" or "fp32".
        unreadable: "leave_out" or "wrong"; see ``classification.py``.
        description: lines for the log of the start.
        peers: the processes that measure together, of which this is one; each of them has its own part of the clips.
            None = this one alone.
    """

    name = "test"

    def __init__(
        self,
        *,
        model: VideoClassifier,
        clips: EvaluationClips,
        class_names: Sequence[str],
        output_dir: str | Path,
        config_text: str,
        device: torch.device,
        precision: str,
        unreadable: str,
        description: Sequence[str] = (),
        peers: Peers | None = None,
    ):
        self.peers = Peers() if peers is None else peers
        self.model, self.clips, self.class_names = model, clips, class_names
        self.output_dir, self.config_text = Path(output_dir), config_text
        self.device, self.precision, self.unreadable = device, precision, unreadable
        self.description = tuple(description)

    def run(self) -> ClassificationResult | None:
        """Measures, writes the report and one line of ``evaluations.jsonl``, and logs a summary.

        Of several processes the first one does the writing and has the result.

        Raises:
            RunError: see ``classification.classify``.
        """
        data = self.clips.dataset
        logger.info("output: %s", self.output_dir)
        for line in self.description:
            logger.info("%s", line)
        views = f"{data.test_clips} clips x {data.test_crops} crops each"
        logger.info("%s of %d videos, %s, %s on %s", self.name, len(data), views, self.precision, self.device)
        result = self.measure()
        if result is None:
            return None
        folder = self.output_dir / self.name
        write_report(result, self.class_names, folder)
        write_text(folder / "config.yaml", self.config_text)
        lines = JsonLines(self.output_dir / "evaluations.jsonl", keep_up_to=sys.maxsize)
        lines.append({"step": 0, "evaluator": self.name, **result.metrics()})
        lines.close()
        logger.info("%s", summary(result, self.class_names))
        logger.info("predictions, classes and confusion matrix: %s", folder)
        return result

    def measure(self) -> ClassificationResult | None:
        raise NotImplementedError


class TestRun(Measurement):
    """The multi-view test of a classifier."""

    __test__ = False  # its name makes pytest look for tests in it

    def measure(self) -> ClassificationResult | None:
        with evaluation(self.model, self.device), autocast(self.precision, self.device):
            return classify(self.model, self.clips, unreadable=self.unreadable, peers=self.peers)


class KnnRun(Measurement):
    """Nearest neighbours, by the frozen encoder's pooled features, of test videos among training videos.

    Args:
        train_clips: the labelled videos that vote.
        k, temperature: see ``knn.knn_predict``.
        others: as of :class:`Measurement`; the model's head is not used.
    """

    name = "knn"

    def __init__(self, *, train_clips: EvaluationClips, k: int, temperature: float, **options):
        super().__init__(**options)
        self.train_clips, self.k, self.temperature = train_clips, k, temperature

    def measure(self) -> ClassificationResult | None:
        train, test = (
            extract(self.model, clips, self.device, self.precision, peers=self.peers)
            for clips in (self.train_clips, self.clips)
        )
        if train is None or test is None:
            return None
        logger.info("%d training videos vote; %s", len(train.labels), self.train_clips.summary())
        k = min(self.k, len(train.labels))
        if k < self.k:
            logger.warning("KNN.K is %d, but there are %d training videos: all of them vote", self.k, k)
        return knn_result(
            train,
            test,
            self.clips,
            k=k,
            temperature=self.temperature,
            num_classes=self.model.num_classes,
            unreadable=self.unreadable,
            device=self.device,
        )
