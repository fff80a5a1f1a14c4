"""The montage of motion channels: colours of points and cells that were put there by hand, and a drive's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib import colormaps
from PIL import Image

from core.config import load_config
from core.data.motion_job import prepare_motion
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import MotionMaps
from core.engine.report.color_scale import scale_bar, scale_colors, scale_table
from core.engine.report.motion_picture import motion_montage
from core.engine.report.outcomes import COLORS, MISSED
from core.engine.visualise import main
from core.errors import UserError
from tests import motion_world as world

SETTINGS = MotionConfig()
TOP = 12 + 24  # px of a panel's title


def test_the_scale_is_that_of_matplotlib_from_end_to_end():
    table = scale_table()
    brightest = np.array(colormaps["inferno"](1.0)[:3])
    assert np.abs(table[-1] / 255 - brightest).max() < 1 / 255
    grey = table @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(grey) > -0.51).all() and grey[-1] > 3 * grey[0]  # but for rounding
    colors = scale_colors(np.array([-5.0, 0, 1, 2, 9]), 0.0, 2.0)
    assert (colors == table[[0, 0, 128, 255, 255]]).all()
    with pytest.raises(ValueError, match="from 1 to 1"):
        scale_colors(np.zeros(1), 1, 1)
    assert scale_bar(0.0, 4.0, "m").shape == (24, 300, 3)


def montage(moves: np.ndarray | None) -> np.ndarray:
    """Channel 0 and 3 have a map, with one cell each; one point reads 4 m, the others nothing."""
    maps = np.zeros((8, 360, 480), np.float16)
    maps[0, 270, 239] = 4.0  # azimuth 90 degrees, half of the range
    moved = np.full((8, 3, 4), np.nan)
    moved[[0, 3]] = np.eye(4)[:3]
    points = np.array([(0, 21, 0), (-21, 0, 0), (21, -21, 0)], np.float32)
    values = np.zeros((3, 8), np.float32)
    values[0, 0] = 4.0
    return motion_montage(points, values, moves, MotionMaps(maps, moved, np.eye(4)), SETTINGS, "t")


def places(picture: np.ndarray, color: np.ndarray) -> np.ndarray:
    return np.argwhere((picture == color).all(2))


def test_points_and_cells_lie_where_they_are_and_have_their_colours():
    picture = montage(np.array([True, True, False]))
    first = picture[: TOP + 400, :412]
    brightest = scale_table()[-1]
    middle = places(first, brightest).mean(0)
    assert np.abs(middle - [TOP + 100, 12 + 200]).max() < 2  # 21 m of 42 m up
    blue = places(first, COLORS[MISSED]).mean(0)
    assert np.abs(blue - [TOP + 200, 12 + 100]).max() < 2
    below = picture[TOP + 400 : 2 * TOP + 12 + 700, :412]
    cell = places(below, brightest).mean(0)
    assert np.abs(cell - [24 + TOP + 280 / 4, 12 + 200]).max() < 2  # azimuth 90 of -180..180
    assert not len(places(picture[:, 420:820], brightest)), "channel 3 has no motion"
    assert not len(places(montage(None)[: TOP + 400], COLORS[MISSED]))


def test_a_residual_image_stands_upright():
    settings = ResidualConfig(kind="residual", scans=2, height=16, width=200)
    maps = np.zeros((2, 16, 200), np.float16)
    maps[0, 0, 150] = 0.5  # the upper edge, three quarters to the right
    moved = np.full((2, 3, 4), np.nan)
    moved[0] = np.eye(4)[:3]
    points = np.array([(0, 17.5, 0), (-17.5, 0, 0)], np.float32)
    values = np.array([(0.5, 0), (0.04, 0)], np.float32)
    made = MotionMaps(maps, moved, np.eye(4))
    picture = motion_montage(points, values, np.array([True, True]), made, settings, "t")
    brightest = scale_table()[-1]
    point = places(picture[: TOP + 400, :412], brightest).mean(0)
    assert np.abs(point - [TOP + 100, 12 + 200]).max() < 2  # 17.5 m of 35 m up
    assert len(places(picture[: TOP + 400, :412], COLORS[MISSED])), "0.04 is as good as nothing"
    cell = places(picture[TOP + 400 : 2 * TOP + 24 + 496, :412], brightest)
    assert len(cell) == 2 * 6, "each of 16 x 200 cells is 6 x 2 pixels"
    assert np.abs(cell.mean(0) - [24 + TOP + 3, 12 + 301]).max() < 2


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drive")
    world.write_drive(root / "sequences/08", world.sequence(9))
    section = {
        "name": "semantickitti",
        "root": str(root),
        "cameras": [],
        "use_labels": False,
        "split": {"train": ["08"], "val": ["08"]},
        "columns": {"motion": {"file": "motion/{token}.npz", "channels": 8, "motion": {}}},
    }
    (root / "job.yaml").write_text(yaml.safe_dump({"dataset": section}))
    return root


def test_a_drive_without_maps_is_told_what_makes_them(drive, tmp_path):
    with pytest.raises(UserError, match=r"prepare_motion\.py CONFIG"):
        main(
            [
                "motion",
                str(drive / "job.yaml"),
                "--scan",
                "08/000003",
                "--out",
                str(tmp_path / "m.png"),
            ]
        )
    assert not (tmp_path / "m.png").exists()


def test_the_command_draws_the_files_of_a_drive(drive, tmp_path, capsys):
    prepare_motion(load_config(str(drive / "job.yaml"), []), ["val"])
    out = tmp_path / "m.png"
    main(["motion", str(drive / "job.yaml"), "--scan", "08/000003", "--out", str(out)])
    assert str(out) in capsys.readouterr().out
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert picture.shape[1] == 4 * 412 + 12
    drawn = picture[: TOP + 400].reshape(-1, 3)
    assert len(np.unique(drawn, axis=0)) > 30  # the colours of many extents
    with pytest.raises(UserError, match="08/000099"):
        main(["motion", str(drive / "job.yaml"), "--scan", "08/000099"])
