"""A split of tiny range images in memory, and files of frames as the official protobuf library writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from waymo_frames import matrix_blob
from waymo_protos import message

from core.datasets.benchmark import benchmark
from core.datasets.waymo.scoring.cells import Cells
from core.io import write_bytes, write_json
from core.labels import WAYMO

__all__ = [
    "CONTAINER",
    "SERVER",
    "SHAPE",
    "SPLIT",
    "FakeSplit",
    "classes_of",
    "faults",
    "official_frame",
    "official_list",
    "packed",
    "truth_of",
]

SHAPE = (4, 9)


@dataclass
class FakeSplit:
    """Frames with random cells: labels 0 (undefined) to 22 in about half of them, first return, then second."""

    count: int = 3
    root: Path = Path("nowhere")
    split: str = "val"
    labels = WAYMO

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"10203656353524179475_7625_000_7645_000/{1522688014970187 + 500_000 * index}"

    def index_of(self, token: str) -> int:
        return [self.token(index) for index in range(self.count)].index(token)

    def cells(self, index: int) -> Cells:
        occupied = np.random.default_rng(index).random((2, *SHAPE)) < [[[0.7]], [[0.3]]]
        number, row, column = np.nonzero(occupied)
        return Cells((number + 1).astype(np.uint8), row, column, SHAPE)

    def load(self, index: int, *, cameras: bool = True) -> SimpleNamespace:
        count = len(self.cells(index))
        labels = np.random.default_rng(100 + index).integers(0, 23, count)
        return SimpleNamespace(labels=labels.astype(np.uint8))


def truth_of(split: FakeSplit, index: int) -> list[np.ndarray]:
    """I32 [H, W, 2] of both returns, as the data set stores them: instance and class."""
    cells, labels = split.cells(index), split.load(index).labels
    images = np.zeros((2, *SHAPE, 2), np.int32)
    for number, row, column, label in zip(cells.number, cells.row, cells.column, labels):
        images[number - 1, row, column] = (label * 10 if label == 7 else 0, label)
    return list(images)


def official_frame(token: str, images: list[np.ndarray], lidar: int = 1) -> object:
    """A SegmentationFrame made by the official library."""
    context, _, timestamp = token.rpartition("/")
    laser = message("Laser")(name=lidar)
    for part, image in zip((laser.ri_return1, laser.ri_return2), images):
        part.segmentation_label_compressed = matrix_blob(image)
    return message("SegmentationFrame")(
        segmentation_labels=laser, context_name=context, frame_timestamp_micros=int(timestamp)
    )


def official_list(path: Path, frames: list[object]) -> Path:
    """A file of a SegmentationFrameList."""
    path.write_bytes(message("SegmentationFrameList")(frames=frames).SerializeToString())
    return path


# --- a submission ---------------------------------------------------------------------------------------------------
SPLIT = FakeSplit(count=3)
SERVER = benchmark("waymo")
CONTAINER = SERVER.container
INFO = {
    "account_name": "me@example.com",
    "unique_method_name": "Net",
    "authors": ["A. Author", "Ü. Zweite"],
    "sensor_type": "LIDAR_TOP",
    "past_frames": 2,
}


def classes_of(index: int) -> np.ndarray:
    """Predicted classes, 1 to 22, of the points of a frame."""
    count = len(SPLIT.cells(index))
    return np.random.default_rng(index).integers(1, 23, count).astype(np.uint8)


def packed(
    folder: Path,
    classes: Callable[[int], np.ndarray] = classes_of,
    per_file: int | None = None,
    **info,
) -> list[Path]:
    """A whole submission."""
    names = [SERVER.submitted_path(SPLIT.token(index), "val") for index in range(len(SPLIT))]
    for index, name in enumerate(names):
        write_bytes(folder / name, SERVER.submitted_content(classes(index), SPLIT, index))
    (written,) = SERVER.metadata("val", uses_camera=False).items()
    write_json(folder / written[0], written[1] | INFO | info)
    return CONTAINER.pack(folder, names, per_file)


def faults(path: Path) -> list[str]:
    return list(CONTAINER.faults(path, SPLIT))
