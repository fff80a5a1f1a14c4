"""Scans and boxes for detectors: written, read again as OpenPCDet reads them, and counted in the source."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.data.detection import write
from core.data.detection.classes import DetectionSettings, one_word, read_classes
from core.data.detection.write import write_detection
from core.datasets.pandaset.cuboids import COLUMNS
from core.datasets.pandaset.safe_pickle import read_frame
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
real = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real scans; set LIDISTILL_REALDATA"),
]
CAR = {"label": "Car", "center": [10, 5, -1], "lwh": [4.2, 1.8, 1.5], "heading": 0.3}
VAN = {"label": "Pickup Truck", "center": [-8, 2.125, -0.9], "lwh": [5.5, 2, 2], "heading": -3.1}


def kitti(root: Path) -> Path:
    """Two training scans and a validation scan in SemanticKITTI's layout; the second has no object."""
    rng = np.random.default_rng(0)
    for sequence, frames in {"00": [[CAR, VAN], []], "08": [[CAR]]}.items():
        folder = root / "sequences" / sequence
        for name in ("velodyne", "boxes"):
            (folder / name).mkdir(parents=True)
        for frame, boxes in enumerate(frames):
            points = rng.uniform((-15, -15, -2, 0), (15, 15, 1, 1), (3000, 4))
            points.astype(np.float32).tofile(folder / "velodyne" / f"{frame:06d}.bin")
            (folder / "boxes" / f"{frame:06d}.json").write_text(json.dumps(boxes))
    return root


def config(root: Path, data: dict | None = None, **keys: object) -> Config:
    section = {"name": "semantickitti", "root": str(root), "cameras": [], **keys}
    split = {"split": {"train": ["00"], "val": ["08"]}}
    return Config({"dataset": split | section, "data": data or {}})


def read_as_openpcdet(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Points f32 [N, 4], boxes f32 [B, 7], names: as its reader of custom data sets takes the files apart."""
    rows, names = [], []
    for line in (folder / "labels" / f"{name}.txt").read_text().splitlines():
        words = line.strip().split(" ")
        rows.append(words[:-1])
        names.append(words[-1])
    return np.load(folder / "points" / f"{name}.npy"), np.array(rows, dtype=np.float32), names


def inside(xyz: np.ndarray, box: np.ndarray) -> int:
    """Points in a box x y z l w h heading: moved to its middle, turned back, compared."""
    c, s = np.cos(float(box[6])), np.sin(float(box[6]))
    place = (xyz.astype(np.float64) - box[:3]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return int((np.abs(place) <= np.asarray(box[3:6], np.float64) / 2).all(1).sum())


def lists(folder: Path) -> dict[str, list[str]]:
    return {path.stem: path.read_text().split() for path in (folder / "ImageSets").iterdir()}


# --- made scans -------------------------------------------------------------------------------------------------------
def test_files_and_lists(tmp_path: Path) -> None:
    root, out = kitti(tmp_path / "data"), tmp_path / "out"
    data = {"intensity_divisor": 2, "intensity_offset": 0.25}
    report = write_detection(config(root, data), out, DetectionSettings())
    assert lists(out) == {"train": ["00_000000"], "val": ["08_000000"]}, "no scan without a box"
    assert (report.scans, report.empty, report.found) == (2, 1, 0)
    assert report.boxes == {"Car": 2, "Pickup_Truck": 1}
    text = (out / "labels" / "00_000000.txt").read_text()
    assert (
        text == "10.0 5.0 -1.0 4.2 1.8 1.5 0.3 Car\n-8.0 2.125 -0.9 5.5 2.0 2.0 -3.1 Pickup_Truck\n"
    )
    points, boxes, names = read_as_openpcdet(out, "00_000000")
    assert points.dtype == np.float32 and names == ["Car", "Pickup_Truck"]
    source = np.fromfile(root / "sequences/00/velodyne/000000.bin", np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(points[:, :3], source[:, :3])
    np.testing.assert_allclose(points[:, 3], source[:, 3] / 2 + 0.25)
    for row, box in enumerate((CAR, VAN)):
        there = np.array([*box["center"], *box["lwh"], box["heading"]])
        assert inside(points[:, :3], boxes[row]) == inside(source[:, :3], there) > 10
    assert "1 scan without a box" in report.text() and "4.20 x 1.80 x 1.50 m" in report.text()


def inside_first(box: dict, root: Path) -> int:
    source = np.fromfile(root / "sequences/00/velodyne/000000.bin", np.float32).reshape(-1, 4)
    return inside(source[:, :3], np.array([*box["center"], *box["lwh"], box["heading"]]))


def test_classes_and_fewest_points(tmp_path: Path) -> None:
    root = kitti(tmp_path / "data")
    settings = DetectionSettings(read_classes(["Vehicle=Car"]))
    report = write_detection(config(root), tmp_path / "cars", settings, ["train"])
    assert report.boxes == {"Vehicle": 1} and report.left_out == {"Pickup Truck": 1}
    assert lists(tmp_path / "cars").keys() == {"train"}
    counts = {"Car": inside_first(CAR, root), "Pickup_Truck": inside_first(VAN, root)}
    least = max(counts.values())
    settings = DetectionSettings(min_points=least)
    report = write_detection(config(root), tmp_path / "full", settings, ["train"])
    assert report.boxes == {name: 1 for name, count in counts.items() if count >= least}
    assert report.boxes.total() == 1


def test_counts_of_the_source_are_compared(tmp_path: Path) -> None:
    root = kitti(tmp_path / "data")
    right = inside_first(CAR, root)
    known = [CAR | {"points": right}, VAN | {"points": 1}, CAR]
    (root / "sequences/00/boxes/000000.json").write_text(json.dumps(known))
    report = write_detection(config(root), tmp_path / "out", DetectionSettings(), ["train"])
    assert (report.compared, report.differing) == (2, 1)
    assert "1 of 2 boxes hold another number of points" in report.text()


class Stop(Exception):
    """Stands for the end of the process."""


def test_killed_it_leaves_no_half_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = kitti(tmp_path / "data"), tmp_path / "out"
    write_text = write.write_text

    def until(path: Path, text: str) -> None:
        if path.name == "08_000000.txt":
            raise Stop
        write_text(path, text)

    monkeypatch.setattr(write, "write_text", until)
    with pytest.raises(Stop):
        write_detection(config(root), out, DetectionSettings())
    assert not (out / "ImageSets").exists() and not (out / "labels/08_000000.txt").exists()
    monkeypatch.setattr(write, "write_text", write_text)
    first = (out / "points/00_000000.npy").stat().st_mtime_ns
    report = write_detection(config(root), out, DetectionSettings())
    assert report.found == 2 and (out / "points/00_000000.npy").stat().st_mtime_ns == first
    assert lists(out) == {"train": ["00_000000"], "val": ["08_000000"]}
    whole = write_detection(config(root), tmp_path / "whole", DetectionSettings())
    assert whole.boxes == report.boxes
    for file in sorted((tmp_path / "whole").rglob("*.*")):
        if file.is_file() and not file.name.startswith("."):
            assert (out / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    root, out = kitti(tmp_path / "data"), tmp_path / "out"
    write_detection(config(root), out, DetectionSettings())
    with pytest.raises(UserError, match=r"made otherwise \(min_points\)"):
        write_detection(config(root), out, DetectionSettings(min_points=5))
    with pytest.raises(UserError, match=r"made otherwise \(intensity_divisor\)"):
        write_detection(config(root, {"intensity_divisor": 255}), out, DetectionSettings())


def test_a_scan_is_in_one_split(tmp_path: Path) -> None:
    root = kitti(tmp_path / "data")
    asked = config(root, split={"train": ["00"], "val": ["00"]})
    with pytest.raises(UserError, match="00/000000 and 00/000000 would both be 00_000000"):
        write_detection(asked, tmp_path / "out", DetectionSettings())
    assert not (tmp_path / "out").exists()


def test_missing_boxes_stop_the_command(tmp_path: Path) -> None:
    root = kitti(tmp_path / "data")
    (root / "sequences/08/boxes/000000.json").unlink()
    with pytest.raises(UserError, match=r"boxes.000000.json.*does not exist"):
        write_detection(config(root), tmp_path / "out", DetectionSettings())
    assert not (tmp_path / "out").exists()
    shutil.rmtree(root / "sequences/08")
    (root / "sequences/00/boxes/000001.json").unlink()
    with pytest.raises(UserError, match=r"boxes.000001.json.*does not exist"):
        write_detection(config(root), tmp_path / "out", DetectionSettings(), ["train"])
    assert not (tmp_path / "out" / "ImageSets").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Vehicle"], "'Vehicle' is no class"),
        (["Big Car=Car"], "'Big Car=Car' is no class"),
        (["A=Car,Bus", "B=Bus"], "'Bus' stands twice"),
        (["A=Car,"], "'' stands twice, or is empty"),
    ],
)
def test_classes_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_classes(words)


def test_names_become_single_words() -> None:
    assert one_word("Other Vehicle - Construction Vehicle") == "Other_Vehicle_Construction_Vehicle"
    assert one_word("Tram / Subway") == "Tram_Subway" and one_word("Car") == "Car"
    assert read_classes(["Vehicle=Car, Pickup Truck"]) == {
        "Car": "Vehicle",
        "Pickup Truck": "Vehicle",
    }


# --- real scans -------------------------------------------------------------------------------------------------------
class TestReal:
    pytestmark = real

    def test_every_cuboid_holds_the_points_that_it_holds_in_the_world(self, tmp_path: Path) -> None:
        frames = {"train": {"001": [0, 0]}, "val": {"002": [2, 2]}}
        section = {"name": "pandaset", "root": str(REAL / "pandaset"), "frames": frames}
        asked = Config({"dataset": section | {"cameras": []}, "data": {"intensity_divisor": 255}})
        write_detection(asked, tmp_path, DetectionSettings())
        assert lists(tmp_path) == {"train": ["001_00"], "val": ["002_02"]}
        for name in ("001_00", "002_02"):
            points, boxes, names = read_as_openpcdet(tmp_path, name)
            expected, labels = self.in_the_world(*name.split("_"))
            assert names == [one_word(label) for label in labels] and len(names) > 80
            counts = [inside(points[:, :3], box) for box in boxes]
            assert counts == expected and sum(counts) > 20_000
            assert points[:, 3].min() >= 0 and points[:, 3].max() == 1
            cars = boxes[[label == "Car" for label in names]]
            assert 4 < np.median(cars[:, 3]) < 5 and 1.7 < np.median(cars[:, 4]) < 2.1

    @staticmethod
    def in_the_world(sequence: str, frame: str) -> tuple[list[int], list[str]]:
        """Points of the 360-degree LiDAR in each of its cuboids, in PandaSet's own frame and by its own axes."""
        folder = REAL / "pandaset" / sequence
        scan = read_frame(folder / "lidar" / f"{frame}.pkl.gz", ("x", "y", "z", "d"))
        xyz = np.stack([scan[axis][scan["d"] == 0] for axis in "xyz"], 1)
        table = read_frame(folder / "annotations" / "cuboids" / f"{frame}.pkl.gz", COLUMNS)
        counts, labels = [], []
        for row in np.flatnonzero(table["cuboids.sensor_id"] != 1):
            centre = np.array([table[f"position.{axis}"][row] for axis in "xyz"])
            size = [table[f"dimensions.{axis}"][row] for axis in "xyz"]
            counts.append(inside(xyz, np.array([*centre, *size, table["yaw"][row]])))
            labels.append(table["label"][row])
        return counts, labels

    def test_boxes_beside_scans(self, tmp_path: Path) -> None:
        split = {"train": ["00"], "val": ["08"]}
        frames = {"train": {"00": [0, 0]}, "val": {"08": [5, 5]}}
        asked = config(REAL / "pandaset_mos", split=split, frames=frames)
        report = write_detection(asked, tmp_path, DetectionSettings())
        assert report.scans == 2 and report.boxes.total() > 180
        for name in ("00_000000", "08_000005"):
            points, boxes, names = read_as_openpcdet(tmp_path, name)
            sequence, frame = name.split("_")
            folder = REAL / "pandaset_mos" / "sequences" / sequence
            scan = np.fromfile(folder / "velodyne" / f"{frame}.bin", np.float32).reshape(-1, 4)
            found = json.loads((folder / "boxes" / f"{frame}.json").read_text())
            assert names == [one_word(box["label"]) for box in found]
            for box, row in zip(found, boxes):
                there = np.array([*box["center"], *box["lwh"], box["heading"]])
                assert inside(points[:, :3], row) == inside(scan[:, :3], there)
                # its own count is of a vehicle that stands level
                assert abs(inside(scan[:, :3], there) - box["points"]) <= 20 + 0.1 * box["points"]
