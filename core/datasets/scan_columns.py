"""From the columns of a scan file to a table of points: names, offset, points without return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from core.config import Section
from core.contracts import Points
from core.datasets.columns import as_column, check_names
from core.datasets.scan_formats import Table
from core.errors import UserError

__all__ = ["ColumnsConfig", "Source", "check_near", "column_of", "make_points"]

Source = (
    str | int | None
)  # a column of the file by name or by position from 0; None = there is none
_AXES = ("x", "y", "z")
# Names that files give to intensity, tried in this order whatever their case.
_INTENSITY = ("intensity", "intensities", "reflectivity", "reflectance", "remission", "i")
_FAR = 10_000.0  # m; float32 keeps 1 mm here, and no scanner sees so far
_COARSE = 0.01  # m
Vector = tuple[float, float, float]


def _check_sources(columns: Mapping[str, Source]) -> Mapping[str, Source]:
    for name, source in columns.items():
        if name in _AXES and source is None:
            raise ValueError(f"'{name}' is a coordinate that every point has; name its column")
        if isinstance(source, int) and source < 0:
            raise ValueError(f"'{name}': positions count from 0")
    check_names({name: source for name, source in columns.items() if name != "intensity"})
    return columns


class ColumnsConfig(Section):
    """Keys of ``dataset:`` that say what the columns of a scan file are."""

    point_columns: Annotated[dict[str, Source], AfterValidator(_check_sources)] = Field(
        default_factory=dict,
        description="what the file calls x, y, z, intensity (null = there is none, 0 is read) and further columns for "
        "data.features, e.g. {intensity: reflectivity, ring: ring, time: 5}; a number is a position from 0",
    )
    no_return: Literal["cut", "keep", "error"] = Field(
        "cut",
        description="points without return, whose x, y, z are NaN, infinite or all 0: into no cell, labelled ignore in "
        "what is predicted; kept as points at the scanner (NaN and infinite ones are an error); or an error",
    )
    offset: Vector | Literal["centre"] | None = Field(
        None,
        description="m, taken off x, y, z before they become float32, for scans in the coordinates of a map; centre = "
        "the median of each scan",
    )


def make_points(table: Table, config: ColumnsConfig, where: str) -> Points:
    """Choose and convert the columns of a scan.

    Args:
        table: columns [N] as they lie in a file. where: the file, for errors.

    Returns:
        xyz f32 [N, 3] m, intensity f32 [N], the further columns of ``point_columns``, and where there are some
        ``no_return`` bool [N]. Rows stay those of the file.

    Raises:
        UserError: a column is missing or holds NaN or infinite values, no point has a return, or the scan lies too far
            away for float32.
    """
    axes = []
    for name in _AXES:
        axes.append(_mapped(table, name, config.point_columns.get(name, name), where))
    xyz = np.stack(axes, 1)
    lost = _without_return(xyz, config, where)
    near = _moved(xyz, lost, config, where)
    columns = {"intensity": _intensity(table, config, where)}
    for name, source in config.point_columns.items():
        if name not in (*_AXES, "intensity") and source is not None:
            columns[name] = as_column(_mapped(table, name, source, where))
    for name, column in columns.items():
        columns[name] = _finite(column, lost, name, where)
    return Points(xyz=near, no_return=lost, **columns)


def check_near(xyz: np.ndarray, where: str) -> None:
    """Refuse coordinates of a map: a network looks at a scan from its scanner, and float32 would lose centimetres.

    Args:
        xyz: [N, 3] m of points with return, N > 0.

    Raises:
        UserError: half of the points are farther than 10 km from the origin.
    """
    if np.abs(xyz).max() < _FAR:
        return
    distance = float(np.linalg.norm(np.median(xyz.astype(np.float64), 0)))
    if distance < _FAR:
        return
    raise UserError(
        f"the scan lies {distance / 1000:,.0f} km from its sensor: these are coordinates of a map",
        where=where,
        cure="Subtract the scanner's place in float64; or give dataset.offset: [x, y, z] in m, or centre",
    )


def column_of(table: Table, key: str, source: str | int, where: str) -> np.ndarray:
    """One column of a scan file.

    Args:
        key: of the configuration that names the column. source: its name in the file, or its position.

    Raises:
        UserError: the file has no such column.
    """
    names = list(table)
    if isinstance(source, int) and source < len(names):
        return table[names[source]]
    if isinstance(source, str):
        for found in names:
            if found == source:
                return table[found]
        for found in names:
            if found.lower() == source.lower():
                return table[found]
    raise UserError(
        f"the scan has no column '{source}'; it has {', '.join(names)}",
        where=where,
        cure=f"Set dataset.{key} to one of them",
    )


def _mapped(table: Table, name: str, source: Source, where: str) -> np.ndarray:
    """The column of the file that ``point_columns`` calls ``name``."""
    return column_of(table, f"point_columns.{name}", name if source is None else source, where)


def _intensity(table: Table, config: ColumnsConfig, where: str) -> np.ndarray:
    """F32 [N]."""
    if "intensity" in config.point_columns:
        source = config.point_columns["intensity"]
        if source is None:
            return np.zeros(len(next(iter(table.values()))), np.float32)
        return _mapped(table, "intensity", source, where).astype(np.float32)
    by_name = {name.lower(): name for name in table}
    for name in _INTENSITY:
        if name in by_name:
            return table[by_name[name]].astype(np.float32)
    raise UserError(
        f"the scan has no intensity; its columns are {', '.join(table)}",
        where=where,
        cure="Set dataset.point_columns.intensity to the one that is, or to null: then 0 is read",
    )


def _without_return(xyz: np.ndarray, config: ColumnsConfig, where: str) -> np.ndarray | None:
    """Bool [N] of the points without return that are to be left out, None = none is."""
    finite = np.isfinite(xyz).all(1)
    lost = ~finite
    if config.no_return != "keep":
        lost |= ~xyz.any(1)
    if not lost.any():
        return None
    count = int(lost.sum())
    if config.no_return == "cut" and count < len(xyz):
        return lost
    what = f"{count} of {len(xyz)} points have NaN or infinite values"
    if finite.all():
        what = f"{count} of {len(xyz)} points are 0, 0, 0: they have no return"
    cure = "Copy the file again"
    if config.no_return != "cut":
        cure = (
            "Copy the file again, or set dataset.no_return: cut if these are points without return"
        )
    raise UserError(what, where=where, cure=cure)


def _moved(
    xyz: np.ndarray, lost: np.ndarray | None, config: ColumnsConfig, where: str
) -> np.ndarray:
    """F32 [N, 3] m after the offset; 0 where there is no return."""
    there = xyz if lost is None else xyz[~lost]
    _check_grain(there, where)
    if config.offset is not None:
        offset = np.array(config.offset) if config.offset != "centre" else np.median(there, 0)
        there = there.astype(np.float64) - offset
    check_near(there, where)
    if lost is None:
        return np.ascontiguousarray(there, np.float32)
    moved = np.zeros(xyz.shape, np.float32)
    moved[~lost] = there
    return moved


def _check_grain(xyz: np.ndarray, where: str) -> None:
    """Refuse float32 coordinates that have lost their centimetres before they were written."""
    if xyz.dtype != np.float32:
        return
    middle = np.abs(np.median(xyz, 0)).max() if np.abs(xyz).max() > _FAR else np.float32(0)
    step = float(np.spacing(np.float32(middle)))
    if step > _COARSE:
        raise UserError(
            f"its coordinates reach {middle / 1000:,.0f} km and are float32, which keeps them to {step:.2g} m only",
            where=where,
            cure="Write the scan in its sensor's frame, or as float64 (.npy, .pcd, .las) with dataset.offset",
        )


def _finite(column: np.ndarray, lost: np.ndarray | None, name: str, where: str) -> np.ndarray:
    """The column with 0 where there is no return; other values that are no numbers are refused."""
    if lost is not None:
        column = np.where(lost, np.zeros(1, column.dtype), column)
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return column
    bad = int((~np.isfinite(column)).sum())
    raise UserError(
        f"{bad} of {len(column)} points have NaN or infinite values as {name}",
        where=where,
        cure="Copy the file again, or name another column in dataset.point_columns",
    )
