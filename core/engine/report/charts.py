"""Charts of the report as inline SVG; their colours come from the page's style sheet, so they follow light and dark.

Classes used here (``.s0`` .. ``.s5``, ``.grid``, ``.cell``, ...) are defined in :mod:`core.engine.report.style`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = ["confusion_chart", "curves", "line_chart"]

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y
_Curve = tuple[str, np.ndarray, np.ndarray]  # the same with arrays

_SIZE = (440, 250)  # px of the view box
_FRAME = (46, 12, 428, 214)  # left, top, right, bottom of the plot in it
_MAX_SERIES = 6  # colours in the style sheet
_BINS = 160  # points per curve; longer histories are averaged
_CELL = 30  # px, side of a cell of the confusion matrix


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (power, 2 * power, 5 * power, 10 * power)
    step = next(step for step in steps if step >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _bounds(values: np.ndarray) -> tuple[float, float]:
    low = float(values.min())
    high = float(values.max())
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean x and mean, lowest and highest y of at most ``_BINS`` runs of neighbours."""
    starts = np.unique(np.linspace(0, len(x), _BINS, endpoint=False).astype(int))
    counts = np.diff(np.append(starts, len(x)))
    mean_x = np.add.reduceat(x, starts) / counts
    mean_y = np.add.reduceat(y, starts) / counts
    lowest = np.minimum.reduceat(y, starts)
    highest = np.maximum.reduceat(y, starts)
    return mean_x, mean_y, lowest, highest


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))


def _tick_label(value: float) -> str:
    size = abs(value)
    if value and (size < 1e-3 or size >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _tick(x: float, y: float, anchor: str, value: float) -> str:
    label = _tick_label(value)
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{label}</text>'


class _Axes:
    """Where values lie in the view box.

    Args:
        curves: at least one, each with at least one point.
    """

    def __init__(self, curves: Sequence[_Curve]) -> None:
        every_x = np.concatenate([x for _, x, _ in curves])
        every_y = np.concatenate([y for _, _, y in curves])
        self.x_low = float(np.min(every_x))
        self.x_span = float(np.max(every_x) - self.x_low) or 1.0
        self.y_low, self.y_high = _bounds(every_y)

    def across(self, x: Any) -> Any:
        """Column of a value or an array of values, px."""
        left, _, right, _ = _FRAME
        return left + (x - self.x_low) / self.x_span * (right - left)

    def up(self, y: Any) -> Any:
        """Row of a value or an array of values, px."""
        _, top, _, bottom = _FRAME
        return bottom - (y - self.y_low) / (self.y_high - self.y_low) * (bottom - top)

    def drawn(self, x_label: str) -> list[str]:
        """Grid lines, ticks and the label of the horizontal axis."""
        left, _, right, bottom = _FRAME
        parts = []
        for tick in _ticks(self.y_low, self.y_high):
            y = self.up(tick)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_tick(left - 6, y + 3.5, "end", tick))
        for tick in _ticks(self.x_low, self.x_low + self.x_span):
            parts.append(_tick(self.across(tick), bottom + 16, "middle", tick))
        place = f'x="{right}" y="{bottom + 31}" text-anchor="end"'
        parts.append(f'<text class="tick" {place}>{escape(x_label)}</text>')
        return parts


def _drawn_curve(axes: _Axes, color: int, curve: _Curve) -> list[str]:
    """A curve, the band of what it hides, and its last value."""
    name, x, y = curve
    mean_x, mean_y, lowest, highest = _thinned(x, y)
    parts = []
    if (highest > lowest).any():
        outline_x = np.r_[mean_x, mean_x[::-1]]
        outline_y = np.r_[highest, lowest[::-1]]
        outline = _path(axes.across(outline_x), axes.up(outline_y))
        parts.append(f'<polygon class="band f{color}" points="{outline}"/>')
    line = _path(axes.across(mean_x), axes.up(mean_y))
    parts.append(f'<polyline class="curve s{color}" points="{line}"/>')
    last = f"{escape(name)}: {y[-1]:.4g}"
    end = f'cx="{axes.across(x[-1]):.1f}" cy="{axes.up(mean_y[-1]):.1f}" r="3"'
    parts.append(f'<circle class="f{color}" {end}><title>{last}</title></circle>')
    return parts


def _legend(names: Sequence[str]) -> str:
    """The names beside their colours; nothing for a single curve, which the title names."""
    if len(names) < 2:
        return ""
    keys = []
    for i, name in enumerate(names):
        keys.append(f'<span><i class="key k{i}"></i>{escape(name)}</span>')
    return f'<div class="keys">{"".join(keys)}</div>'


def line_chart(title: str, series: Sequence[Series], x_label: str = "step") -> str:
    """One chart; a faint band shows the spread where many steps share a pixel.

    Args:
        title: shown above, also the accessible name.
        series: (name, x, y), at most six, each with at least one point; every value finite.

    Returns:
        a ``<figure>``; empty when there is no series.
    """
    drawn: list[_Curve] = []
    for name, x, y in series:
        if len(x):
            drawn.append((name, np.asarray(x, float), np.asarray(y, float)))
    drawn = drawn[:_MAX_SERIES]
    if not drawn:
        return ""
    axes = _Axes(drawn)
    parts = axes.drawn(x_label)
    for i, curve in enumerate(drawn):
        parts += _drawn_curve(axes, i, curve)
    legend = _legend([name for name, _, _ in drawn])
    width, height = _SIZE
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    drawing = f"<svg {box}>{''.join(parts)}</svg>"
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f'<figure class="chart">{caption}{drawing}{legend}</figure>'


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Losses, mean IoU and learning rate of a training.

    Args:
        history: parsed lines of ``scalars.jsonl``: ``global_step`` and named numbers. Scores are the ``iou...`` scalars
            that are not a class's own (``iou/val/vox``, not ``iou/val/vox/car``). Non-finite values are left out.

    Returns:
        up to five ``<figure>`` elements; empty when there is nothing to draw.
    """
    columns = _columns(history)
    total = [name for name in columns if name in ("loss", "loss/total")]
    terms = [name for name in columns if name.startswith("loss/") and name not in total]
    held_out = [name for name in columns if name.startswith("val_loss/")]
    rates = [name for name in columns if name == "lr" or name.startswith("lr/")]
    groups = {
        "Training loss": total,
        "Loss terms": terms,
        "Loss on the validation split": held_out,
        "mIoU on the validation split, %": _mean_scores(list(columns)),
        "Learning rate": rates,
    }
    charts = []
    for title, names in groups.items():
        charts.append(line_chart(title, [(name, *columns[name]) for name in names]))
    return "".join(charts)


def _columns(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each scalar, finite ones alone."""
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for record in history:
        if "global_step" not in record:
            continue
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(record["global_step"])
                values.append(value)
    return columns


def _mean_scores(names: Sequence[str]) -> list[str]:
    """The scores that are not a class's own: those below no other score's name."""
    scores = [name for name in names if name.startswith("iou")]
    means = []
    for name in scores:
        if not any(name.startswith(other + "/") for other in scores):
            means.append(name)
    return means


def confusion_chart(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Confusion matrix, each row divided by its sum: what became of the points of a class.

    Args:
        counts: [C, C], rows truth, class 0 "ignore"; row 0 is left out, column 0 too if nothing was predicted so.
        classes: C names.

    Returns:
        an ``<svg>``. Cells of at least half a percent carry their rounded percentage.
    """
    rows = counts[1:].astype(np.float64)
    total = rows.sum(1, keepdims=True)
    share = rows / np.maximum(total, 1)
    first = 0 if rows[:, 0].any() else 1
    margin = 12 + 7 * max(len(name) for name in classes)
    width = margin + _CELL * (len(classes) - first) + 8
    height = margin + _CELL * len(rows) + 8
    parts = []
    for j, name in enumerate(classes[first:]):
        x = margin + _CELL * (j + 0.5)
        place = f'transform="translate({x + 4} {margin - 8}) rotate(-90)"'
        parts.append(f'<text class="name" {place}>{escape(name)}</text>')
    for i, name in enumerate(classes[1:]):
        y = margin + _CELL * i
        faded = "" if total[i] else " faded"
        place = f'x="{margin - 8}" y="{y + 19}" text-anchor="end"'
        parts.append(f'<text class="name{faded}" {place}>{escape(name)}</text>')
        for j in range(first, len(classes)):
            x = margin + _CELL * (j - first)
            what = f"{name} → {classes[j]}"
            parts.append(_cell(x, y, share[i, j], i + 1 == j, what))
    box = f'viewBox="0 0 {width} {height}" style="--w:{width}px"'
    label = 'role="img" aria-label="Confusion matrix in percent"'
    return f'<svg class="matrix" {box} {label}>{"".join(parts)}</svg>'


def _cell(x: int, y: int, share: float, right: bool, what: str) -> str:
    kind = "right" if right else "wrong"
    inner = _CELL - 2
    frame = f'x="{x + 1}" y="{y + 1}" width="{inner}" height="{inner}" rx="4"'
    cell = f'<rect class="cell empty" {frame}/>'
    if share > 0:
        title = f"<title>{escape(what)}: {100 * share:.2f} %</title>"
        opacity = math.sqrt(share)  # small confusions stay visible
        cell += f'<rect class="cell {kind}" {frame} fill-opacity="{opacity:.2f}">{title}</rect>'
    if share >= 0.005:
        tone = " strong" if share > 0.45 else ""
        place = f'x="{x + _CELL / 2}" y="{y + _CELL / 2 + 3.5}"'
        cell += f'<text class="share{tone}" {place}>{100 * share:.0f}</text>'
    return cell
