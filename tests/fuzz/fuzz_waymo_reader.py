"""Targets: what the Waymo reader takes besides segments: its index, exported points, a list of frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from fuzz_data import NPY, loaded
from fuzz_mutations import JSON, LINES
from fuzz_runner import Target
from waymo_segments import NAMES, context, frame, images

from core.datasets.waymo.exported import RETURNS
from core.datasets.waymo.v1.writer import segment_file, write_segment

LIST = "frames.txt"
(NAME,) = NAMES["testing"]


def segments(folder: Path) -> None:
    """Three frames of a training segment, the index of it, and a list of two frames of a test segment."""
    train = NAMES["training"][0]
    for part, name in (("training", train), ("testing", NAME)):
        made = [frame(number, name, labelled=part == "training") for number in range(3)]
        path = folder / part / segment_file(name)
        write_segment(path, context(name), [(one, images(one)) for one in made])
    times = [frame(number, NAME, labelled=False).timestamp for number in (0, 2)]
    (folder / LIST).write_text("".join(f"{NAME},{time}\n" for time in times))
    use_index(folder)


def exported(folder: Path) -> None:
    """One frame: 40 points per return, with cells."""
    rng = np.random.default_rng(0)
    for part in RETURNS:
        path = folder / part / "training" / NAME / "1500000000000000.npy"
        path.parent.mkdir(parents=True)
        table = np.zeros((40, 8), np.float32)
        table[:, :6] = rng.uniform(0, 9, (40, 6))
        table[:, 6:] = rng.integers(0, 23, (40, 2))
        np.save(path, table)
        cells = rng.integers(0, 64, (40, 2)).astype(np.uint16)
        np.save(path.with_name(f"{path.stem}_row_col.npy"), cells)


use_index = partial(loaded, name="waymo", index_workers=0, multisweeps={"num_sweeps": 1})
use_exported = partial(loaded, name="waymo")


def use_list(root: Path) -> object:
    return loaded(root, "test", name="waymo", index_workers=0, test_frames=str(root / LIST))


KEPT, POINTS = "cached Waymo index", "Waymo exported points, list of frames"
INDEX = ".lidistill/waymo/*/*/"

TARGETS = (
    Target("waymo.index", KEPT, segments, f"{INDEX}*", use_index),
    Target("waymo.index.json", KEPT, segments, f"{INDEX}index.json", use_index, JSON),
    Target("waymo.exported", POINTS, exported, "*_return/**/*.npy", use_exported, NPY),
    Target("waymo.list", POINTS, segments, LIST, use_list, LINES),
)
