"""SemanticKITTI multi-scan on real scans: where past points land, and which classes appear."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from core.config import Config
from core.contracts import Scan
from core.datasets import build_dataset
from core.labels import LABEL_SPACES

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
SPACE = LABEL_SPACES["semantickitti_multiscan"]
BUILDING = SPACE.classes.index("building")
MOVING_CAR = SPACE.classes.index("moving-car")
pytestmark = pytest.mark.realdata


def multiscan(folder: str, frame: int) -> Scan:
    """Frame ``frame`` of the first training drive with the two scans before it."""
    if not (REAL / folder).is_dir():
        pytest.skip("no real scans; set LIDISTILL_REALDATA")
    dataset = {
        "name": "semantickitti",
        "root": str(REAL / folder),
        "labels": "semantickitti_multiscan",
        "split": {"train": ["00"]},
        "multisweeps": {"num_sweeps": 2, "labelled": True},
    }
    return build_dataset(Config({"dataset": dataset}), "train").load(frame, cameras=False)


def distance(scan: Scan, label: int) -> float:
    """Median distance in m from the class's oldest points to its current ones."""
    of_class = scan.labels == label
    now = scan.xyz[of_class & scan.keyframe]
    past = scan.xyz[of_class & (scan.points["sweep"] == 2)]
    return float(np.median(cKDTree(now).query(past)[0]))


@pytest.mark.parametrize("folder", ["semantickitti", "pandaset_mos"])
def test_past_points_land_on_the_walls_of_the_current_scan(folder: str) -> None:
    scan = multiscan(folder, 8)
    pose = scan.pose
    earlier = multiscan(folder, 6)
    walls = scan.labels == BUILDING
    before = earlier.xyz[(earlier.labels == BUILDING) & earlier.keyframe]
    unmoved = np.median(cKDTree(scan.xyz[walls & scan.keyframe]).query(before)[0])
    travelled = np.linalg.norm(pose[:3, 3] - earlier.pose[:3, 3])
    assert travelled > 0.1
    assert distance(scan, BUILDING) < min(0.06, 0.7 * unmoved)


def test_moving_classes_appear_among_current_and_past_points() -> None:
    scan = multiscan("pandaset_mos", 8)
    for sweep in range(3):
        moving = scan.labels[scan.points["sweep"] == sweep] == MOVING_CAR
        assert 5000 < np.count_nonzero(moving) < 8000
