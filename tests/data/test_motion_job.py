"""Motion maps on disk: written in parallel and again, read as a column, refused where they belong to something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import Config
from core.contracts import Scan
from core.data import motion_job
from core.data.motion import MotionStream
from core.data.motion_job import prepare_motion
from core.datasets import build_dataset
from core.datasets.motion_config import MotionConfig
from core.errors import UserError
from tests import motion_world as world

COUNT = 12


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives, without labels, and the maps of the first."""
    root = tmp_path_factory.mktemp("motion")
    for name, first in (("00", 0), ("08", 1)):
        scans = world.sequence(COUNT + first)[first:]
        world.write_drive(root / "sequences" / name, scans)
    prepare_motion(tree(root), ["train"])
    return root


@pytest.fixture
def root(drives, tmp_path) -> Path:
    return shutil.copytree(drives, tmp_path / "drives")


def tree(root: Path, **motion: Any) -> Config:
    column = {"file": "motion/{token}.npz", "channels": 8, "motion": motion}
    section = {
        "name": "semantickitti",
        "root": str(root),
        "use_labels": False,
        "cameras": [],
        "split": {"train": ["00"], "val": ["08"]},
        "columns": {"motion": column},
    }
    return Config({"dataset": section})


def load(root: Path, index: int, **motion: Any) -> Scan:
    return build_dataset(tree(root, **motion), "train").load(index)


def maps(root: Path, frame: int, sequence: str = "00") -> Path:
    return root / "motion" / sequence / f"{frame:06d}.npz"


def test_a_point_reads_its_cells(drives):
    stream = MotionStream(MotionConfig())
    dataset = build_dataset(tree(drives), "train")
    finished = []
    for index in range(COUNT):
        scan = dataset.read(index)
        finished.append(stream.push(scan.xyz, scan.pose))
    finished = [scan for scan in finished if scan] + list(stream.finish())
    for index, scan in enumerate(finished):
        np.testing.assert_array_equal(dataset.load(index).points["motion"], scan.features())
    seen = dataset.load(4).points["motion"].any(0)
    assert seen.tolist() == [False] * 3 + [True] * 5


def test_tasks_processes_and_a_second_start_change_nothing(root, monkeypatch):
    whole = [maps(root, frame).read_bytes() for frame in range(COUNT)]
    for frame in (0, 5, 6, COUNT - 1):
        maps(root, frame).unlink()
    monkeypatch.setattr(motion_job, "_CHUNK", 5)
    report = prepare_motion(tree(root), ["train"], workers=2)
    assert (report.written, report.kept) == (4, COUNT - 4)
    assert report.size == sum(map(len, whole))
    assert [maps(root, frame).read_bytes() for frame in range(COUNT)] == whole
    assert sum(map(len, whole)) / COUNT < 3.9e6 / 20


def test_a_file_of_another_sequence(root):
    prepare_motion(tree(root), ["val"])
    shutil.copy(maps(root, 3, "08"), maps(root, 3))
    with pytest.raises(UserError, match=r"00/000003\.npz.*with scan 08/000003; scan 00/000003"):
        load(root, 3)
    with pytest.raises(UserError, match=r"with scan 08/000003"):
        prepare_motion(tree(root), ["train"])


def test_other_poses(root):
    poses = root / "sequences/00/poses.txt"
    poses.write_text(poses.read_text().replace("e-01", "e-02", 1))
    for act in (lambda: load(root, 3), lambda: prepare_motion(tree(root), ["train"])):
        with pytest.raises(UserError, match=r"with pose files of SHA-256 .* is asked for"):
            act()


def test_too_few_poses(root):
    poses = root / "sequences/00/poses.txt"
    poses.write_text("".join(poses.read_text().splitlines(keepends=True)[:-1]))
    shutil.rmtree(root / "motion")
    with pytest.raises(UserError, match=r"poses\.txt.*no pose of scan 00/000011.*end before it"):
        prepare_motion(tree(root), ["train"])
    assert not list((root / "motion").rglob("*.npz"))  # it is told before the first scan


def test_poses_of_another_sequence(root):
    shutil.rmtree(root / "motion")
    poses = root / "sequences/00/poses.txt"
    line = poses.read_text().splitlines(keepends=True)[0]
    poses.write_text(line * 271)
    with pytest.raises(
        UserError, match=r"271 lines, as many as sequence 04 has scans; sequence 00 has 4541"
    ):
        prepare_motion(tree(root), ["train"])
    poses.write_text(line * 1101)
    with pytest.raises(UserError, match="as many as sequence 01 or 06 or 07 has scans"):
        prepare_motion(tree(root), ["train"])
    poses.write_text(line * 20)
    (root / "sequences/00/times.txt").write_text("0.1\n" * 12)
    with pytest.raises(
        UserError, match=r"times\.txt: the file has 12 lines, and poses\.txt has 20"
    ):
        prepare_motion(tree(root), ["train"])


def test_delays(root):
    paper = load(root, 4).points["motion"]
    past = load(root, 4, delay=3).points["motion"]
    np.testing.assert_array_equal(past[:, :4], paper[:, :4])
    assert paper[:, 4:].any() and not past[:, 4:].any()
    with pytest.raises(UserError, match="with delay 7; delay 3 is asked for"):
        prepare_motion(tree(root, delay=3), ["train"])
    shutil.rmtree(root / "motion")
    prepare_motion(tree(root, delay=3), ["train"])
    np.testing.assert_array_equal(load(root, 4, delay=3).points["motion"], past)
    with pytest.raises(UserError, match="with delay 3; delay 7 is asked for"):
        load(root, 4)


def test_columns_of_one_file_take_what_each_may_see(root):
    config = tree(root)
    columns = config.tree["dataset"]["columns"]
    columns["past"] = columns["motion"] | {"motion": {"delay": 0}}
    assert prepare_motion(config, ["train"]).kept == COUNT
    scan = build_dataset(config, "train").load(8)
    np.testing.assert_array_equal(scan.points["past"][:, 0], scan.points["motion"][:, 0])
    assert scan.points["past"].any(0).tolist() == [True] + [False] * 7
    columns["other"] = columns["motion"] | {"file": "other/{token}.npz"}
    with pytest.raises(UserError, match="there are 3 columns of motion: motion, past, other"):
        prepare_motion(config, ["train"])


@pytest.mark.parametrize("other", [{"last": 5, "previous": 3}, {"bins": (180, 480)}])
def test_other_windows_and_grids(root, other):
    with pytest.raises(UserError, match=next(iter(other))):
        load(root, 4, **other)


def test_another_number_of_points(root):
    path = root / "sequences/00/velodyne/000004.bin"
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(UserError, match="points:"):
        load(root, 4)


def test_damage_and_absence(root):
    maps(root, 2).write_bytes(maps(root, 2).read_bytes()[:-100])
    maps(root, 3).unlink()
    np.savez(maps(root, 4), maps=np.zeros(3))
    for index, message in ((2, "cannot decode"), (3, "prepare_motion.py"), (4, "no motion maps")):
        with pytest.raises(UserError, match=message) as error:
            load(root, index)
        assert f"{index:06d}.npz" in str(error.value)


def test_a_hole_ends_a_run_and_later_frames_are_noticed(tmp_path, caplog):
    frames = [0, 1, 2, *range(5, 14)]
    scans = [world.sequence(14)[frame] for frame in frames]
    folder = tmp_path / "sequences/00"
    world.write_drive(folder, scans, frames)
    dataset = build_dataset(tree(tmp_path, delay=0), "train")
    assert motion_job.unbroken_runs(dataset) == [range(3), range(3, 12)]
    prepare_motion(tree(tmp_path, delay=0), ["train"])
    seen = [dataset.load(index).points["motion"].any() for index in range(12)]
    assert np.flatnonzero(seen).tolist() == [10, 11]  # frames 12 and 13: eight scans in a row
    (folder / "velodyne/000004.bin").write_bytes((folder / "velodyne/000005.bin").read_bytes())
    with pytest.raises(UserError, match="scans before and after it"):
        prepare_motion(tree(tmp_path, delay=0), ["train"])


def test_columns_are_checked(tmp_path):
    config = tree(tmp_path)
    config.tree["dataset"]["columns"]["motion"]["channels"] = 1
    with pytest.raises(UserError, match="motion gives 8 values"):
        prepare_motion(config, ["train"])
    world.write_drive(tmp_path / "sequences/00", world.sequence(1))
    del (config := tree(tmp_path)).tree["dataset"]["columns"]
    with pytest.raises(UserError, match="there are 0 columns of motion"):
        prepare_motion(config, ["train"])
