"""What a method needs of the configuration, the scans and the networks a training begins with."""

from __future__ import annotations

from loguru import logger

from core.data import DataConfig
from core.data.labelled import missing_labels
from core.data.sensor_record import SensorRecord
from core.datasets import dataset_class
from core.datasets.base import ScanDataset
from core.distill import Method, Needs, Score
from core.engine.run.context import Context
from core.engine.run.trained import TrainedNetwork
from core.errors import UserError

__all__ = [
    "check_data",
    "check_labels",
    "check_score",
    "check_view",
    "chosen_score",
    "compare_inputs",
]


def chosen_score(context: Context, kind: type[Method], val_set: ScanDataset) -> Score:
    """What decides on the best weights: ``eval.select``, else what the method says.

    Raises:
        UserError: an IoU is asked of a method that predicts no classes, or of an unknown class.
    """
    select = context.experiment.eval.select
    if select is None:
        return kind.score
    score = Score.parse(select, val_set.labels.classes)
    if score.kind == "iou" and not kind.predicts_classes():
        raise UserError(
            "this method's outputs are no classes, so they have no IoU",
            where="key 'eval.select'",
            cure="Choose loss or none",
        )
    return score


def check_data(context: Context, needs: Needs) -> None:
    """Refuse ``data:`` and ``dataset:`` sections without what the method learns from."""
    config = context.config
    reader = dataset_class(config)
    if needs.labels and not config.parse(reader.Config, "dataset").use_labels:
        raise UserError(
            "this method learns from labels, and none are read",
            where=f"{config.origin('dataset.use_labels')}, key 'dataset.use_labels'",
            cure="Set dataset.use_labels: true, or choose a method that learns without labels",
        )
    if needs.images and not context.data.images:
        raise UserError(
            "this method learns from images, and batches have none",
            where=f"{context.config.origin('data.images')}, key 'data.images'",
            cure="Set data.images: true, or choose terms of the method that do without",
        )
    missing = [name for name in needs.planes if name not in context.data.planes]
    if missing:
        raise UserError(
            f"this method learns from the maps {', '.join(missing)}, and batches have none",
            where=f"{context.config.origin('data.planes')}, key 'data.planes'",
            cure=f"Name them: data.planes: [{', '.join(needs.planes)}]",
        )


def check_view(context: Context, needs: Needs) -> None:
    """Refuse a view of the teacher's own where the method compares cell by cell."""
    section = context.experiment.teacher
    if needs.shared and section.source == "checkpoint" and section.view != "shared":
        raise UserError(
            "this method compares student and teacher cell by cell and point by point, and the teacher has a view of "
            "its own",
            where=f"{context.config.origin('teacher.view')}, key 'teacher.view'",
            cure="Set teacher.view: shared and leave teacher.cache out",
        )


def check_labels(dataset: ScanDataset, consequence: str) -> None:
    """Refuse a split of which no scan has labels."""
    error = missing_labels(dataset, consequence)
    if error is not None:
        raise error


def check_score(context: Context, needs: Needs, score: Score) -> None:
    """Refuse to rank by losses that need images where evaluation has none."""
    images = needs.images or bool(needs.planes)
    if score.kind == "loss" and images and not context.data.eval_images:
        raise UserError(
            "this method's losses need images, and data.eval_images leaves them out on the val split",
            where=f"{context.config.origin('data.eval_images')}, key 'eval.select'",
            cure="Set data.eval_images: true, or another eval.select, e.g. miou",
        )


def compare_inputs(
    context: Context, found: TrainedNetwork, data: DataConfig, record: SensorRecord | None, who: str
) -> None:
    """Warn, on rank 0, where this run's scans differ in units or scanner from those a network was trained on.

    Args:
        data: how that network is shown the scans now. who: it is, for the warning.
    """
    if found.sensor is None or record is None or context.world.rank > 0:
        return
    trained, now = found.intensity_divisor, data.intensity_divisor
    for difference in found.sensor.differences(record, trained, now):
        logger.warning("{} knows other scans: {}", who, difference.text)
