"""The labels of a split as Waymo's metric tool reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.datasets.waymo.scoring.cells import CellSplit
from core.datasets.waymo.scoring.frame_lists import FRAMES, encode_prediction
from core.datasets.waymo.wire.writer import Writer
from core.errors import UserError
from core.io import atomic_path

__all__ = ["write_truth"]


def write_truth(scans: CellSplit, path: Path) -> None:
    """Write a SegmentationFrameList of the frames' classes, one frame in memory at a time.

    Matrices hold classes alone, [H, W]: Waymo's tool flattens them, and would take instance ids for classes.

    Raises:
        UserError: a frame is damaged or has no labels.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for index in range(len(scans)):
            token = scans.token(index)
            labels = scans.load(index, cameras=False).labels
            if labels is None:
                raise UserError(f"frame {token} has no labels", where=str(scans.root))
            cells = scans.cells(index)
            images = list(cells.images(labels[: len(cells)].astype(np.int32)))
            stream.write(Writer().content(FRAMES, encode_prediction(token, images)).tobytes())
