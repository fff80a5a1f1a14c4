"""``evaluate.py --robustness``: a checkpoint's scores on clean scans and under every corruption of a benchmark.

Each corruption's score is written as soon as it is known, so a killed job goes on with the next one. Beside them lie
``scores.csv``, ``summary.json`` and ``index.html``, made anew from all scores.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from torch import Tensor, nn

from core.config import Config
from core.contracts import IGNORE, Batch
from core.data import DataConfig
from core.data.content import split_stamp
from core.data.corruptions import CorruptedScans, Corruption, Scanner, chosen, published
from core.data.corruptions.write import VERSION
from core.data.labelled import check_labelled
from core.datasets.base import ScanDataset
from core.decode import kept
from core.engine.report.robustness import picture, robustness_page
from core.engine.report.robustness_scores import Summary, summarise
from core.engine.run.context import Context
from core.engine.run.distributed import World, from_rank_zero, sole_job
from core.engine.score.evaluation import score_network
from core.engine.score.jobs import frozen_score
from core.engine.score.opened import Opened
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.errors import counted
from core.io import write_bytes, write_json, write_text
from core.metrics import EvaluationResult

__all__ = ["CLEAN", "evaluate_robustness"]

CLEAN = "clean"


@dataclass
class _Study:
    """Scores of one checkpoint under one profile, and where they lie.

    Attributes:
        identity: all that a score depends on, but for the scans; a file that says otherwise is not this study's.
        stamps: what the scans of each corruption hold, by its name.
    """

    context: Context
    folder: Path
    checkpoint: Path
    votes: Votes
    identity: dict[str, Any]
    stamps: Mapping[str, str]
    results: dict[str, EvaluationResult] = field(default_factory=dict)

    def take(self, names: Iterable[str]) -> None:
        """Take the scores that an earlier job left. Collective."""
        self.results |= from_rank_zero(lambda: self._read(names))

    def _read(self, names: Iterable[str]) -> dict[str, EvaluationResult]:
        """Those that can be read and are this study's; a damaged one is made again."""
        found = {}
        for name in names:
            path = self.folder / f"{name}.json"
            if not path.is_file():
                continue
            saved = kept(partial(EvaluationResult.read, path))
            if saved is not None and saved.extra == self._identity_of(name):
                found[name] = saved
        return found

    def _identity_of(self, name: str) -> dict[str, Any]:
        return self.identity | {"scans": self.stamps[name]}

    def score(
        self, network: nn.Module, name: str, scans: ScanDataset, clean: ScanDataset, split: str
    ) -> None:
        """Score the network on ``scans``; rank 0 writes the result and the picture of the first scan."""
        context, labels = self.context, clean.labels
        data = context.data
        if data.images and not scans.files(0).images:
            data = data.model_copy(update={"images": False})  # published scans come without images
        loader, predict = loader_and_predictor(context, scans, data, self.votes)
        drawn = _FirstScan(scans, clean) if context.world.rank == 0 else None
        score, totals, skipped = score_network(
            network, loader, labels.num_classes, context.world, context.autocast, drawn, predict
        )
        loader.close()
        result = frozen_score(
            score,
            totals,
            clean,
            split=split,
            checkpoint=str(self.checkpoint),
            checkpoint_sha256=self.identity["sha256"],
            votes=self.votes.count,
            extra=self._identity_of(name),
        )
        self.results[name] = result
        if context.world.rank == 0:
            for message in skipped:
                logger.warning("{}: skipped: {}", name, message)
            if drawn is not None and drawn.picture is not None:
                write_bytes(self.folder / f"{name}.png", drawn.picture)
            write_json(self.folder / f"{name}.json", result.to_json())
            logger.info("{}: mIoU {:.2f}", name, 100 * result.miou)


class _FirstScan:
    """Draws the first scan with its predictions when it comes by; dots are as large as for the clean scan."""

    def __init__(self, scans: ScanDataset, clean: ScanDataset) -> None:
        self.scans = scans
        self.clean = clean
        self.picture: bytes | None = None

    def __call__(self, batch: Batch, predicted: Tensor) -> None:
        if 0 not in batch.indices or batch.padded[batch.indices.index(0)]:
            return
        place = batch.indices.index(0)
        rows = slice(int(batch.point_offsets[place]), int(batch.point_offsets[place + 1]))
        keyframe = batch.keyframe[rows].cpu().numpy()
        truth = batch.point_labels[rows].cpu().numpy()[keyframe]
        seen = predicted[rows].cpu().numpy()[keyframe]
        # The very same points: corruptions are functions of the token.
        scan = self.scans.load(0, cameras=False)
        points = scan.xyz[scan.keyframe]
        like = int(self.clean.load(0, cameras=False).keyframe.sum())
        labels, title = self.scans.labels, self.clean.title
        self.picture = picture(points, truth, seen, labels, like, title)


def evaluate_robustness(
    world: World,
    config: Config,
    checkpoint: Path,
    run_path: Path,
    *,
    profile: str,
    kinds: Sequence[str] | None = None,
    root: Path | None = None,
    split: str = "val",
    keep_labels: bool = False,
    votes: Votes = PLAIN,
    json_path: Path | None = None,
) -> Summary:
    """Score a checkpoint on the clean split and under the corruptions of a profile. Prints one line on rank 0.

    Args:
        profile: ``semantickitti-c`` or ``robo3d``. kinds: names or types of corruptions; None = all.
        root: a published (or written) SemanticKITTI-C in place of corruptions made on the fly.
        keep_labels: points of local distortion keep their class and count.
        votes: views of each scan that decide together.
        json_path: where the summary goes besides the run folder.

    Raises:
        UserError: the checkpoint belongs to another model or label space, or a name or a folder is wrong.
    """
    opened = Opened.of(world, config, checkpoint)
    context = opened.context
    clean = context.dataset(split)
    check_labelled(clean, context.data)
    corruptions = chosen(profile, kinds, keep_labels=keep_labels)
    scans: dict[str, ScanDataset] = {CLEAN: clean} | _corrupted(clean, corruptions, root, context)
    identity = {
        "sha256": opened.found.sha256,
        "profile": profile,
        "split": split,
        "root": None if root is None else str(root),
        "keep_labels": keep_labels,
        "votes": votes.settings(context),
        "settings": _digest(context, clean),
    }
    identity |= opened.record
    folder = run_path / f"robustness-{profile}"
    study = _Study(
        context, folder, opened.found.path, votes, identity, _stamps(scans, context.data)
    )
    with sole_job(world, folder, "--run-dir"):
        study.take(scans)
        missing = [name for name in scans if name not in study.results]
        if missing:
            network = opened.network(clean.labels)
            opened.compare_scans(clean)
            for name in missing:
                study.score(network, name, scans[name], clean, split)
        results = {name: study.results[name] for name in scans}
        scores = {name: 100 * result.miou for name, result in results.items()}
        summary = summarise(profile, scores.pop(CLEAN), scores, baseline=_official(clean))
        if world.rank == 0:
            _write(study, summary, results, corruptions, clean)
    if world.rank == 0 and json_path is not None:
        write_json(json_path, summary.to_json() | _scored(results[CLEAN]))
    return summary


def _official(clean: ScanDataset) -> bool:
    """The scans are those that published scores speak of."""
    benchmark = clean.benchmark
    return benchmark is not None and benchmark.has_corrupted_version and clean.is_official


def _corrupted(
    clean: ScanDataset, corruptions: Sequence[Corruption], root: Path | None, context: Context
) -> dict[str, ScanDataset]:
    if root is not None:
        found = {c.name: published(root, c) for c in corruptions}
        if context.world.rank == 0:
            _warn_of_differences(clean, found)
        return found
    scanner = Scanner.of(clean)
    seed = context.experiment.train.seed
    return {c.name: CorruptedScans(clean, c, scanner, seed) for c in corruptions}


def _warn_of_differences(clean: ScanDataset, found: Mapping[str, ScanDataset]) -> None:
    """Say where published scans are not the clean ones with a corruption."""
    sweeps = clean.config.model_dump().get("multisweeps") or {}
    if sweeps.get("num_sweeps"):
        logger.warning("the network was trained on joined sweeps; published scans stand alone")
    for name, scans in found.items():
        if len(scans) != len(clean):
            logger.warning(
                "{}: {} scans in {}, but {} clean ones", name, len(scans), scans.root, len(clean)
            )


def _stamps(scans: Mapping[str, ScanDataset], data: DataConfig) -> dict[str, str]:
    """What the scans hold, by the name of the corruption; those made on the fly hold what the clean ones do."""
    images = data.uses_images(training=False)
    clean = split_stamp(scans[CLEAN], images)
    stamps = {}
    for name, dataset in scans.items():
        stamps[name] = clean
        if name != CLEAN and not isinstance(dataset, CorruptedScans):
            stamps[name] = split_stamp(dataset, images)
    return stamps


def _digest(context: Context, clean: ScanDataset) -> str:
    """Of all that changes a score besides the weights and the scans."""
    config = context.config
    settings = {
        "version": VERSION,
        "labels": clean.labels.fingerprint,
        "number_type": context.experiment.amp.number_type(context.world.device.type),
        "seed": context.experiment.train.seed,
        "model": config.tree["model"],
        "data": context.data.model_dump(mode="json"),
        "dataset": {key: value for key, value in config.tree["dataset"].items() if key != "root"},
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _write(
    study: _Study,
    summary: Summary,
    results: Mapping[str, EvaluationResult],
    corruptions: Sequence[Corruption],
    clean: ScanDataset,
) -> None:
    folder = study.folder
    write_text(folder / "scores.csv", _csv(results, corruptions))
    write_json(folder / "summary.json", summary.to_json() | _scored(results[CLEAN]))
    pictures = {
        name: path.read_bytes() for name in results if (path := folder / f"{name}.png").is_file()
    }
    first = next(iter(results.values()))
    facts = {
        "Command": shlex.join(["python", *sys.argv]),
        "Checkpoint": first.checkpoint,
        "SHA-256": first.checkpoint_sha256,
        "Scans": f"{first.scored}, in {clean.root}",
        "Corrupted points": study.identity["root"]
        or f"made on the fly, seed {study.context.experiment.train.seed}",
        "Votes": str(study.votes.count),
        "Distorted points": "keep their class"
        if study.identity["keep_labels"]
        else "have no class",
    }
    write_text(
        folder / "index.html", robustness_page(summary, results, pictures, clean.labels, facts)
    )
    means = {"RmIoU": summary.mean_miou, "mR": summary.mean_resilience}
    if summary.profile == "robo3d":
        means = {"mCE": summary.mean_error, "mRR": summary.mean_resilience}
    line = "".join(f"  {name} {value:.2f}" for name, value in means.items() if value is not None)
    count = counted(len(corruptions), "corruption")
    sys.stdout.write(
        f"clean mIoU {summary.clean:.2f}{line} on {first.scored}  {count}: {folder / 'index.html'}\n"
    )
    sys.stdout.flush()


def _scored(result: EvaluationResult) -> dict[str, Any]:
    """Which scans a score is of, for tables and files that hold no more of it."""
    return {
        "dataset": result.dataset,
        "split": result.split,
        "made_up": result.made_up,
        "scans": result.num_scans,
        "split_scans": result.split_scans,
    }


def _csv(results: Mapping[str, EvaluationResult], corruptions: Sequence[Corruption]) -> str:
    """A row per corruption: mIoU, share of points labelled right, and IoU of every class, in percent."""
    kinds = {c.name: (c.kind, c.level) for c in corruptions}
    classes = next(iter(results.values())).classes[IGNORE + 1 :]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ["corruption", "type", "severity", "miou", "accuracy", "points", *classes]
    writer.writerow([*head, *_scored(next(iter(results.values())))])
    for name, result in results.items():
        counts = np.array(result.confusion, np.float64)[IGNORE + 1 :]
        accuracy = 100 * counts[:, IGNORE + 1 :].trace() / max(counts.sum(), 1)
        ious = ["" if iou is None else f"{100 * iou:.4f}" for iou in result.iou.values()]
        miou = "" if result.miou != result.miou else f"{100 * result.miou:.4f}"
        scores = [miou, f"{accuracy:.4f}", result.num_points, *ious]
        writer.writerow([name, *kinds.get(name, (CLEAN, "")), *scores, *_scored(result).values()])
    return stream.getvalue()
