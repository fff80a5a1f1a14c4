"""Labels carried by poses: the vote point by point, drives past made-up walls, files, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import TOY_LABELS, ToyReader

from core.config import Config
from core.contracts import Points, Scan
from core.data.pseudo.job import label_by_poses
from core.data.pseudo.poses import carried, standing_classes
from core.data.pseudo.report import PseudoReport, confusion_of
from core.datasets import DATASETS, build_dataset
from core.datasets.pseudo import GivenLabels, pseudo_file
from core.errors import UserError
from core.labels import LABEL_SPACES, NUSCENES, LabelSpace

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "semantickitti"
LABELS = replace(TOY_LABELS, name="street", movable=("wall",))


class Drive(ToyReader):
    """Six scans of one street, 2 m apart, turned a little each: ground, and a "wall" that counts as movable."""

    labels: LabelSpace = LABELS

    def token(self, index: int) -> str:
        return f"{self.split}/{index}"

    def index_of(self, token: str) -> int:
        return int(token.rpartition("/")[2])

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        grid = np.mgrid[-20:32:0.25, -4:4:0.25].reshape(2, -1).T
        ground = np.c_[grid, np.zeros(len(grid))]
        wall = np.c_[ground[:, 0], np.full(len(ground), 4.0), 1 + ground[:, 1] % 2]
        world = np.concatenate([ground, wall])
        pose = np.eye(4)
        turn = 0.1 * index
        pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        pose[0, 3] = 2.0 * index
        near = np.abs(world[:, 0] - pose[0, 3]) < 8 + index  # no two scans are alike in number
        local = (world[near] - pose[:3, 3]) @ pose[:3, :3]
        label = np.repeat(np.array([1, 2], np.uint8), len(ground))[near]
        points = Points(
            local.astype(np.float32),
            intensity=np.zeros(len(local), np.float32),
            label=label,
            instance=np.zeros(len(local), np.int32),
        )
        return Scan(self.token(index), points, self.sensor, pose=pose)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DATASETS, "toy", "test_pseudo_labels:Drive")
    yield


def configured(names: Path, *tokens: str, **keys: object) -> Config:
    names.write_text("\n".join(tokens))
    section = {"name": "toy", "scans": 6, "labelled": {"file": str(names)}, "unlabelled": "rest"}
    return Config(tree={"dataset": section | keys}, source="test")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_vote_point_by_point() -> None:
    """Two scans speak of four points; the heavier class wins, confidence is its mean weight over who spoke."""
    one = (np.array([0, 1, 2]), np.array([1, 1, 2], np.uint8), np.array([0.9, 0.4, 0.5]))
    two = (np.array([0, 1]), np.array([1, 2], np.uint8), np.array([0.7, 0.8]))
    label, confidence = carried([one, two], 4, 3, None)
    assert label.tolist() == [1, 2, 2, 0]
    assert confidence.tolist() == pytest.approx([0.8, 0.4, 0.5, 0.0])
    label, confidence = carried([one, two], 4, 3, {1})
    assert label.tolist() == [1, 0, 0, 0] and confidence.tolist() == pytest.approx([0.8, 0, 0, 0])
    assert carried([], 2, 3, None)[0].tolist() == [0, 0]


def test_labels_follow_the_poses(tmp_path: Path) -> None:
    """What stands is carried where scans overlap, through turned frames; what may move stays unlabelled."""
    config = configured(tmp_path / "names", "train/0")
    report = label_by_poses(config, tmp_path / "out", {"radius": 0.3})
    dataset = build_dataset(config, "train")
    assert report.scans == 5 and report.accuracy == 1.0
    assert report.iou() == {"ground": 1.0, "wall": None}
    for index in (1, 3, 5):
        truth = dataset.with_labels(index)
        arrays = np.load(pseudo_file(tmp_path / "out", dataset.token(index)))
        along = (truth.xyz @ truth.pose[:3, :3].T + truth.pose[:3, 3])[:, 0]
        clear = (np.abs(along) < 7.7) | (np.abs(along) > 8.2)  # of the end of what scan 0 saw
        expected = np.where((truth.labels == 1) & (np.abs(along) < 8), 1, 0)
        assert np.array_equal(arrays["label"][clear], expected[clear])
        assert set(np.unique(expected[clear])) == {0, 1}
        assert arrays["confidence"].dtype == np.float16
    whole = label_by_poses(config, tmp_path / "all", {"radius": 0.3, "movable": True})
    assert whole.coverage > report.coverage and whole.miou() == 1.0


def test_a_training_reads_them_back(tmp_path: Path) -> None:
    names, out = tmp_path / "names", tmp_path / "out"
    config = configured(names, "train/0")
    label_by_poses(config, out, {})
    dataset = build_dataset(configured(names, "train/0", pseudo_labels=str(out)), "train")
    given = dataset.load(1)
    arrays = np.load(pseudo_file(out, "train/1"))
    assert np.array_equal(given.labels, arrays["label"]) and given.labels.max() == 1
    strict = configured(names, "train/0", pseudo_labels=str(out), pseudo_confidence=0.9)
    few = build_dataset(strict, "train").load(1).labels
    assert np.array_equal(few > 0, (arrays["label"] > 0) & (arrays["confidence"] >= 0.9))
    assert np.array_equal(dataset.load(0).labels, dataset.with_labels(0).labels)


def test_processes_and_a_second_start_change_no_byte(tmp_path: Path) -> None:
    config = configured(tmp_path / "names", "train/0", "train/3")
    label_by_poses(config, tmp_path / "a", {}, workers=1)
    label_by_poses(config, tmp_path / "b", {}, workers=2)
    whole = contents(tmp_path / "a")
    assert len(whole) == 4 + 2 and contents(tmp_path / "b") == whole
    for lost in ("train/2.npz", "train/5.npz", "pseudo_labels.json"):
        (tmp_path / "b" / lost).unlink()
    label_by_poses(config, tmp_path / "b", {}, workers=1)
    assert contents(tmp_path / "b") == whole


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    names, out = tmp_path / "names", tmp_path / "out"
    config = configured(names, "train/0")
    label_by_poses(config, out, {})
    with pytest.raises(UserError, match="made from something else"):
        label_by_poses(config, out, {"radius": 0.2})
    with pytest.raises(UserError, match="other labelled scans"):
        build_dataset(configured(names, "train/1", pseudo_labels=str(out)), "train")
    config = configured(names, "train/0", pseudo_labels=str(out))
    shutil.copy(pseudo_file(out, "train/2"), pseudo_file(out, "train/5"))
    with pytest.raises(UserError, match=r"5\.npz.*'label' of \d+ uint8 values, one per point"):
        build_dataset(config, "train").load(5)
    pseudo_file(out, "train/2").unlink()
    with pytest.raises(UserError, match=r"2\.npz.*does not exist.*prepare_pseudo_labels"):
        build_dataset(config, "train").load(2)
    about = json.loads((out / "pseudo_labels.json").read_text())
    assert about["report"]["accuracy"] == 1.0


def test_scans_without_poses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Drive.read
    monkeypatch.setattr(
        Drive,
        "read",
        lambda self, i, cameras=True: replace(read(self, i), pose=np.full((4, 4), np.nan)),
    )
    with pytest.raises(UserError, match="train/0 has no pose"):
        label_by_poses(configured(tmp_path / "names", "train/0"), tmp_path / "out", {})
    everything = Config(tree={"dataset": {"name": "toy"}}, source="test")
    with pytest.raises(UserError, match="every scan has its labels"):
        label_by_poses(everything, tmp_path / "out", {})


@pytest.mark.parametrize("column", ["xyz", "intensity", "pose"])
def test_a_scan_that_has_changed_since_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """Unlabelled: its own labels are none of its any more. Labelled: nor are those carried from it."""
    names, out = tmp_path / "names", tmp_path / "out"
    config = configured(names, "train/0")
    label_by_poses(config, out, {})
    read = Drive.read

    def changed(index: int) -> None:
        def other(self: Drive, i: int, *, cameras: bool = True) -> Scan:
            scan = read(self, i)
            if i != index:
                return scan
            if column == "pose":
                return replace(scan, pose=scan.pose + np.diag([0, 0, 1e-3], 1))
            return scan.having(**{column: scan.points[column] + np.float32(0.5)})

        monkeypatch.setattr(Drive, "read", other)

    changed(3)
    with pytest.raises(UserError, match=r"3\.npz.*other points or another pose"):
        label_by_poses(config, out, {})
    dataset = build_dataset(configured(names, "train/0", pseudo_labels=str(out)), "train")
    with pytest.raises(UserError, match=r"3\.npz.*other points or another pose"):
        dataset.load(3)
    changed(0)
    with pytest.raises(UserError, match="made from something else"):
        label_by_poses(config, out, {})


def test_labels_of_labelled_scans_are_part_of_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path / "names", "train/0")
    label_by_poses(config, tmp_path / "out", {})
    read = Drive.read

    def relabelled(self: Drive, index: int, *, cameras: bool = True) -> Scan:
        scan = read(self, index)
        return scan.having(label=np.ones_like(scan.points["label"])) if index == 0 else scan

    monkeypatch.setattr(Drive, "read", relabelled)
    with pytest.raises(UserError, match=r"made from something else \(made_from\)"):
        label_by_poses(config, tmp_path / "out", {})


def test_labels_of_other_classes_name_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, out = tmp_path / "names", tmp_path / "out"
    label_by_poses(configured(names, "train/0"), out, {})
    monkeypatch.setattr(Drive, "labels", replace(LABELS, classes=("ignore", "floor", "wall")))
    with pytest.raises(UserError, match=r"ignore, ground, wall.*ignore, floor, wall"):
        build_dataset(configured(names, "train/0", pseudo_labels=str(out)), "train")


def test_the_report_by_hand() -> None:
    """Six points: two right by poses, one wrong and one right by the teacher, one without, one without truth."""
    truth = np.array([1, 2, 2, 1, 2, 0], np.uint8)
    label = np.array([1, 2, 1, 1, 0, 2], np.uint8)
    source = np.array([1, 1, 2, 2, 0, 1], np.uint8)
    given = GivenLabels(label, np.ones(6, np.float32), source)
    report = PseudoReport(("ignore", "ground", "wall"), 1, confusion_of(truth, given, 3))
    found = report.to_json()
    assert found["points"] == 6 and found["coverage"] == pytest.approx(5 / 6)
    assert found["coverage_of_known"] == pytest.approx(4 / 5)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["iou"] == pytest.approx({"ground": 2 / 3, "wall": 1 / 2})
    assert found["iou_missing_wrong"] == pytest.approx({"ground": 2 / 3, "wall": 1 / 3})
    assert found["miou_missing_wrong"] == pytest.approx(1 / 2)
    assert found["sources"]["poses"] == {"share": 0.5, "accuracy": 1.0, "miou": 1.0}
    assert found["sources"]["teacher"] == pytest.approx(
        {"share": 1 / 3, "accuracy": 0.5, "miou": 0.25}
    )
    assert PseudoReport(("ignore", "a", "b"), 1, confusion_of(None, given, 3)).accuracy is None


def test_what_moves_is_said_by_the_label_spaces() -> None:
    """Ground, buildings and plants are carried by all of them, and nothing with a motor or legs."""
    alive = ("car", "truck", "bus", "trailer", "vehicle", "cycl", "person", "pedestrian", "mov")
    for name, space in LABEL_SPACES.items():
        standing = {space.classes[train_id] for train_id in standing_classes(space)}
        moving = {c for c in space.classes[1:] if any(word in c for word in alive)}
        assert standing == set(space.classes[1:]) - moving, name
    assert "traffic_cone" in {NUSCENES.classes[k] for k in standing_classes(NUSCENES)}
    with pytest.raises(UserError, match="nothing says which classes"):
        standing_classes(TOY_LABELS)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans; set LIDISTILL_REALDATA")
def test_real_frames_as_measured_elsewhere(tmp_path: Path) -> None:
    """Frames 0-8 from the labels of frame 4, all classes: 93.8 % covered, 98.2 % right, 71.0 mIoU of all points."""
    names = tmp_path / "names"
    names.write_text("00/000004")
    section = {"name": "semantickitti", "root": str(REAL), "labelled": {"file": str(names)}}
    section |= {"unlabelled": "rest", "frames": {"train": {"00": [0, 8]}}}
    config = Config(tree={"dataset": section}, source="test")
    report = label_by_poses(config, tmp_path / "out", {"movable": True})
    assert report.scans == 8
    assert report.coverage_of_known == pytest.approx(0.938, abs=2e-3)
    assert report.accuracy == pytest.approx(0.982, abs=1e-3)
    assert report.miou(missing=True) == pytest.approx(0.710, abs=1e-3)
