"""Points exported frame by frame, as the PVKD repository reads them: one array per frame and return.

``<root>/{first_return,second_return}/<split>/<context_name>/<timestamp_micros>.npy``, float32, a row per point: range,
intensity, elongation, x, y, z (m, vehicle system), then nothing, the class, or instance and class. Beside it may lie
``<timestamp_micros>_row_col.npy``, uint16 [N, 2], the cell of each point. There are no poses, calibrations and images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.contracts import Camera, Points, Sensor
from core.datasets.base import ScanFiles
from core.datasets.files import listing
from core.datasets.waymo.frame import FRAME_ROW, TOP
from core.datasets.waymo.index import FrameList
from core.datasets.waymo.range_image import CellPoints
from core.datasets.waymo.scoring.cells import Cells
from core.datasets.waymo.source import FrameSource, PointOptions, points_table
from core.decode import read_array
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["RETURNS", "ExportedFrames", "exported_names"]

RETURNS = ("first_return", "second_return")
_FRAME = re.compile(r"(\d{1,18})\.npy")
_WIDTHS = {6: "no labels", 7: "classes", 8: "instances and classes"}
_SHAPE = (64, 2650)  # of TOP's range images
_CURE = "Export the frame again"


def exported_names(root: Path, folder: str) -> list[str]:
    """Names of the segments of which a split's folder holds points."""
    return sorted(listing(root / RETURNS[0] / folder))


class ExportedFrames(FrameSource):
    """Exported frames of some segments of a split.

    Args:
        folders: those of the split that each segment lies in, by its name.

    Raises:
        UserError: no frame is there.
    """

    format = "npy"

    def __init__(self, root: Path, folders: dict[str, str], options: PointOptions) -> None:
        self._root, self._folders, self._options = root, folders, options
        if options.lasers != (TOP,):
            raise UserError(
                f"exported points are those of {TOP} alone",
                where="dataset.lasers",
                cure=f"Set dataset.lasers [{TOP}], or read a release (dataset.format v1 or v2)",
            )
        parts = [self._listed(name) for name in folders]
        rows = np.zeros(sum(len(part) for part in parts), FRAME_ROW)
        if not len(rows):
            raise UserError("no frame was exported", where=str(root / RETURNS[0]), cure=_CURE)
        rows["timestamp"] = np.concatenate(parts)
        rows["pose"] = np.nan
        self.frames = FrameList(rows, tuple(folders), [len(part) for part in parts])
        rows["labelled"] = self._table(self._path(0, RETURNS[0])).shape[1] > min(_WIDTHS)

    def _listed(self, name: str) -> np.ndarray:
        """Times i64 of a segment's frames, rising."""
        folder = self._root / RETURNS[0] / self._folders[name] / name
        found = [_FRAME.fullmatch(file) for file in listing(folder)]
        return np.sort(np.array([int(match[1]) for match in found if match], np.int64))

    def points(self, row: int, labels: LabelSpace | None) -> Points:
        """Points of the returns that were asked for."""
        parts = []
        for number in range(1, self._options.returns + 1):
            cells, known = self._cells(row, number)
            part = points_table(cells, TOP, labels, self._options, self.where(row))
            if not known:
                part = part.having(row=None, column=None, beam=None)
            parts.append(part.having(no_label_zone=None))
        if len({tuple(part) for part in parts}) > 1:
            what = "one return has labels or cells, the other has none"
            raise UserError(what, where=self.where(row), cure=_CURE)
        if not sum(len(part) for part in parts):
            raise UserError("the frame holds no point", where=self.where(row), cure=_CURE)
        return Points.join(*parts)

    def cells(self, row: int) -> Cells:
        """From the files of cells; range images of TOP have 64 x 2650.

        Raises:
            UserError: such a file is not there, or damaged.
        """
        points = self.points(row, None)
        if "row" not in points:
            raise UserError(
                "which cells the points come from was not exported",
                where=self.where(row),
                cure="Write <timestamp_micros>_row_col.npy beside it, uint16 [N, 2]",
            )
        cells = Cells(points["return"], points["row"], points["column"], _SHAPE)
        largest = (int(cells.row.max()), int(cells.column.max()))
        if largest[0] >= _SHAPE[0] or largest[1] >= _SHAPE[1]:
            what = f"a point lies in row {largest[0]} or column {largest[1]} of {_SHAPE} cells"
            raise UserError(what, where=self.where(row), cure=_CURE)
        return cells

    def _cells(self, row: int, number: int) -> tuple[CellPoints, bool]:
        """Points of one return, and whether it is known which cells they come from."""
        path = self._path(row, RETURNS[number - 1])
        table = self._table(path)
        labels = None
        if table.shape[1] > min(_WIDTHS):
            labels = _labels(table[:, 6:], path)
        cells = _row_column(path, len(table))
        values = np.full((len(table), 4), -1, np.float32)
        values[:, :3] = table[:, :3]
        made = CellPoints(
            xyz=np.ascontiguousarray(table[:, 3:6]),
            values=values,
            labels=labels,
            number=np.full(len(table), number, np.uint8),
            row=np.zeros(len(table), np.int16) if cells is None else cells[:, 0],
            column=np.zeros(len(table), np.int16) if cells is None else cells[:, 1],
        )
        return made, cells is not None

    def _table(self, path: Path) -> np.ndarray:
        """F32 [N, 6 to 8], no value NaN or infinite."""
        table = read_array(path, "array of points", cure=_CURE)
        if table.ndim != 2 or table.shape[1] not in _WIDTHS or table.dtype.kind != "f":
            widths = ", ".join(f"{width} ({what})" for width, what in _WIDTHS.items())
            what = f"the array is {table.dtype} {list(table.shape)}; expected float32 of width {widths}"
            raise UserError(what, where=str(path), cure=_CURE)
        with np.errstate(over="ignore"):
            table = table.astype(np.float32, copy=False)
        if not np.isfinite(table).all():
            raise UserError("the array holds NaN or infinite values", where=str(path), cure=_CURE)
        return table

    def sensor(self, row: int) -> Sensor | None:
        """None: no calibration was exported."""
        return None

    def cameras(self, row: int, names: Sequence[str]) -> tuple[Camera, ...]:
        """None: no image was exported."""
        return ()

    def image_digests(self, row: int, names: Sequence[str]) -> Iterator[str]:
        """None: no image was exported."""
        return iter(())

    def files(self, row: int, *, labelled: bool, cameras: Sequence[str]) -> ScanFiles:
        """The array of the first return, which holds its labels too."""
        path = self._path(row, RETURNS[0])
        return ScanFiles(path, path if labelled else None)

    def _path(self, row: int, part: str) -> Path:
        name = self.frames.names[self.frames.segment_of(row)]
        file = f"{self.frames.rows['timestamp'][row]}.npy"
        return self._root / part / self._folders[name] / name / file


def _row_column(path: Path, count: int) -> np.ndarray | None:
    """I16 [N, 2], rows and columns of the points of an array; None where there is no such file."""
    beside = path.with_name(f"{path.stem}_row_col.npy")
    if not beside.is_file():
        return None
    cells = read_array(beside, "array of cells", cure=_CURE)
    largest = np.iinfo(np.int16).max
    if cells.shape != (count, 2) or cells.dtype.kind != "u" or cells.max(initial=0) > largest:
        what = f"the array is {cells.dtype} {list(cells.shape)}; expected uint16 [{count}, 2]"
        raise UserError(what, where=str(beside), cure=_CURE)
    return cells.astype(np.int16)


def _labels(columns: np.ndarray, path: Path) -> np.ndarray:
    """I32 [N, 2], instance and class, of [N, 1 or 2] whole numbers; instances are 0 where they are not there."""
    labels = np.zeros((len(columns), 2), np.int32)
    if (columns != np.rint(columns)).any() or np.abs(columns).max(initial=0) > 2**24:
        raise UserError("a class or an instance is no whole number", where=str(path), cure=_CURE)
    labels[:, -columns.shape[1] :] = columns
    return labels
