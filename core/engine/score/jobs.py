"""Scoring a checkpoint: the network it holds, its score on a split, the line of result, the report."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loguru import logger
from torch import Tensor

from core.config import Config
from core.contracts import Batch
from core.data.content import split_stamp
from core.data.labelled import check_labelled
from core.datasets.base import ScanDataset
from core.engine.run.adopted import settings_of
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.provenance import provenance
from core.engine.score.evaluation import score_network
from core.engine.score.moving import SequenceCounts, moving_line, with_moving
from core.engine.score.opened import Opened
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.errors import UserError, counted
from core.io import write_json
from core.metrics import VIEWS, EvaluationResult, SegmentationScore

__all__ = ["evaluate_checkpoint", "frozen_score", "print_result", "scored_by"]


def frozen_score(
    score: SegmentationScore, totals: Mapping[str, float], scans: ScanDataset, **known: Any
) -> EvaluationResult:
    """What :func:`score_network` returned, with this command line; ``known`` holds what only the caller knows.

    Raises:
        UserError: no counted point has a class, so that every mean would be one over nothing.
    """
    check_scored(score, totals, scans)
    return EvaluationResult.from_score(
        score,
        absent="skip" if scans.benchmark is None else scans.benchmark.absent,
        dataset=scans.title,
        classes=scans.labels.classes,
        made_up=scans.made_up,
        split_scans=scans.expected or len(scans),
        num_scans=int(totals["scans"]),
        num_points=int(totals["points"]),
        seconds=totals["seconds"],
        **provenance(),
        **known,
    )


def check_scored(score: SegmentationScore, totals: Mapping[str, float], scans: ScanDataset) -> None:
    """Refuse a score of no labelled point.

    Raises:
        UserError: there is none.
    """
    if score.overall.present().any():
        return
    count = int(totals["scans"])
    raise UserError(
        f"{scans.split} split: none of {totals['points']:,.0f} points of {counted(count, 'scan')} has a class, so "
        "there is no score",
        where=str(scans.root),
        cure="Run 'python -m core.check_data CONFIG' to see which classes the split holds",
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

    others = [(name, EvaluationResult.read(path)) for name, path in compared.items()]
    opened = Opened.of(world, config, checkpoint)
    context = opened.context
    dataset = context.dataset(split)
    check_labelled(dataset, context.data)
    if dataset.leak and world.rank == 0:
        logger.warning("{}; the score file says so", dataset.leak)
    labels = dataset.labels
    model = opened.network(labels)
    opened.compare_scans(dataset)
    pictures = PictureCollector(
        dataset, context.experiment.eval.pictures if report and world.rank == 0 else 0
    )
    loader, predict = loader_and_predictor(context, dataset, context.data, votes)
    sequences = SequenceCounts(dataset, world.device)

    def seen(batch: Batch, predicted: Tensor) -> None:
        pictures(batch, predicted)
        sequences(batch, predicted)

    score, totals, skipped = score_network(
        model,
        loader,
        labels.num_classes,
        world,
        context.autocast,
        seen,
        predict,
        {} if dataset.benchmark is None else dataset.benchmark.subsets,
    )
    result = frozen_score(
        score,
        totals,
        dataset,
        split=split,
        checkpoint=str(opened.found.path),
        checkpoint_sha256=opened.found.sha256,
        votes=votes.count,
        extra=_extra(opened, dataset, votes),
    )
    result = with_moving(result, sequences.by_name(), dataset, context.data.features)
    if world.rank == 0:
        for message in skipped:
            logger.warning("skipped: {}", message)
        voted = (
            f"-votes{votes.count}" if votes.count > 1 else ""
        )  # the run's own score is that of one plain pass
        write_json(json_path or run_path / f"evaluation-{split}{voted}.json", result.to_json())
        page = report_run(run_path, result, pictures, context.config, others) if report else None
        print_result(result, page, context.experiment.eval.legacy_metric)
    return result


def _extra(opened: Opened, scans: ScanDataset, votes: Votes) -> dict[str, Any]:
    """What is worth keeping beside a score; of rank 0, which writes it."""
    extra = opened.record
    if votes.count > 1:
        extra["votes"] = votes.settings(opened.context)
    if scans.leak:
        extra["leak"] = scans.leak
    if opened.context.world.rank == 0:
        extra |= scored_by(opened.context, scans)
    return extra


def scored_by(context: Context, scans: ScanDataset) -> dict[str, str]:
    """What a score depends on besides the weights and votes: the settings, and what the scans and labels hold."""
    settings = [
        settings_of(context.config),
        context.experiment.amp.number_type(context.world.device.type),
        context.config.get("dataset.cameras"),
        scans.labels.fingerprint,
    ]
    text = json.dumps(settings, sort_keys=True, default=str)
    return {
        "settings_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "scans_sha256": split_stamp(scans, context.data.uses_images(training=False)),
    }


def print_result(result: EvaluationResult, page: Path | None, legacy: bool) -> None:
    """Write the score, and where its report lies, as one line to the standard output.

    Args:
        page: the report, None = none was written. legacy: give the lenient mIoU too.
    """
    ending = "" if page is None else f"  report: {page}"
    lenient = (
        f" (legacy, points without a prediction left out: {100 * result.miou_legacy:.2f})"
        if legacy
        else ""
    )
    voted = f", {result.votes} votes each" if result.votes > 1 else ""
    told = f"{_official(result)}{lenient} on {result.scored}{voted}{ending}"
    moving = moving_line(result)
    lines = [f"mIoU {100 * result.miou:.2f}{told}", *([moving] if moving else [])]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _official(result: EvaluationResult) -> str:
    """What the benchmark's own tool says beside the mean over the classes present, where that is something else."""
    told = []
    if result.absent != "skip":
        told.append(f"the benchmark's own tool: {100 * result.miou_official:.2f}")
    for name, confusion in result.by_subset.items():
        if name not in VIEWS:
            told.append(f"{name}: {100 * confusion.miou():.2f}")
    return f" ({', '.join(told)})" if told else ""
