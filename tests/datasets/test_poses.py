"""Proof of poses, quaternions and times, against rotations made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.datasets.numbered import first_names, holes, numbered_files
from core.datasets.poses import check_poses, check_quaternions, check_times
from core.errors import UserError
from core.geometry import camera_fault, first_fault, rigid

FILE = Path("poses.txt")
TURN = rigid(np.array([0.9, 0.1, -0.3, 0.2]) / np.sqrt(0.95), np.array([3.0, 4.0e6, 0]))


def changed(**places: float) -> np.ndarray:
    """Three poses of which the second has other values, by row and column."""
    poses = np.stack([np.eye(4), TURN, TURN])
    for place, value in places.items():
        poses[1, int(place[1]), int(place[2])] = value
    return poses


def test_rotations_of_few_digits_are_rotations() -> None:
    rounded = TURN.copy()
    rounded[:3, :3] = np.round(TURN[:3, :3], 3)
    assert first_fault(np.stack([TURN, rounded])) is None
    check_poses(changed(), FILE, "line {}")


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        (changed(_00=np.nan), "NaN or infinite"),
        (changed(_03=np.inf), "NaN or infinite"),
        (changed(_30=0.1), "another last row"),
        (changed(_00=0.8), "R R^T"),
        (changed(_00=1e300), "R R^T"),
        (changed(_13=3.8e21), r"more than 1e\+08 m away"),
        (np.stack([np.eye(4), np.diag([1.0, 1, -1, 1])]), "mirror image"),
        (np.stack([np.eye(4), np.zeros((4, 4))]), "another last row"),
    ],
    ids=range(8),
)
def test_what_is_no_pose_is_named(poses: np.ndarray, message: str) -> None:
    message = message.replace("^", r"\^")
    with pytest.raises(UserError, match=rf"^poses\.txt: the pose in line 2 .*{message}"):
        check_poses(poses, FILE, "line {}", first=1)


def test_quaternions_have_length_one() -> None:
    check_quaternions(np.array([[1, 0, 0, 0], [0.5, 0.5, -0.5, 0.501]]), FILE)
    for wrong in ([0, 0, 0, 0], [1, 1, 0, 0], [np.nan, 0, 0, 1], [1e200, 0, 0, 0]):
        with pytest.raises(UserError, match="quaternion in row 1 has length"):
            check_quaternions(np.array([[1, 0, 0, 0], wrong]), FILE)


def test_times_never_go_back() -> None:
    check_times(np.array([0.0, 0, 1, 1]), FILE, "entry {}")
    for times, row in (
        ([0, 2, 1], 2),
        ([np.nan, 1], 0),
        ([0, 1, np.inf, 2], 2),
        ([0, np.inf], 1),
        ([0, np.nan, 1], 1),
    ):
        with pytest.raises(UserError, match=rf"the time in entry {row} is"):
            check_times(np.array(times, np.float64), FILE, "entry {}")


def test_cameras() -> None:
    k = np.array([[700.0, 0, 600], [0, 700, 180], [0, 0, 1]])
    assert camera_fault(k @ TURN[:3]) is None
    assert "no metres" in camera_fault(2 * k @ TURN[:3])
    assert "mirrors" in camera_fault(np.diag([-1.0, 1, 1]) @ k @ TURN[:3])
    assert "NaN" in camera_fault(np.full((3, 4), np.nan))


def test_a_folder_is_sorted_by_its_names(tmp_path: Path) -> None:
    for name in (
        "02.bin",
        "00.bin",
        "5.bin",
        "005.bin",
        "x.bin",
        "03.BIN",
        "٠١.bin",
        ".00.bin",
        "a.txt",
        "b",
    ):
        (tmp_path / name).touch()
    found = numbered_files(tmp_path, 2, (".bin",), known=("b",))
    assert found.numbers == (0, 2) and holes(found.numbers) == [1] and holes([]) == []
    assert set(found.misnamed) == {"5.bin", "005.bin", "x.bin", "03.BIN", "٠١.bin"}
    assert (
        found.strays == ("a.txt",) and numbered_files(tmp_path / "no", 2, (".bin",)).numbers == ()
    )
    assert first_names("abcde") == "a, b, c and 2 more" and first_names(["a"]) == "a"
