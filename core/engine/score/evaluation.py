"""Scoring a network on every raw point of a split, and showing what it predicts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from core.contracts import IGNORE, Batch, Output
from core.data import voxels_to_points
from core.engine.run.distributed import World, join_over_ranks, sum_over_ranks
from core.engine.run.forward import infer
from core.metrics import VIEWS, SegmentationScore
from core.sparse import fold_batch_norm

__all__ = ["Predictor", "decided_points", "predict_points", "predictions", "score_network"]

# What makes predictions of a loader's batches: (network, loader, device, autocast, title), see :func:`predictions`.
Predictor = Callable[
    [nn.Module, Any, torch.device, Callable[[], Any], str], Iterator[tuple[Batch, Tensor]]
]


def decided_points(output: Output, batch: Batch) -> Tensor:
    """Bool [SN]: points that the network gives a class: those it says where it scores points, else those of a cell."""
    if output.decided is not None:
        return output.decided
    of_point = batch.cells.of_point
    if output.point_decisions is None:
        return of_point >= 0
    return torch.ones_like(of_point, dtype=torch.bool)


def predict_points(output: Output, batch: Batch) -> Tensor:
    """Class of every point of the batch, never "ignore".

    It is the best of the values that the network gives for the point, else of its cell, and 0 where it has none.

    Returns:
        i64 [SN].
    """
    decisions = output.point_decisions
    if decisions is not None:
        return torch.where(decided_points(output, batch), _best_class(decisions), IGNORE)
    of_point = batch.cells.of_point
    best = _best_class(output.logits)
    if len(best) == 0:
        return torch.zeros_like(of_point)
    return torch.where(decided_points(output, batch), best[of_point.clamp_min(0)], IGNORE)


def _best_class(logits: Tensor) -> Tensor:
    scores = logits.float().clone()
    scores[:, IGNORE] = -torch.inf
    return scores.argmax(1)


def counted_points(batch: Batch) -> Tensor:
    """Bool [SN]: points of keyframes of samples that are not padding."""
    counts = batch.point_offsets.diff()
    padded = torch.tensor(batch.padded, device=batch.point_labels.device)
    return batch.keyframe & ~torch.repeat_interleave(padded, counts)


def subsets_of(batch: Batch, wanted: Mapping[str, tuple[str, int]]) -> dict[str, Tensor]:
    """Bool [SN] by name: points that a camera sees and those none sees, and where a column has a certain value.

    Args:
        wanted: (column, value) by name; nothing of a column that the batch lacks.
    """
    subsets = {}
    if batch.visible is not None:
        seen = voxels_to_points(batch.visible.any(0), batch, fill=False)
        subsets = dict(zip(VIEWS, (~seen, seen)))
    for name, (column, value) in wanted.items():
        if column in batch.points:
            subsets[name] = batch.points[column] == value
    return subsets


@torch.no_grad()
def predictions(
    network: nn.Module, loader: Any, device: torch.device, autocast: Callable[[], Any], title: str
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield (batch, predicted class of each of its points); a progress bar on a terminal."""
    network = fold_batch_norm(network)  # a copy, in evaluation mode
    for batch in tqdm(
        loader, desc=title, unit="batch", dynamic_ncols=True, disable=not sys.stderr.isatty()
    ):
        batch = batch.to(device)
        with autocast():
            output = infer(network, batch)
        yield batch, predict_points(output, batch)


def score_network(
    network: nn.Module,
    loader: Any,
    num_classes: int,
    world: World,
    autocast: Callable[[], Any],
    on_batch: Callable[[Batch, Tensor], None] | None = None,
    predict: Predictor | None = None,
    subsets: Mapping[str, tuple[str, int]] = MappingProxyType({}),
) -> tuple[SegmentationScore, dict[str, float], list[str]]:
    """Score every counted point of the loader's scans, over all ranks.

    Args:
        autocast: makes the mixed-precision context.
        on_batch: also called with each (batch, predictions), e.g. to collect pictures.
        predict: how, None = by :func:`predictions`, one pass per scan.
        subsets: of the points, as :attr:`core.datasets.benchmark.Benchmark.subsets`; what cameras see is always told.

    Returns:
        the score, {scans, points, seconds} summed over ranks (seconds of this rank), and messages of damaged scans.
    """
    score = SegmentationScore(num_classes, world.device, (*VIEWS, *subsets))
    scans = points = 0
    skipped: dict[str, None] = {}
    start = time.perf_counter()
    loader.set_epoch(1, 0)
    predict = predict or predictions
    for batch, predicted in predict(network, loader, world.device, autocast, "evaluating"):
        counted = counted_points(batch)
        parts = {name: inside[counted] for name, inside in subsets_of(batch, subsets).items()}
        truth, distance = batch.point_labels[counted], batch.distance[counted]
        score.update(predicted[counted], truth, distance, parts)
        scans += sum(not padded for padded in batch.padded)
        points += int(counted.sum())
        skipped |= dict.fromkeys(batch.skipped)
        if on_batch is not None:
            on_batch(batch, predicted)
    score.all_reduce()
    totals = sum_over_ranks(
        torch.tensor([scans, points], dtype=torch.float64, device=world.device)
    ).tolist()
    seconds = time.perf_counter() - start
    return (
        score,
        {"scans": totals[0], "points": totals[1], "seconds": seconds},
        join_over_ranks(skipped),
    )
