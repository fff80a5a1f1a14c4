"""Looking at a network by running it on a random scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from core.contracts import Batch, Output, Points, Scan
from core.data import COLUMN_WIDTHS, DataConfig, collate, make_sample
from core.data.partitions import Voxels

__all__ = ["Inputs", "inputs_of", "probe", "random_batch", "set_inputs"]

_SPACING = 0.1  # m, between the random points where cells have no edge
_SENSOR = (400, 400, 30)  # in spacings: in the middle of the scan, 2 m above its ground at 10 cm


@dataclass(frozen=True)
class Inputs:
    """What a network reads.

    Attributes:
        data: how a scan becomes its sample.
        columns: values per point of every column that there is, those of ``dataset.columns`` included.
    """

    data: DataConfig = field(default_factory=lambda: DataConfig(voxel_size=_SPACING))
    columns: Mapping[str, int] = field(default_factory=lambda: COLUMN_WIDTHS)


def set_inputs(network: nn.Module, inputs: Inputs) -> None:
    """Note on the network what it reads, for :func:`probe`."""
    vars(network)["_inputs"] = inputs


def inputs_of(network: nn.Module) -> Inputs:
    """What the network reads; position and intensity in voxels of 10 cm where nothing was noted."""
    found = vars(network).get("_inputs")
    return found if isinstance(found, Inputs) else Inputs()


def random_batch(voxels: int = 40_000, seed: int = 0, inputs: Inputs | None = None) -> Batch:
    """A street-like random scan, for when no data set is on disk: ground and a wall, a point per voxel.

    It has no images, is not augmented, and is not cut by ``data.point_range``; columns of ``dataset.columns`` are 0.

    Args:
        voxels: drawn for the ground; fewer are left, for some are drawn twice.
        inputs: cells and columns; None = position and intensity in voxels of 10 cm.
    """
    inputs = inputs or Inputs()
    scan = _random_scan(voxels, seed, inputs)
    plain = {"images": False, "augment": None, "point_range": None}
    return collate([make_sample(scan, 0, inputs.data.model_copy(update=plain))])


def _random_scan(voxels: int, seed: int, inputs: Inputs) -> Scan:
    rng = np.random.default_rng(seed)
    ground = np.c_[rng.integers(0, 800, (voxels, 2)), rng.integers(10, 12, voxels)]
    wall = np.c_[
        rng.integers(0, 800, voxels // 2),
        np.full(voxels // 2, 600),
        rng.integers(10, 60, voxels // 2),
    ]
    coords = np.unique(np.concatenate([ground, wall]), axis=0).astype(np.int32)
    count = len(coords)
    cells = inputs.data.cells
    spacing = _SPACING
    if isinstance(cells, Voxels):
        spacing = cells.size
    extra = {}
    for name, width in inputs.columns.items():
        if name not in COLUMN_WIDTHS:
            shape = (count,) if width == 1 else (count, width)
            extra[name] = np.zeros(shape, np.float32)
    points = Points(
        xyz=((coords - np.array(_SENSOR)) * spacing).astype(np.float32),
        intensity=rng.random(count).astype(np.float32),
        label=np.zeros(count, np.uint8),
        **extra,
    )
    return Scan("random", points)


@torch.no_grad()
def probe(network: nn.Module) -> Output:
    """What the network returns for a small random scan without images; the network is left as it was.

    The scan has the cells and columns that :func:`set_inputs` noted.
    """
    batch = random_batch(300, inputs=inputs_of(network))
    parameter = next(network.parameters(), None)
    if parameter is not None:
        batch = batch.to(parameter.device)
    modes = {module: module.training for module in network.modules()}
    state = torch.get_rng_state()
    try:
        return network.eval()(batch)
    finally:
        torch.set_rng_state(state)
        for module, training in modes.items():
            module.training = training
