"""Motion features of real scans: what moves has them, what stands has not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.contracts import Points, Scan
from core.data.motion import FinishedScan, MotionStream
from core.datasets import build_dataset
from core.datasets.motion_config import MotionConfig
from core.datasets.motion_maps import MotionSource, motion_column, scanner_pose, write_motion

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "pandaset_mos"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real scans; set LIDISTILL_REALDATA"),
]
MOVES = 3  # train id


@pytest.fixture(scope="module")
def finished() -> list[tuple[FinishedScan, np.ndarray]]:
    """Scans of sequence 08 with all their features, and their labels."""
    section = {
        "name": "semantickitti",
        "root": str(REAL),
        "labels": "semantickitti_movable",
        "cameras": [],
        "partial": True,
    }
    scans = build_dataset(Config({"dataset": section}), "val")
    stream = MotionStream(MotionConfig())
    read = [scans.read(index) for index in range(len(scans))]
    pushed = [stream.push(scan.xyz, scanner_pose(scan, ())) for scan in read]
    whole = [scan for scan in pushed if scan is not None] + list(stream.finish())
    return [(scan, read[scan.number].labels) for scan in whole]


def test_moving_points_have_features_and_others_do_not(finished):
    for scan, labels in finished:
        seen = (scan.features() > 0).any(1)
        assert seen[labels == MOVES].mean() > 8 * seen[(labels == 1) | (labels == 2)].mean()
    seen = (finished[4][0].features() > 0).any(1)  # scan 4 has five channels
    assert seen[finished[4][1] == MOVES].mean() > 0.5


def test_files_are_small_and_read_as_they_were_made(finished, tmp_path):
    scan, _ = finished[4]
    path = tmp_path / "maps.npz"
    write_motion(path, MotionSource("s", len(scan.xyz), "", scan.settings), scan.motion)
    assert path.stat().st_size * 20 < len(scan.xyz) * 8 * 4
    read = Scan("s", Points(xyz=scan.xyz), pose=scan.motion.pose)
    values = motion_column(path, scan.settings, read, len(scan.xyz), ())
    np.testing.assert_array_equal(values, scan.features())
