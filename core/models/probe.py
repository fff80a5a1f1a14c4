"""Looking at a network by running it on a random scan."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from core.contracts import Batch, Output, Sample
from core.data import collate

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
    zeros, rows = np.zeros(count, np.int64), np.arange(count)
    feats = np.c_[coords * 0.1, rng.random(count)].astype(np.float32)
    distance = np.zeros(count, np.float32)
    return collate(
        [
            Sample(
                "random", 0, coords, feats, zeros, rows, rows, zeros, np.ones(count, bool), distance
            )
        ]
    )


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
