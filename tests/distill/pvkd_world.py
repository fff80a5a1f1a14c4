"""Two small scans in cylinder cells or voxels, and networks of the points' values, for the tests of PVKD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from data_fakes import make_scan
from torch import Tensor, nn

from core.contracts import Batch, Output, Stage
from core.data import DataConfig, collate, make_sample

CLASSES = 5
SIZE = (6, 6, 2)  # cells of a supervoxel
PARTITIONS = {
    "cylinder": {"name": "cylinder", "bins": [24, 36, 8], "high": [12, 180, 2], "low": [0, -180, -2]},
    "voxels": {"name": "voxels", "size": 0.5},
}  # fmt: skip


def made_batch(partition: str = "cylinder", scans: int = 2, points: int = 300) -> Batch:
    data = DataConfig.model_validate({"partition": PARTITIONS[partition], "augment": None})
    samples = []
    for index in range(scans):
        rng = np.random.default_rng(index)
        places = rng.uniform((-9, -9, -2), (9, 9, 2), (points, 3))
        labels = rng.choice(CLASSES, points, p=(0.1, 0.4, 0.4, 0.095, 0.005))
        scan = make_scan(places, labels=labels, token=f"scan{index}")
        samples.append(make_sample(scan, 10 + index, data))
    batch = collate(samples)
    scaled = batch.points["intensity"] / points - 0.5
    return replace(batch, points={**batch.points, "intensity": scaled, "xyz": batch.points["xyz"]})


class Net(nn.Module):
    """Values of a cell become features and logits; with ``at_points`` so do those of each point."""

    def __init__(self, width: int, seed: int, at_points: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.at_points = at_points
        self.features = nn.Linear(4, width)
        self.logits = nn.Linear(width, CLASSES)

    def forward(self, batch: Batch) -> Output:
        features = self.features(batch.feats)
        rows = torch.arange(len(features))
        stages = (
            Stage(features[:1], torch.zeros_like(rows), (4, 4, 4)),
            Stage(features, rows, (1, 1, 1)),
        )
        logits = self.logits(features)
        if not self.at_points:
            return Output(logits, stages)
        of_points = self.features(batch.point_feats)
        return Output(logits, stages, 0, self.logits(of_points), of_points)  # fmt: skip


def kl(target: Tensor, own: Tensor) -> Tensor:
    """KL(target || own) of each row, in float64."""
    p, q = target.double().softmax(1), own.double().softmax(1)
    return (p * (p / q).log()).sum(1)
