"""Scoring a checkpoint: the network it holds, its score on a split, the line of result, the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loguru import logger
from torch import nn

from core.config import Config
from core.datasets.base import ScanDataset
from core.decode import read_json
from core.engine.run.checkpoint import load_weights
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.provenance import provenance
from core.engine.score.evaluation import score_network
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.engine.score.weights import read_network
from core.errors import UserError
from core.io import sha256, write_json
from core.labels import LabelSpace
from core.metrics import EvaluationResult, SegmentationScore

__all__ = ["evaluate_checkpoint", "frozen_score", "print_result", "trained_network"]


def trained_network(context: Context, labels: LabelSpace, checkpoint: Path) -> nn.Module:
    """The configuration's network with the weights of a checkpoint, on this rank's device.

    Raises:
        UserError: the checkpoint belongs to another model or label space.
    """
    found = read_network(checkpoint)
    if found.fingerprint != labels.fingerprint:
        raise UserError(
            f"this checkpoint was trained on other classes ({', '.join(found.classes[1:6])}, …)",
            where=str(checkpoint),
            cure=f"Evaluate it on its own data set; '{labels.name}' has {labels.num_classes - 1} classes",
        )
    model = context.model(labels.num_classes, pretrained=False)
    load_weights(model, found.weights, str(checkpoint))
    return model.to(context.world.device)


def frozen_score(
    score: SegmentationScore, totals: Mapping[str, float], scans: ScanDataset, **known: Any
) -> EvaluationResult:
    """What :func:`score_network` returned, with this command line; ``known`` holds what only the caller knows."""
    return EvaluationResult.from_score(
        score,
        dataset=scans.title,
        classes=scans.labels.classes,
        num_scans=int(totals["scans"]),
        num_points=int(totals["points"]),
        seconds=totals["seconds"],
        **provenance(),
        **known,
    )


def evaluate_checkpoint(
    world: World,
    config: Config,
    checkpoint: Path,
    run_path: Path,
    *,
    split: str = "val",
    json_path: Path | None = None,
    report: bool = False,
    votes: Votes = PLAIN,
    compared: Mapping[str, Path] = MappingProxyType({}),
) -> EvaluationResult:
    """Score a checkpoint on a split: every raw point, all ranks. Prints one line of result on rank 0.

    Args:
        json_path: where the scores go; None = into the run folder.
        votes: views of each scan that decide together; by default one plain pass.
        report: write ``report.html`` too. compared: other networks' score files, by the name they get in the report.

    Raises:
        UserError: the checkpoint belongs to another model or label space.
    """
    from core.engine.report.run_report import PictureCollector, report_run

    others = [
        (name, EvaluationResult.from_json(read_json(path), str(path)))
        for name, path in compared.items()
    ]
    context = Context.open(config, world)
    dataset = context.dataset(split)
    labels = dataset.labels
    model = trained_network(context, labels, checkpoint)
    pictures = PictureCollector(
        dataset, context.experiment.eval.pictures if report and world.rank == 0 else 0
    )
    loader, predict = loader_and_predictor(context, dataset, context.data, votes)
    score, totals, skipped = score_network(
        model, loader, labels.num_classes, world, context.autocast, pictures, predict
    )
    result = frozen_score(
        score,
        totals,
        dataset,
        split=split,
        checkpoint=str(checkpoint),
        checkpoint_sha256=sha256(checkpoint),
        votes=votes.count,
        extra={"votes": votes.settings(context)} if votes.count > 1 else {},
    )
    if world.rank == 0:
        for message in skipped:
            logger.warning("skipped: {}", message)
        voted = (
            f"-votes{votes.count}" if votes.count > 1 else ""
        )  # the run's own score is that of one plain pass
        write_json(json_path or run_path / f"evaluation-{split}{voted}.json", result.to_json())
        page = report_run(run_path, result, pictures, config, others) if report else None
        print_result(result, page, context.experiment.eval.legacy_metric)
    return result


def print_result(result: EvaluationResult, page: Path | None, legacy: bool) -> None:
    """Print the one line of result.

    Args:
        page: the report, None = none was written. legacy: give the lenient mIoU too.
    """
    """Write the score, and where its report lies, as one line to the standard output."""
    ending = "" if page is None else f"  report: {page}"
    lenient = (
        f" (legacy, points without a prediction left out: {100 * result.miou_legacy:.2f})"
        if legacy
        else ""
    )
    voted = f", {result.votes} votes each" if result.votes > 1 else ""
    sys.stdout.write(
        f"mIoU {100 * result.miou:.2f}{lenient} on {result.num_scans} {result.split} scans{voted}{ending}\n"
    )
    sys.stdout.flush()
