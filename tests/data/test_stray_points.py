"""A point far away: the scan is named, and skipped where that was asked for, whatever network would have seen it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config import Config
from core.data import DataConfig, PairedSamples, ScanSamples
from core.data.sampler import SampleKey
from core.datasets import build_dataset
from core.errors import UserError
from core.models import build_model

STRAY = {"voxels": 90_000.0, "cylinder": 3e5}  # m


def two_scans(root: Path, stray: float) -> Any:
    """The second one has a stray point."""
    points = np.random.default_rng(0).normal(0, 9, (300, 4)).astype(np.float32)
    points.tofile(root / "a.bin")
    points[5, 0] = stray
    points.tofile(root / "b.bin")
    return build_dataset(Config({"dataset": {"name": "folder", "root": str(root)}}), "val")


def data_of(partition: str, policy: str, augment: bool = True) -> DataConfig:
    cells: dict[str, Any] = {"name": partition}
    if partition == "voxels":
        cells["size"] = 0.2
    else:
        cells["cell"] = [0.2, 1.0, 0.2]
    drawn = {"scale": [0.95, 1.05]} if augment else None
    return DataConfig(partition=cells, augment=drawn, on_bad_sample=policy)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partition", STRAY)
def test_the_scan_is_named_and_skipped(partition, training, tmp_path):
    scans = two_scans(tmp_path, STRAY[partition])
    key = SampleKey(0, 1, False)
    strict = ScanSamples(scans, data_of(partition, "raise"), training=training)
    with pytest.raises(UserError, match=r"scan b: .*too far for (voxels|cells)"):
        strict[key]
    lenient = ScanSamples(scans, data_of(partition, "skip"), training=training)
    sample = lenient[key]
    assert sample.token == "a" and "b: scan b" in sample.skipped[0]


def test_teacher_and_student_skip_together(tmp_path):
    scans = two_scans(tmp_path, STRAY["voxels"])
    pairs = PairedSamples(
        scans, data_of("voxels", "skip"), DataConfig(voxel_size=10.0), training=True
    )
    assert [sample.token for sample in pairs[SampleKey(0, 1, False)]] == ["a", "a"]


@pytest.mark.parametrize("reach", [12_000.0, 25_000.0])
def test_cells_of_the_network_itself_take_every_scan(reach, tmp_path):
    """2DPASS makes cells of 0.1 m whatever ``data.voxel_size`` is; scans on either side of the origin, in one batch."""
    scans = two_scans(tmp_path, reach)

    mirrored = np.fromfile(tmp_path / "b.bin", "<f4").reshape(-1, 4) * np.float32([-1, 1, 1, 1])
    mirrored.astype(np.float32).tofile(tmp_path / "a.bin")
    samples = ScanSamples(scans, data_of("voxels", "raise", augment=False))
    batch = samples.collate([samples[SampleKey(0, i, False)] for i in range(2)])
    torch.manual_seed(0)
    network = build_model(Config({"model": {"name": "twodpass", "hidden": 8}}), 5).eval()
    with torch.no_grad():
        assert torch.isfinite(network(batch).logits).all()
