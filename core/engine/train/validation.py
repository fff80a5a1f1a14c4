"""What is measured on the val split while a training runs, for the score that decides on the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.datasets.base import ScanDataset
from core.distill import Score
from core.distill.score import IOU
from core.engine.run.context import Context
from core.engine.run.distributed import sum_over_ranks
from core.engine.score.evaluation import score_network
from core.engine.train.trainer import Trainer
from core.metrics import Confusion

__all__ = ["validation"]


def validation(
    context: Context, trainer: Trainer, val_set: ScanDataset | None, score: Score
) -> Callable[[], dict[str, float]] | None:
    """What measures the trainer's present weights: named scalars, ``score.scalar`` among them.

    Returns:
        None where nothing is measured.
    """
    if score.kind == "none" or val_set is None:
        return None
    if score.kind == "loss":
        samples = trainer.source.samples(val_set, training=False)
        losses = context.loader_of(samples, training=False)
        return lambda: mean_losses(trainer, losses, context)
    loader = context.loader(val_set, training=False)
    classes = val_set.labels.classes

    def measure() -> dict[str, float]:
        network = trainer.scored_network
        result, _, _ = score_network(network, loader, len(classes), context.world, context.autocast)
        return named_ious(result.overall, classes, score)

    return measure


def named_ious(confusion: Confusion, classes: tuple[str, ...], score: Score) -> dict[str, float]:
    """Mean IoU and that of each class present, in percent; the mean over ``score.classes`` if those are several.

    A mean over nothing is left out: it is no result.
    """
    named: dict[str, float] = {}
    if confusion.present().any():
        named[IOU] = 100 * confusion.miou()
    present = {}
    for name, iou in zip(classes[1:], confusion.iou().tolist()[1:]):
        if not math.isnan(iou):
            present[name] = 100 * iou
            named[f"{IOU}/{name}"] = 100 * iou
    if score.classes:
        chosen = [present[name] for name in score.classes if name in present]
        if chosen:
            named[score.scalar] = sum(chosen) / len(chosen)
    return named


@torch.no_grad()
def mean_losses(trainer: Trainer, loader: Any, context: Context) -> dict[str, float]:
    """The method's losses on the loader's batches: their mean over scans, and their sum. Collective."""
    method = trainer.scored_method
    training = method.training
    method.eval()
    sums: dict[str, Tensor] = {}
    scans = torch.zeros((), dtype=torch.float64, device=trainer.device)
    loader.set_epoch(1, 0)
    for batch in loader:
        with context.autocast():
            student, teacher = trainer.source(batch.to(trainer.device))
            losses = method(student, teacher)
        count = sum(not padded for padded in student.padded)
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(scans)) + count * loss.double()
        scans += count
    method.train(training)
    total = sum_over_ranks(torch.stack([*sums.values(), scans]))
    *means, _ = (total / total[-1]).tolist()
    named = {f"val_loss/{name}": mean for name, mean in zip(sums, means)}
    return named | {"val_loss/total": sum(means)}
