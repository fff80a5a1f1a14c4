"""A picture sheet of a database: some instances of every class, as the sensor saw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.instances.database import Database
from core.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["facing", "sampled", "write_sheet"]

_COLUMNS = 6
_CELL = (2.3, 1.9)  # inch


def write_sheet(database: Database, path: Path) -> None:
    """Draw one row per class, instances from the smallest to the largest; axes in metres."""
    from matplotlib.figure import Figure  # takes half a second to import

    classes = database.meta["classes"]
    width = _CELL[0] * _COLUMNS + 0.6
    height = _CELL[1] * len(classes) + 0.8
    figure = Figure((width, height), dpi=110)
    spacing = {
        "left": 0.75 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.4 / height,
        "top": 1 - 0.55 / height,
        "wspace": 0.2,
        "hspace": 0.35,
    }
    panels = figure.subplots(len(classes), _COLUMNS, squeeze=False, gridspec_kw=spacing)
    for entry, row in zip(classes, panels):
        numbers = sampled(database, entry["id"], _COLUMNS)
        for panel, number in zip(row, numbers):
            _draw(panel, database, number)
        for panel in row[len(numbers) :]:
            panel.axis("off")
        label = f"{entry['name']}\n{entry['instances']:,} instances\nheight, m"
        row[0].set_ylabel(label, fontsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("across the line of sight, m", fontsize=7)
    figure.suptitle(
        "Instances as the sensor saw them; darker is farther away",
        fontsize=9,
        y=1 - 0.12 / height,
        va="top",
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(panel: Axes, database: Database, number: int) -> None:
    """Draw instance ``number``."""
    points = database.points(number)[:, :3]
    across, depth, up = facing(points, database.index["anchor"][number]).T
    size = float(np.clip(900 / len(up), 1.0, 12.0))
    panel.scatter(across, up, c=depth, s=size, cmap="viridis_r", linewidths=0)
    panel.set_aspect("equal", adjustable="datalim")
    panel.margins(0.15)
    count = database.index["count"][number]
    distance = database.index["range"][number]
    panel.set_title(f"{count} points, {distance:.0f} m away", fontsize=7, pad=3)
    panel.tick_params(labelsize=6, length=2)
    panel.grid(alpha=0.25, linewidth=0.5)


def sampled(database: Database, cls: int, count: int) -> np.ndarray:
    """Pick at most ``count`` instances of a class, spread evenly over the order by number of points: rows i64 [n]."""
    rows = np.flatnonzero(database.index["cls"] == cls)
    rows = rows[np.argsort(database.index["count"][rows], kind="stable")]
    places = np.linspace(0, len(rows) - 1, count).round().astype(int)
    return rows[np.unique(places)]


def facing(points: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Turn points [n, 3] as the sensor sees them: right, away from the sensor and up from ``anchor`` [3], f64 m."""
    turn = np.pi / 2 - np.arctan2(anchor[1], anchor[0])
    x, y, z = (points - anchor).astype(np.float64).T
    right = np.cos(turn) * x - np.sin(turn) * y
    away = np.sin(turn) * x + np.cos(turn) * y
    return np.column_stack([right, away, z])
