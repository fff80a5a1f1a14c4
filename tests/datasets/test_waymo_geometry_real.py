"""Geometry against real frames of Waymo: 800 points of a scan, and boxes that Waymo itself has projected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_waymo_real import NAMES, parts
from waymo_segments import turned

from core.datasets.waymo.cameras import camera_of
from core.datasets.waymo.frame import CAMERAS, TOP, CameraCalibration
from core.datasets.waymo.lens import distort
from core.datasets.waymo.range_image import cells_of, inclinations
from core.datasets.waymo.v1.segment import RecordSegment

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "waymo"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real frames; set LIDISTILL_REALDATA"),
]
BOXED = "pvps_data_one_frame"


def segment(stem: str) -> RecordSegment:
    return RecordSegment(NAMES[stem], REAL / "v1" / f"{stem}.tfrecord")


def test_the_first_points_of_a_scan_lie_in_the_top_row_side_by_side():
    """800 points in the file's order, which is that of the range image; motion blurs them by a column per thousand."""
    table = np.fromfile(REAL / "points" / "mmdet3d_1000000.bin", "<f4").reshape(-1, 6)
    calibration = segment("mmdet3d_val").context().lasers[TOP]
    xyz = table[:, :3].astype(np.float64)
    row, column = cells_of(xyz, calibration, (64, 2650))
    assert len(row) == 800 and (row == 0).all()
    assert column[0] == pytest.approx(167.7, abs=0.1)
    steps = np.diff(column)
    assert (steps > 0).mean() > 0.98 and 0.97 < np.median(steps) < 1.01
    seen = (xyz - calibration.extrinsic[:3, 3]) @ calibration.extrinsic[:3, :3]
    elevation = np.arctan2(seen[:, 2], np.hypot(seen[:, 0], seen[:, 1]))
    off = np.degrees(np.abs(elevation - inclinations(calibration, 64)[0]))
    assert off.mean() == pytest.approx(0.0144, abs=5e-4)  # degrees; a row is 0.16 high
    assert xyz.shape == (800, 3) and table[:, 3].max() > 27  # intensities have no bound


def corners() -> dict[str, np.ndarray]:
    """F64 [8, 3] m, the corners of each laser box in the vehicle system, by its id."""
    found = {}
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    for label in parts(BOXED, 6):
        box = label.part(1, "Box")
        centre = [box.double(number) for number in (1, 2, 3)]
        size = [box.double(number) for number in (5, 4, 6)]  # length, width, height
        found[label.text(4)] = (signs * size) @ turned(0, 0, box.double(7)).T + centre
    return found


def projected(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Id of each laser box in a camera's image, and where Waymo has put it: centre and size, px."""
    for camera in parts(BOXED, 9):
        if CAMERAS[camera.integer(1)] != name:
            continue
        for label in camera.parts(2, "Label"):
            box = label.part(1, "Box")
            place = [box.double(number) for number in (1, 2, 5, 4)]
            yield label.text(4).rsplit(f"_{name}", 1)[0], np.array(place)


def through_lens(uv: np.ndarray, calibration: CameraCalibration) -> np.ndarray:
    focal, centre = calibration.matrix[[0, 1], [0, 1]], calibration.matrix[:2, 2]
    return (
        distort((uv.astype(np.float64) - centre) / focal, calibration.distortion) * focal + centre
    )


def test_boxes_fall_where_waymo_has_projected_them():
    """Corners through our matrix, then through the lens that images are freed of, give Waymo's boxes in the images."""
    (row,) = segment(BOXED).frames()
    context, boxes = segment(BOXED).context(), corners()
    images = segment(BOXED).images(row, list(CAMERAS.values()))
    compared = 0
    for name, image in images.items():
        calibration = context.cameras[name]
        camera = camera_of(name, image, calibration, row["pose"], "here")
        assert camera.load().shape == (calibration.size[1], calibration.size[0], 3)
        for key, place in projected(name):
            uv, depth, _ = camera.project(boxes[key])
            if (depth < 1).any():
                continue
            pixels = through_lens(uv, calibration)
            low, high = pixels.min(0), pixels.max(0)
            if (low < 20).any() or (high > np.array(calibration.size) - 20).any():
                continue  # Waymo cuts boxes at the image's edge
            np.testing.assert_allclose([*(low + high) / 2, *(high - low)], place, atol=0.3)
            compared += 1
    assert compared == 43
