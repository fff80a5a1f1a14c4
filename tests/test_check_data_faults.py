"""What damages data sets elsewhere: ``check_data`` finds each before a training does, and names file and line.

The numbers are those of public reports of such damage; each case says what has to come out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.check_data.command import main
from core.errors import UserError

COUNT = 40
IDENTITY = "1 0 0 0 0 1 0 0 0 0 1 0\n"
Damage = Callable[[Path], None]


def points(seed: int, count: int = COUNT, columns: int = 4) -> np.ndarray:
    """A small scan that has neighbours lying near each other."""
    return np.random.default_rng(seed).uniform(-3, 3, (count, columns)).astype(np.float32)


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """Sequence 08 with three scans, images and all tables, and ``job.yaml`` beside it."""
    folder = tmp_path / "k/sequences/08"
    for part in ("velodyne", "labels", "image_2"):
        (folder / part).mkdir(parents=True)
    for frame in range(3):
        points(frame).tofile(folder / f"velodyne/{frame:06d}.bin")
        np.full(COUNT, 40, "<u4").tofile(folder / f"labels/{frame:06d}.label")
        Image.new("RGB", (32, 16)).save(folder / f"image_2/{frame:06d}.png")
    (folder / "calib.txt").write_text(f"P2: 20 0 15.5 0 0 20 7.5 0 0 0 1 0\nTr: {IDENTITY}")
    (folder / "poses.txt").write_text(IDENTITY * 3)
    (folder / "times.txt").write_text("0\n0.1\n0.2\n")
    (tmp_path / "job.yaml").write_text(
        f"dataset: {{name: semantickitti, root: {tmp_path / 'k'}, split: {{val: ['08']}}}}\n"
    )
    return folder


def check(job: Path, *options: str) -> tuple[int, dict]:
    """(exit code, JSON report of the validation split)."""
    out = job.parent / "report.json"
    code = 0
    try:
        main([str(job), "--splits", "val", "--json", str(out), *options])
    except SystemExit as leave:
        code = int(str(leave.code))
    report = json.loads(out.read_text())
    assert report["exit_code"] == code and report["ok"] == (code == 0)
    return code, report["splits"]["val"]


def wider_poses(folder: Path) -> None:
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0 1\n" * 3)


def no_rotation(folder: Path) -> None:
    (folder / "poses.txt").write_text(IDENTITY + "2 0 0 0 0 1 0 0 0 0 1 0\n" + IDENTITY)


def short_poses(folder: Path) -> None:
    (folder / "poses.txt").write_text(IDENTITY)


def words_for_times(folder: Path) -> None:
    (folder / "times.txt").write_text("0\nsoon\n0.2\n")


def resized_image(folder: Path) -> None:
    Image.new("RGB", (16, 8)).save(folder / "image_2/000001.png")


def broken_image(folder: Path) -> None:
    path = folder / "image_2/000001.png"
    path.write_bytes(path.read_bytes()[:40])


def misnamed_frames(folder: Path) -> None:
    for part, suffix in (("velodyne", "bin"), ("labels", "label")):
        (folder / part / f"000002.{suffix}").rename(folder / part / f"00002.{suffix}")


def cut_short(folder: Path) -> None:
    path = folder / "velodyne/000001.bin"
    path.write_bytes(path.read_bytes()[:-2])


def stray_point(folder: Path) -> None:
    values = points(1)
    values[5, 0] = 1e5
    values.tofile(folder / "velodyne/000001.bin")


def no_class(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        np.zeros(COUNT, "<u4").tofile(path)


SWEEPS = ("--dataset.multisweeps.num_sweeps", "1")
CAMERAS = ("--cameras",)
FINE = ("--data.voxel_size", "0.3")
FOUND = {
    "pose of 13 numbers": (wider_poses, SWEEPS, "damaged", "poses.txt", 1, "13 values"),
    "pose that is no rotation": (no_rotation, SWEEPS, "damaged", "poses.txt", 2, "rotation"),
    "fewer poses than scans": (
        short_poses,
        SWEEPS,
        "damaged",
        "times.txt",
        None,
        "poses.txt has 1",
    ),
    "time that is no number": (words_for_times, SWEEPS, "damaged", "times.txt", 2, "soon"),
    "image of another size": (resized_image, CAMERAS, "damaged", "000001.png", None, "16 x 8"),
    "image cut short": (broken_image, CAMERAS, "damaged", "000001.png", None, "decode"),
    "name of another width": (misnamed_frames, (), "missing", None, None, "not named NNNNNN.bin"),
    "scan cut short": (cut_short, (), "damaged", "000001.bin", None, "multiple of 16"),
    "stray point": (stray_point, FINE, "damaged", "000001.bin", None, "voxel"),
    "nothing labelled": (no_class, (), "unlabelled", None, None, "0 of 120 points have a class"),
}


@pytest.mark.parametrize("name", FOUND)
def test_damage_is_found_and_named(kitti: Path, name: str) -> None:
    damage, options, kind, file, line, text = FOUND[name]
    job = kitti.parents[2] / "job.yaml"
    damage(kitti)
    code, report = check(job, *options)
    found = [fault for fault in report["faults"] if fault["kind"] == kind]
    assert code == 2 and found and text in found[0]["text"], report["faults"]
    if file is not None:
        assert found[0]["file"].endswith(file)
    assert line is None or found[0]["line"] == line


@pytest.mark.parametrize("options", [(), SWEEPS, CAMERAS, FINE, ("--quick",)])
def test_good_data_have_no_fault(kitti: Path, options: tuple[str, ...]) -> None:
    code, report = check(kitti.parents[2] / "job.yaml", *options)
    assert code == 0 and report["faults"] == report["optional"] == report["left_out"] == []


@pytest.mark.parametrize("damage", [short_poses, wider_poses, words_for_times])
def test_tables_that_a_job_does_not_use_are_no_fault(kitti: Path, damage: Damage) -> None:
    damage(kitti)
    code, report = check(kitti.parents[2] / "job.yaml")
    assert code == 0 and report["scans"] == 3 and len(report["optional"]) == 1


def test_equal_times_are_no_damage(kitti: Path) -> None:
    (kitti / "times.txt").write_text("0\n0\n0\n")
    code, report = check(kitti.parents[2] / "job.yaml", *SWEEPS)
    assert code == 0 and sum(report["points"].values()) == 3 * COUNT


def test_a_part_of_the_official_split_is_no_whole(kitti: Path) -> None:
    job = kitti.parents[2] / "job.yaml"
    job.write_text(f"dataset: {{name: semantickitti, root: {kitti.parents[1]}}}\n")
    code, report = check(job)
    (fault,) = report["faults"]
    assert code == 2 and fault["kind"] == "incomplete" and report["expected"] == 4071
    assert fault["text"].startswith("val has 3 of the official 4,071 scans; write dataset.partial")
    assert check(job, "--dataset.partial", "true")[0] == 0


def test_a_key_written_twice_is_an_error_in_the_report_too(kitti: Path) -> None:
    job = kitti.parents[2] / "job.yaml"
    job.write_text(job.read_text() + "data: {voxel_size: 0.1}\ndata: {intensity_divisor: 255}\n")
    out = job.parent / "report.json"
    with pytest.raises(UserError, match="data"):
        main([str(job), "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["exit_code"] == 2 and not report["ok"] and "lines 2 and 3" in report["error"]


# --- one's own scans ------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scans with labels, and ``job.yaml`` beside them."""
    root = tmp_path / "scans"
    root.mkdir()
    for frame in range(3):
        points(frame).tofile(root / f"{frame:06d}.bin")
        np.full(COUNT, 40, "<u4").tofile(root / f"{frame:06d}.label")
    (tmp_path / "job.yaml").write_text(
        f'dataset: {{name: folder, root: {root}, label_files: "{{stem}}.label"}}\ndata: {{voxel_size: 0.3}}\n'
    )
    return root


def test_labels_that_no_key_names(folder: Path) -> None:
    job = folder.parent / "job.yaml"
    code, report = check(job, "--dataset.label_files", "null")
    (fault,) = report["faults"]
    assert code == 2 and fault["kind"] == "unlabelled"
    assert f"3 files *.label lie in {folder}: write dataset: {{label_files:" in fault["text"]
    assert check(job, "--dataset.label_files", "null", "--dataset.use_labels", "false")[0] == 0


def test_hidden_files_are_no_scans(folder: Path) -> None:
    (folder / "._000000.bin").write_bytes(b"\0\5\26\7".ljust(4096))
    code, report = check(folder.parent / "job.yaml")
    assert code == 0 and report["scans"] == 3


@pytest.mark.parametrize("pattern", ["**/*.bin", "*/*.bin"])
def test_linked_folders_are_entered(folder: Path, pattern: str) -> None:
    nested = folder.parent / "nested"
    nested.mkdir()
    (nested / "drive").symlink_to(folder)
    options = (
        "--dataset.root",
        str(nested),
        "--dataset.scans",
        pattern,
        "--dataset.use_labels",
        "false",
    )
    code, report = check(folder.parent / "job.yaml", *options)
    assert code == 0 and report["scans"] == 3


def test_dots_in_names(folder: Path) -> None:
    for frame in range(3):
        for suffix in ("bin", "label"):
            (folder / f"{frame:06d}.{suffix}").rename(
                folder / f"1566279795.{frame}00000000.{suffix}"
            )
    code, report = check(folder.parent / "job.yaml")
    assert code == 0 and report["scans"] == 3


def test_another_number_of_columns(folder: Path) -> None:
    angle = np.linspace(0, 50, 800)  # in the order of a scanner, by which columns are measured
    way = np.c_[9 * np.cos(angle), 9 * np.sin(angle), angle / 50, angle / 50, angle]
    for frame, columns in enumerate((4, 5, 4)):  # 16,000 bytes divide by 16, too
        way[:, :columns].astype("<f4").tofile(folder / f"{frame:06d}.bin")
        np.full(800 if columns == 4 else 1000, 40, "<u4").tofile(folder / f"{frame:06d}.label")
    code, report = check(folder.parent / "job.yaml")
    (fault,) = report["faults"]
    assert code == 2 and fault["file"].endswith("000001.bin") and "5 float32" in fault["text"]


def test_world_coordinates(folder: Path) -> None:
    far = points(1).astype(np.float64)
    far[:, :3] += [388096, 3948996, 40]
    np.save(folder / "000001.npy", far)
    (folder / "000001.bin").unlink()
    code, report = check(folder.parent / "job.yaml", "--dataset.scans", "000001.*")
    assert code == 2 and "000001.npy" in report["faults"][0]["file"]
