"""``python -m core.check_data`` on a small SemanticKITTI folder, whole and damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.check_data.command import main
from core.engine.run.cli import run_command
from core.errors import UserError

COUNT = 8


def write_sequence(root: Path, name: str, scans: int) -> None:
    folder = root / "sequences" / name
    for part in ("velodyne", "labels", "image_2"):
        (folder / part).mkdir(parents=True)
    for scan in range(scans):
        np.ones((COUNT, 4), np.float32).tofile(folder / "velodyne" / f"{scan:06d}.bin")
        np.array([10, 10, 252, 40, 40, 70, 0, 99], np.uint32).tofile(
            folder / "labels" / f"{scan:06d}.label"
        )
        Image.new("RGB", (8, 4)).save(folder / "image_2" / f"{scan:06d}.png")
    row = " 1 0 0 0 0 1 0 0 0 0 1 0\n"
    (folder / "calib.txt").write_text("P2: 8 0 4 0 0 8 2 0 0 0 1 0\nTr:" + row)
    (folder / "poses.txt").write_text(row * scans)
    (folder / "times.txt").write_text("".join(f"{0.1 * i}\n" for i in range(scans)))


@pytest.fixture
def world(tmp_path):
    """(root, configuration file) of a world with 3 training scans and 1 validation scan."""
    write_sequence(tmp_path / "kitti", "00", 3)
    write_sequence(tmp_path / "kitti", "08", 1)
    config = tmp_path / "job.yaml"
    config.write_text(
        f"dataset:\n  name: semantickitti\n  root: {tmp_path / 'kitti'}\n  split: {{train: ['00'], val: ['08']}}\n"
    )
    return tmp_path / "kitti", config


def run(config: Path, *options: str) -> tuple[int, dict]:
    """(exit code, JSON report)."""
    report = config.parent / "report.json"
    try:
        main([str(config), "--json", str(report), *options])
        code = 0
    except SystemExit as leave:
        code = leave.code
    return code, json.loads(report.read_text())


def texts(report: dict, split: str, kind: str) -> list[str]:
    return [fault["text"] for fault in report["splits"][split]["faults"] if fault["kind"] == kind]


def test_whole_data(world, capsys):
    code, report = run(world[1], "--cameras")
    assert code == 0 and report["ok"]
    train = report["splits"]["train"]
    assert (train["scans"], train["expected"], train["faults"]) == (3, None, [])
    counts = {name: count for name, count in train["points"].items() if count}
    assert counts == {"ignore": 6, "car": 9, "road": 6, "vegetation": 3}
    assert capsys.readouterr().out.endswith("data: 4 scans, all good\n")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("part", "suffix"), [("velodyne", "bin"), ("labels", "label")])
def test_truncated_file(world, capsys, quick, part, suffix):
    path = world[0] / "sequences/00" / part / f"000001.{suffix}"
    path.write_bytes(path.read_bytes()[:-2])
    code, report = run(world[1], *(["--quick"] if quick else []))
    assert code == 2 and not report["ok"]
    (fault,) = report["splits"]["train"]["faults"]
    assert (fault["kind"], fault["scan"], fault["file"]) == ("damaged", "00/000001", str(path))
    assert report["splits"]["val"]["faults"] == []
    assert "data: 4 scans, 1 fault\n" in capsys.readouterr().out


def test_quick_reads_nothing(world):
    np.full(COUNT, 77, np.uint32).tofile(world[0] / "sequences/00/labels/000000.label")
    code, report = run(world[1], "--quick")
    assert code == 0 and report["splits"]["train"]["points"] is None
    code, report = run(world[1])
    assert code == 2 and "label id 77 (8 points)" in texts(report, "train", "damaged")[0]
    assert sum(report["splits"]["train"]["points"].values()) == 2 * COUNT


def test_images_count_only_where_asked_for(world):
    (world[0] / "sequences/00/image_2/000002.png").unlink()
    (world[0] / "sequences/00/image_2/000000.png").write_bytes(b"")
    code, report = run(world[1])
    assert code == 0
    assert (
        "1 of 3 images are not there; comes from data_odometry_color.zip"
        in report["splits"]["train"]["optional"][0]
    )
    for options in (["--cameras"], ["--cameras", "--quick"]):
        code, report = run(world[1], *options)
        assert code == 2 and len(texts(report, "train", "missing")) == 1
        assert [
            ("000000.png" in d, "000002.png" in d) for d in texts(report, "train", "damaged")
        ] == [
            (True, False),
            (False, True),
        ]


def test_poses_count_only_with_sweeps(world):
    (world[0] / "sequences/08/poses.txt").unlink()
    assert run(world[1])[0] == 0
    code, report = run(world[1], "--dataset.multisweeps.num_sweeps", "1")
    assert code == 2
    (line,) = texts(report, "val", "missing")
    assert "sequences/08/poses.txt" in line and "data_odometry_labels.zip" in line


def test_missing_sequence_names_the_archive(world):
    code, report = run(world[1], "--dataset.split", "{train: ['00', '01'], val: ['09']}")
    assert code == 2
    (line,) = texts(report, "train", "missing")
    assert "sequences/01/velodyne" in line and "data_odometry_velodyne.zip" in line
    assert report["splits"]["val"]["scans"] == 0 and "empty" in texts(report, "val", "unusable")[0]


def test_long_lists_are_cut_in_the_terminal_only(world, capsys):
    write_sequence(world[0], "05", 14)
    for path in (world[0] / "sequences/05/labels").iterdir():
        path.write_bytes(b"")
    code, report = run(world[1], "--dataset.split.train", "['05']", "--splits", "train")
    assert (
        code == 2
        and len(texts(report, "train", "damaged")) == 14
        and list(report["splits"]) == ["train"]
    )
    output = capsys.readouterr().out
    assert output.count("damaged") == 11 and "and 4 more" in output


def test_missing_root_is_a_finding_and_a_wrong_key_an_error(world, capsys, monkeypatch):
    code, report = run(world[1], "--dataset.root", "/nowhere/at/all")
    assert code == 2 and "does not exist" in texts(report, "train", "unusable")[0]
    with pytest.raises(UserError, match="does not exist"):
        main([str(world[1]) + "x"])
    monkeypatch.setattr(sys, "argv", ["check_data", "none.yaml"])
    with pytest.raises(SystemExit) as leave:
        run_command(main)
    assert leave.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
