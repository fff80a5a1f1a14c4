"""Real frames of Waymo's data, v1: the values that they are known to hold, and what the official library reads."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from waymo_protos import message

from core.datasets.waymo.frame import CAMERAS, LASERS, Context
from core.datasets.waymo.v1.segment import RecordSegment
from core.datasets.waymo.v1.tfrecord import open_records
from core.datasets.waymo.wire.message import Message
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "waymo" / "v1"
NAMES = {
    "pvps_data_one_frame": "1024360143612057520_3580_000_3600_000",
    "mmdet3d_val": "1071392229495085036_1844_790_1864_790",
}
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real frames; set LIDISTILL_REALDATA"),
]
both = pytest.mark.parametrize("stem", list(NAMES))


def segment(stem: str) -> RecordSegment:
    return RecordSegment(NAMES[stem], REAL / f"{stem}.tfrecord")


def payload(stem: str) -> bytes:
    with open_records(segment(stem).path) as records:
        (span,) = records
        return records.payload(span)


def parts(stem: str, number: int) -> list[Message]:
    return Message(memoryview(payload(stem)), "Frame").parts(number, "part")


# size of the payload, checksums as they lie in the file, fields by number, timestamp, first row of the pose
FRAMES = {
    "pvps_data_one_frame": (
        2168758, "58bd39b1", "31945684", {1: 1, 2: 1, 3: 1, 4: 5, 5: 5, 6: 75, 8: 5, 9: 5}, 1553735853462203,
        [0.7219100409696224, 0.6918753642476494, 0.012424696954877246, -25211.25891195526],
    ),
    "mmdet3d_val": (
        8140, "1108b15e", "83d4d621", {1: 1, 2: 1, 3: 1, 6: 18, 8: 5, 9: 5}, 1507315488219118,
        [0.9848858840317559, 0.17315746667694687, 0.004035736489008607, 2759.806424543609],
    ),
}  # fmt: skip


@both
def test_framing_fields_and_pose(stem: str) -> None:
    size, length_crc, data_crc, counts, timestamp, first_row = FRAMES[stem]
    content = segment(stem).path.read_bytes()
    assert len(content) == size + 16
    assert (content[8:12].hex(), content[-4:].hex()) == (length_crc, data_crc)
    fields = Message(memoryview(payload(stem)), "Frame")
    assert Counter(field.number for field in fields) == counts
    (row,) = segment(stem).frames()
    assert (row["timestamp"], row["start"], row["size"]) == (timestamp, 0, size)
    assert row["pose"][0].tolist() == first_row
    assert not row["labelled"]


@both
def test_lidars_that_were_taken_out_are_told(stem: str) -> None:
    found = segment(stem)
    (row,) = found.frames()
    assert found.read(row, ()).returns == found.read(row, ("FRONT", "REAR")).returns == {}
    with pytest.raises(UserError, match="record 1 at byte 0: the frame has no range image of TOP"):
        found.read(row)


@both
def test_the_official_library_reads_the_same(stem: str) -> None:
    official = message("Frame").FromString(payload(stem))
    found = segment(stem).context()
    assert {key: getattr(official.context.stats, key) for key in found.stats} == found.stats
    for right in official.context.laser_calibrations:
        laser = found.lasers[LASERS[right.name]]
        assert laser.extrinsic.ravel().tolist() == list(right.extrinsic.transform)
        assert laser.limits == (right.beam_inclination_min, right.beam_inclination_max)
        inclinations = [] if laser.inclinations is None else laser.inclinations.tolist()
        assert inclinations == list(right.beam_inclinations)
    for right in official.context.camera_calibrations:
        camera = found.cameras[CAMERAS[right.name]]
        matrix = camera.matrix
        pinhole = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
        assert [*pinhole, *camera.distortion] == list(right.intrinsic)
        assert camera.extrinsic.ravel().tolist() == list(right.extrinsic.transform)
        assert (*camera.size, camera.shutter) == (
            right.width,
            right.height,
            right.rolling_shutter_direction,
        )
    (row,) = segment(stem).frames()
    pictures = segment(stem).images(row, tuple(CAMERAS.values()))
    assert {name: image.content for name, image in pictures.items()} == {
        CAMERAS[image.name]: image.image for image in official.images
    }
    for right in official.images:
        assert pictures[CAMERAS[right.name]].pose.ravel().tolist() == list(right.pose.transform)


# --- the frame with images --------------------------------------------------------------------------------------------
WITH_IMAGES = "pvps_data_one_frame"


def test_images_by_name() -> None:
    sizes = {1: 446413, 2: 545376, 4: 248605, 3: 460925, 5: 275682}
    found = segment(WITH_IMAGES)
    assert [part.integer(1) for part in parts(WITH_IMAGES, 4)] == list(sizes)
    pictures = found.images(found.frames()[0], tuple(CAMERAS.values()))
    assert {name: len(image.content) for name, image in pictures.items()} == {
        CAMERAS[number]: size for number, size in sizes.items()
    }
    assert all(image.content.startswith(b"\xff\xd8\xff") for image in pictures.values())
    panoptic = [part.part(10, "labels").size(2) for part in parts(WITH_IMAGES, 4)]
    assert panoptic == [39071, 48554, 8714, 29562, 14402]
    assert {part.part(10, "labels").integer(1) for part in parts(WITH_IMAGES, 4)} == {1000}


def test_lidars_and_boxes() -> None:
    assert [list(part) for part in parts(WITH_IMAGES, 5)] == [[]] * 5  # five empty messages
    calibrations = parts(WITH_IMAGES, 1)[0].parts(3, "calibration")
    assert [part.integer(1) for part in calibrations] == [2, 5, 3, 4, 1]
    assert Counter(box.integer(3) for box in parts(WITH_IMAGES, 6)) == {1: 37, 3: 25, 2: 12, 4: 1}


def test_calibrations() -> None:
    found: Context = segment(WITH_IMAGES).context()
    assert found.name == NAMES[WITH_IMAGES]
    assert found.stats == {"time_of_day": "Day", "location": "location_sf", "weather": "sunny"}
    assert set(found.lasers) == set(LASERS.values())
    top = found.lasers["TOP"]
    assert top.inclinations is not None
    assert top.inclinations[[0, -1]].tolist() == [-0.3062496301683044, 0.04368278080575827]
    assert (len(top.inclinations), top.limits) == (64, (-0.31178997684594145, 0.045266032028160264))
    for name in set(LASERS.values()) - {"TOP"}:
        laser = found.lasers[name]
        assert (laser.inclinations, laser.limits) == (
            None,
            (-1.5707963267948966, 0.5235987755982988),
        )
    front = found.cameras["FRONT"]
    right = [
        [2044.5083584358413, 0, 949.5746451352071],
        [0, 2044.5083584358413, 633.2422462156501],
        [0, 0, 1],
    ]
    assert front.matrix.tolist() == right
    assert front.distortion.tolist() == [
        0.040358363932006036, -0.33001662226602974, 0.0010402702690110032, -0.0015669020781401406, 0
    ]  # fmt: skip
    assert front.shutter == 2
    assert (
        sorted(camera.size for camera in found.cameras.values())
        == [(1920, 886)] * 2 + [(1920, 1280)] * 3
    )
    np.testing.assert_allclose(front.extrinsic[:3, 3], (1.539, -0.024, 2.115), atol=5e-4)


def test_the_other_car() -> None:
    top = segment("mmdet3d_val").context().lasers["TOP"]
    assert top.extrinsic[:3, 3].tolist() == [1.43, 0, 2.184]
    yaw = np.degrees(np.arctan2(top.extrinsic[1, 0], top.extrinsic[0, 0]))
    assert abs(yaw - 148.474) < 5e-4
    assert top.inclinations is not None
    assert top.inclinations[[0, -1]].tolist() == [-0.30733544463330187, 0.0408968664752265]
    assert len(top.inclinations) == 64
