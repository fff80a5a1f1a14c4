"""The scan and the networks that the benchmarks of Cylinder3D measure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn

from benchmarks.gain.experiment import ROOT
from core.config import Config, load_config
from core.contracts import Batch, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.models import build_model

__all__ = ["CLASSES", "WIDTHS", "cylinder_batch", "network_of"]

CLASSES = 20
WIDTHS = {"0.5x": 16, "1.0x": 32}  # channels of the first block, and of what enters it


@cache
def _recipe() -> Config:
    return load_config(ROOT / "configs" / "semantickitti" / "cylinder3d.yaml")


def cylinder_batch(points: np.ndarray) -> Batch:
    """One scan in the published grid of 480 x 360 x 32 cells, with random labels.

    Args:
        points: f32 [N, 4], x, y, z (m) and intensity.
    """
    xyz = np.ascontiguousarray(points[:, :3])
    scan = Scan("scan", Points(xyz=xyz, intensity=np.ascontiguousarray(points[:, 3])))
    data = _recipe().parse(DataConfig, "data").model_copy(update={"augment": None})
    batch = collate([make_sample(scan, 0, data)])
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, CLASSES, (len(batch.cells),), generator=generator)
    return replace(batch, cells=replace(batch.cells, labels=labels))


def network_of(name: str) -> nn.Module:
    """Cylinder3D of a width of :data:`WIDTHS`, with random weights that are the same in every process."""
    torch.manual_seed(0)
    width = WIDTHS[name]
    model = {"name": "cylinder3d", "width": width, "voxel_features": width}
    return build_model(Config({"data": _recipe().tree["data"], "model": model}), CLASSES)
