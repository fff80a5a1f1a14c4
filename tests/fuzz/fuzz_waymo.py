"""Targets: segments of the Waymo Open Dataset, and predictions for its benchmark."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from fuzz_mutations import BYTES, JSON
from fuzz_runner import Target
from waymo_fakes import FakeSplit, official_frame, official_list, truth_of
from waymo_frames import NAME, context, frame, images
from waymo_protos import message

from core.datasets.benchmark import benchmark
from core.datasets.waymo.frame import CAMERAS, LASERS
from core.datasets.waymo.scoring.method_info import MethodInfo
from core.datasets.waymo.scoring.score import score_files
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v1.segment import RecordSegment
from core.datasets.waymo.v1.tfrecord import write_record
from core.datasets.waymo.v1.writer import segment_file, write_segment
from core.io import write_bytes, write_json
from core.labels import WAYMO

CAMERA_NAMES, LASER_NAMES = tuple(CAMERAS.values()), tuple(LASERS.values())
FRAMING = 12, 4  # bytes before and behind a payload
SERVER = benchmark("waymo")
REAL_NAME = "1024360143612057520_3580_000_3600_000"
REAL_FILE = "waymo/v1/pvps_data_one_frame.tfrecord"


def records(folder: Path) -> None:
    """One frame: a file that is cut behind a whole record is a right one."""
    write_segment(folder / segment_file(NAME), context(), [(frame(), images())])


def real_records(real: Path, folder: Path) -> None:
    """A real frame whose lidars were taken out; ``real``: the folder of real data."""
    shutil.copy(real / REAL_FILE, folder / segment_file(REAL_NAME))


def use_segments(
    find: Callable[[Path], dict[str, Segment]], lasers: tuple[str, ...], root: Path
) -> object:
    """All that a segment gives."""
    found: list[object] = []
    for name, segment in find(root).items():
        rows = segment.frames()
        found += [name, segment.context(), rows]
        for row in rows:
            found += [segment.read(row, lasers), segment.images(row, CAMERA_NAMES)]
    return found


# --- damage that checksums do not show --------------------------------------------------------------------------------
def sealed(payload: bytes) -> bytes:
    """A record of this payload, whatever it is."""
    stream = io.BytesIO()
    write_record(stream, payload)
    return stream.getvalue()


def any_damage(content: bytes, rng: np.random.Generator) -> bytes:
    return BYTES[rng.integers(len(BYTES))](content, rng)


def payload(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage of a Frame message."""
    head, foot = FRAMING
    return sealed(any_damage(content[head:-foot], rng))


def matrix(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage of a matrix, before or after it was compressed."""
    head, foot = FRAMING
    whole = message("Frame").FromString(content[head:-foot])
    laser = whole.lasers[rng.integers(len(whole.lasers))]
    part = (
        laser.ri_return2
        if rng.random() < 0.5 and laser.HasField("ri_return2")
        else laser.ri_return1
    )
    fields = [field.name for field, _ in part.ListFields()]
    name = fields[rng.integers(len(fields))]
    blob = getattr(part, name)
    if rng.random() < 0.2:
        damaged = any_damage(blob, rng)
    else:
        damaged = zlib.compress(any_damage(zlib.decompress(blob), rng))
    setattr(part, name, damaged)
    return sealed(whole.SerializeToString())


# --- predictions ------------------------------------------------------------------------------------------------------
def predictions(folder: Path) -> None:
    """Frames, as a submission and as a bare list, and their truth."""
    scans = FakeSplit(2)
    names = [SERVER.submitted_path(scans.token(index), "val") for index in range(2)]
    for index, name in enumerate(names):
        content = SERVER.submitted_content(np.maximum(scans.load(index).labels, 1), scans, index)
        write_bytes(folder / name, content)
    for name, values in SERVER.metadata("val", uses_camera=False).items():
        write_json(folder / name, values | {"account_name": "me", "authors": ["A", "B"]})
    SERVER.container.pack(folder, names, None)
    truth = [official_frame(scans.token(index), truth_of(scans, index)) for index in range(2)]
    (folder / "truth").mkdir()
    official_list(folder / "truth" / "truth.bin", truth)


def predicted_matrix(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage of a frame's matrix, before it was compressed."""
    whole = message("SegmentationFrameList").FromString(content)
    laser = whole.frames[rng.integers(len(whole.frames))].segmentation_labels
    part = (laser.ri_return1, laser.ri_return2)[rng.integers(2)]
    damaged = any_damage(zlib.decompress(part.segmentation_label_compressed), rng)
    part.segmentation_label_compressed = zlib.compress(damaged)
    return whole.SerializeToString()


def use_method(root: Path) -> object:
    return MethodInfo.read(root / "submission.json").to_json()


def use_predictions(root: Path) -> object:
    """Check what is to be uploaded, and score it."""
    found = list(SERVER.container.faults(root, FakeSplit(2)))
    lacking = SERVER.container.outstanding(root)
    score = score_files(root / "truth", root)
    return found, lacking, score.to_json(WAYMO.classes)


use_records = partial(use_segments, RecordSegment.find, LASER_NAMES)
use_real_records = partial(use_segments, RecordSegment.find, ())

RECORDS = "Waymo v1 segment"
SENT = "Waymo submission, frame list"
LIST = "frame_list.bin"

TARGETS = (
    Target("waymo.records", RECORDS, records, "*.tfrecord", use_records),
    Target("waymo.payload", RECORDS, records, "*.tfrecord", use_records, (payload, matrix)),
    Target("waymo.submission", SENT, predictions, "submission.bin", use_predictions),
    Target("waymo.frames", SENT, predictions, LIST, use_predictions),
    Target("waymo.truth", SENT, predictions, "truth/*.bin", use_predictions),
    Target("waymo.classes", SENT, predictions, LIST, use_predictions, (predicted_matrix,)),
    Target("waymo.method", SENT, predictions, "submission.json", use_method, JSON),
)
