"""Looking at a network by running it on a random scan."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from core.contracts import Batch, Grouping, Output, Points, Sample
from core.data import collate
from core.data.partitions import Voxels

__all__ = ["probe", "random_batch"]


def random_batch(voxels: int = 40_000, seed: int = 0) -> Batch:
    """A street-like random scan, for when no data set is on disk: ground and walls of 10 cm voxels."""
    rng = np.random.default_rng(seed)
    ground = np.c_[rng.integers(0, 800, (voxels, 2)), rng.integers(10, 12, voxels)]
    wall = np.c_[
        rng.integers(0, 800, voxels // 2),
        np.full(voxels // 2, 600),
        rng.integers(10, 60, voxels // 2),
    ]
    coords = np.unique(np.concatenate([ground, wall]), axis=0).astype(np.int32)
    count = len(coords)
    rows = np.arange(count)
    labels = np.zeros(count, np.int64)
    points = Points(
        xyz=(coords * 0.1).astype(np.float32),
        intensity=rng.random(count).astype(np.float32),
        label=labels,
        distance=np.zeros(count, np.float32),
    )
    sample = Sample(
        token="random",
        index=0,
        points=points,
        features=("xyz", "intensity"),
        partition=Voxels(size=0.1),
        grouping=Grouping(coords, rows, rows),
        labels=labels,
        origin=np.zeros(3, np.float32),
    )
    return collate([sample])


@torch.no_grad()
def probe(network: nn.Module) -> Output:
    """What the network returns for a small random scan without images; the network is left as it was."""
    modes = {module: module.training for module in network.modules()}
    state = torch.get_rng_state()
    try:
        return network.eval()(random_batch(300))
    finally:
        torch.set_rng_state(state)
        for module, training in modes.items():
            module.training = training
