"""A trained network as one object: points in, classes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from core.contracts import IGNORE, Points, Sample, Scan, Sensor
from core.data import BatchLoader, DataConfig, Recipe, VotePlan, collate
from core.data.sensor_record import SensorRecord
from core.datasets import dataset_class
from core.engine.run.checkpoint import load_weights
from core.engine.run.context import autocast
from core.engine.run.experiment import Experiment
from core.engine.run.forward import infer
from core.engine.run.trained import read_network
from core.engine.score.evaluation import Predictor, decided_points, predict_points
from core.engine.score.inputs import Calibration, Images, cameras_of, table_of, with_images
from core.engine.score.voting import Votes, point_scores, winners
from core.errors import UserError
from core.labels import LabelSpace
from core.models import build_model
from core.sparse import fold_batch_norm

__all__ = ["Prediction", "Segmenter"]

_COMPARED = 10  # scans; it takes some 50 ms each


@dataclass(frozen=True)
class Prediction:
    """What a network says about one scan.

    Attributes:
        labels: u8 [N] train ids, one per point; 0 for a point outside ``data.point_range``.
        probabilities: f32 [N, classes], column = train id, 0 for "ignore"; rows of label 0 are 0.
        names: of the classes, index = train id.
        colors: u8 [N, 3] RGB of each point's class.
        raw_ids: u16 [N], the ids that label files of the data set hold.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]
    colors: np.ndarray
    raw_ids: np.ndarray


class Segmenter:
    """Labels points with a trained network.

    Args:
        network: in any mode; what predicts is a copy with folded batch norms.
        labels: its classes. data: how a scan becomes its view.
        experiment: of the run, for mixed precision and votes. device: where it runs.
        trained_on: the scanner of its training, None = unknown.
        sensor: where scanners stand unless told; None = at the points' origin.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: LabelSpace,
        data: DataConfig,
        experiment: Experiment,
        device: torch.device,
        trained_on: SensorRecord | None = None,
        sensor: Sensor | None = None,
    ) -> None:
        self.network = network.to(device)
        self.labels, self.data, self.experiment, self.device = labels, data, experiment, device
        self.trained_on = trained_on
        self.sensor = sensor or Sensor()
        self._warned: set[str] = set()
        self._compared = 0

    @cached_property
    def _folded(self) -> nn.Module:
        return fold_batch_norm(self.network)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        threads: int | None = None,
        thin: bool = True,
    ) -> Segmenter:
        """Open a run folder (its best checkpoint), a checkpoint, or an exported ``.safetensors``.

        Args:
            device: None = the GPU where there is one. threads: of the processor; None = as torch has it.
            thin: scans lose the beams that ``data.beams`` left out in training; False = they are of a scanner that has
                no others.

        Raises:
            UserError: the file is missing, damaged, or not made by this project.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        found = read_network(Path(path), "Segmenter.load")
        config = found.config
        reader = dataset_class(config)
        section = config.parse(reader.Config, "dataset")
        labels = reader.label_space(section)
        found.check_labels(labels)
        network = build_model(config, labels.num_classes, pretrained=False)
        load_weights(network, found.weights, str(found.path))
        data = config.parse(DataConfig, "data")
        if not thin:
            data = data.model_copy(update={"beams": None})
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(
            network,
            labels,
            data,
            Experiment.from_config(config),
            where,
            found.sensor,
            section.sensor.over(reader.sensor),
        )

    def predict(
        self,
        points: np.ndarray | Points,
        *,
        images: Images | None = None,
        calibration: Calibration | None = None,
        votes: int = 1,
        sensor: Sensor | None = None,
    ) -> Prediction:
        """Label one scan.

        Args:
            points: [N, 4+]: x, y, z (m, z up, the scanner's frame) and intensity as in training; or a table, for
                networks that read further columns. A row without return (x, y, z NaN, infinite or all 0) gets label 0.
            images: u8 [H, W, 3] RGB by camera, for networks that read them.
            calibration: ``calibration.yaml`` (:mod:`core.datasets.calibration`), or f64 [3, 4] by camera from
                homogeneous LiDAR points (m) to (u * depth, v * depth, depth) px.
            votes: passes over turned copies of the scan that decide together.
            sensor: where the scanner stands, if not where it stood in training.

        Raises:
            UserError: the points are no numbers [N, 4+] near the scanner, none has a return, or images and
                calibration do not fit together
                or the network.
        """
        scan = self._scan(points, images, calibration, sensor or self.sensor)
        return self._predict([scan], votes)[0]

    def predict_batch(
        self,
        scans: Sequence[np.ndarray | Points],
        *,
        images: Sequence[Images] | None = None,
        calibration: Calibration | None = None,
        votes: int = 1,
        sensor: Sensor | None = None,
    ) -> list[Prediction]:
        """Label several scans in one pass through the network.

        Args:
            images: of each scan, all of the same cameras.
            scans, calibration, votes, sensor: see :meth:`predict`.

        Raises:
            UserError: see :meth:`predict`; or there are images of more or fewer scans.
        """
        given = []
        for points, seen in with_images(scans, images):
            given.append(self._scan(points, seen, calibration, sensor or self.sensor))
        return self._predict(given, votes)

    def stream(
        self,
        scans: Iterable[np.ndarray | Points],
        *,
        images: Iterable[Images] | None = None,
        calibration: Calibration | None = None,
        votes: int = 1,
        sensor: Sensor | None = None,
    ) -> Iterator[Prediction]:
        """Label scan after scan as they come, each with its images; only one is in memory.

        Raises:
            UserError: see :meth:`predict_batch`.
        """
        for points, seen in with_images(scans, images):
            given = self._scan(points, seen, calibration, sensor or self.sensor)
            yield self._predict([given], votes)[0]

    def predict_loader(
        self, loader: BatchLoader, predict: Predictor, skipped: dict[str, None]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Label the scans of a data set.

        Args:
            loader, predict: see :func:`core.engine.score.voting.loader_and_predictor`.
            skipped: takes the messages of damaged scans, which are left out.

        Yields:
            (token, train ids u8 [N] of the scan's own points), in the loader's order.
        """
        loader.set_epoch(0, 0)
        cast = partial(autocast, self.experiment, self.device)
        for batch, predicted in predict(self.network, loader, self.device, cast, "predicting"):
            skipped |= dict.fromkeys(batch.skipped)
            classes = predicted.to(torch.uint8).cpu().numpy()
            keyframe = batch.keyframe.cpu().numpy()
            offsets = batch.point_offsets.tolist()
            for i, token in enumerate(batch.tokens):
                rows = slice(offsets[i], offsets[i + 1])
                if not batch.padded[i]:
                    yield token, classes[rows][keyframe[rows]]

    def _scan(
        self,
        points: np.ndarray | Points,
        images: Images | None,
        calibration: Calibration | None,
        sensor: Sensor,
    ) -> Scan:
        table = points if isinstance(points, Points) else table_of(points)
        lacking = [name for name in self.data.features if name not in (*table, "distance")]
        if lacking:
            raise UserError(
                f"the network reads the column {', '.join(lacking)}, which the points do not have",
                where="Segmenter.predict",
                cure="Give a table: core.contracts.Points(xyz=…, intensity=…, …)",
            )
        cameras = cameras_of(images or {}, calibration)
        if cameras and not self.data.uses_images(training=False):
            raise UserError(
                "this network reads no images",
                where="Segmenter.predict, images",
                cure="Leave images out, or load a LiDAR-camera network",
            )
        scan = Scan("scan", table, sensor, cameras)
        self.compare(scan)
        return scan

    def compare(self, scan: Scan) -> None:
        """Warn where one of the first scans has other units or another scanner than the training, each kind once."""
        if self.trained_on is None or self._compared == _COMPARED:
            return
        self._compared += 1
        divisor = self.data.intensity_divisor
        record = SensorRecord.of(scan, self.data.beams)
        for difference in self.trained_on.differences(record, divisor, divisor):
            if difference.kind not in self._warned:
                self._warned.add(difference.kind)
                logger.warning("{}; expect poor labels", difference.text)

    @torch.no_grad()
    def _predict(self, scans: Sequence[Scan], votes: int) -> list[Prediction]:
        e = self.experiment
        data = self.data
        if data.images and not any(scan.cameras for scan in scans):
            data = data.model_copy(update={"images": False})
        recipe = Recipe.of(data, training=False)
        plan = VotePlan(votes, drawn=e.eval.vote_augment, seed=e.train.seed)
        settings = Votes(votes)
        total: list[Tensor] = []
        for turn in range(votes):
            samples: list[Sample] = []
            for index, scan in enumerate(scans):
                samples.append(recipe.sample(scan, index, change=plan.of(index)[turn]))
            batch = collate(samples).to(self.device)
            with autocast(e, self.device):
                output = infer(self._folded, batch)
            scores = list(point_scores(output, batch, settings))
            if turn == 0:
                total = scores
                first, classes = batch, predict_points(output, batch)
                decided = decided_points(output, batch)
            else:
                total = [a + b for a, b in zip(total, scores)]
        if votes > 1:
            classes = winners(torch.cat(total), decided)
        sizes = first.point_offsets.diff().tolist()
        parts = zip(classes.split(sizes), decided.split(sizes), total)
        return [self._prediction(c, d, scores / votes) for c, d, scores in parts]

    def _prediction(self, classes: Tensor, decided: Tensor, scores: Tensor) -> Prediction:
        labels = classes.to(torch.uint8).cpu().numpy()
        probabilities = np.zeros((len(labels), self.labels.num_classes), np.float32)
        probabilities[:, IGNORE + 1 :] = (scores * decided[:, None]).cpu().numpy()
        return Prediction(
            labels,
            probabilities,
            self.labels.classes,
            self.labels.colors[labels],
            self.labels.to_raw(labels),
        )
