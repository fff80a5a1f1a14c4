"""Waymo's 3-D semantic segmentation challenge: a matrix of classes per return and frame, in files of many frames."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, cast

import numpy as np

from core.datasets.benchmark import Benchmark, NumpyFormat, Split
from core.datasets.waymo.scoring.cells import CellSplit
from core.datasets.waymo.scoring.frame_lists import encode_prediction
from core.datasets.waymo.scoring.method_info import INFO, MethodInfo
from core.datasets.waymo.scoring.submission import FrameContainer

__all__ = ["WaymoBenchmark"]


class WaymoBenchmark(NumpyFormat, Benchmark):
    """U8 train ids in ``<token>.npy``, which are the challenge's own; submitted, they lie in range images."""

    name = "waymo"
    title = "Waymo"
    dtype = np.dtype("u1")
    subsets = MappingProxyType({"first return": ("return", 1), "second return": ("return", 2)})
    absent = "nan_one"
    container = FrameContainer()

    def submitted_path(self, token: str, split: str) -> str:
        """``frames/<context_name>/<timestamp_micros>.bin``, a SegmentationFrame that the container takes up."""
        return f"frames/{token}.bin"

    def submitted_content(self, classes: np.ndarray, scans: Split, index: int) -> bytes:
        """A serialised SegmentationFrame: classes in the cells of both returns, instances 0.

        Raises:
            UserError: the scans do not hold all cells of a frame.
        """
        cells = cast(CellSplit, scans).cells(index)
        images = np.zeros((2, *cells.shape, 2), np.int32)
        images[:, :, :, 1] = cells.images(classes)
        return encode_prediction(scans.token(index), list(images))

    def metadata(
        self, split: str, uses_camera: bool, sweeps: tuple[int, int] = (0, 0)
    ) -> dict[str, dict[str, Any]]:
        """What goes into each file beside its frames; who made them is for a person to fill in."""
        return {INFO: MethodInfo.blank(uses_camera, sweeps).to_json()}
