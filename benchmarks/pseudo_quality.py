"""How right a teacher's answers are on the scans that a training does not see the labels of.

    python benchmarks/pseudo_quality.py configs/synthetic/teacher.yaml --checkpoint RUN --json quality.json \
        --dataset.labelled '{fraction: 0.1}' --dataset.unlabelled rest

At each threshold: the share of points at which the teacher's probability of its first class reaches it, and of those
points the share of right answers and the mean IoU over the classes that the hidden labels have there. Scans without any
labels on disk are counted and not compared.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.timing import write_measurement
from core.api import Segmenter
from core.config import Config
from core.contracts import IGNORE, Scan
from core.data.pseudo.job import budgeted_scans
from core.data.sample import keyframe_scan
from core.engine.run.cli import read_arguments, run_command
from core.metrics import Confusion


def unlabelled_scans(config: Config) -> Iterator[tuple[Scan, np.ndarray | None]]:
    """Scans outside the label budget with the labels that they hide, u8 [N] of the keyframe's points; None = none."""
    dataset = budgeted_scans(config, sweeps=True)
    for index in np.flatnonzero(~dataset.budget).tolist():
        truth = keyframe_scan(dataset.with_labels(index)).labels
        yield dataset.load(index, cameras=False), truth  # with the columns that the network reads


def judge(
    segmenter: Segmenter,
    scans: Iterator[tuple[Scan, np.ndarray | None]],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Compare the network's answers with hidden labels.

    Returns:
        scans, points, and by threshold ``coverage``, ``accuracy`` and ``miou`` in 0..1; None = nothing can be compared.
    """
    classes = segmenter.labels.classes
    confusions = [Confusion(len(classes)) for _ in thresholds]
    sure = np.zeros(len(thresholds), np.int64)
    count = points = 0
    for scan, truth in scans:
        prediction = segmenter.predict(scan.points, sensor=scan.sensor)
        answer = prediction.labels[scan.keyframe]
        probability = prediction.probabilities[scan.keyframe].max(1)
        count += 1
        points += len(answer)
        for place, least in enumerate(thresholds):
            taken = (answer != IGNORE) & (probability >= least)
            sure[place] += np.count_nonzero(taken)
            if truth is not None:
                pair = (torch.from_numpy(values[taken]) for values in (answer, truth))
                confusions[place].update(*pair)
    rows = []
    for least, share, confusion in zip(thresholds, sure.tolist(), confusions):
        rows.append({"threshold": least, "coverage": share / max(points, 1)} | _right(confusion))
    return {"scans": count, "points": points, "classes": list(classes), "thresholds": rows}


def _right(confusion: Confusion) -> dict[str, float | None]:
    compared = confusion.counts[IGNORE + 1 :]
    total = int(compared.sum())
    if not total:
        return {"accuracy": None, "miou": None}
    return {
        "accuracy": int(confusion.counts.diagonal()[1:].sum()) / total,
        "miou": confusion.miou(),
    }


def main() -> None:
    """Read the command line, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML of the training whose unlabelled scans are looked at")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the teacher")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.5, 0.7, 0.9])
    parser.add_argument("--json", type=Path, help="write every figure")
    args, config = read_arguments(parser)
    scans = tqdm(unlabelled_scans(config), unit="scan", disable=not sys.stderr.isatty())
    found = judge(Segmenter.load(args.checkpoint), scans, args.thresholds)
    print(f"{found['scans']} unlabelled scans, {found['points']:,} points")
    for row in found["thresholds"]:
        parts = [
            f"{name} {100 * row[name]:.1f} %" for name in row if name != "threshold" and row[name]
        ]
        print(f"  confidence {row['threshold']:g}: {', '.join(parts)}")
    if args.json:
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
