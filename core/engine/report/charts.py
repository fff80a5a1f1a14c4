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

_SIZE = (440, 250)  # px of the view box
_FRAME = (46, 12, 428, 214)  # left, top, right, bottom of the plot in it
_MAX_SERIES = 6  # colours in the style sheet
_BINS = 160  # points per curve; longer histories are averaged


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean x and mean, lowest and highest y of at most ``_BINS`` runs of neighbours."""
    starts = np.unique(np.linspace(0, len(x), _BINS, endpoint=False).astype(int))
    counts = np.diff(np.append(starts, len(x)))
    mean_x, mean_y = np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts
    return mean_x, mean_y, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))


def _tick_label(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _tick(x: float, y: float, anchor: str, value: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_tick_label(value)}</text>'


def line_chart(title: str, series: Sequence[Series], x_label: str = "step") -> str:
    """One chart; a faint band shows the spread where many steps share a pixel.

    Args:
        title: shown above, also the accessible name.
        series: (name, x, y), at most six, each with at least one point; every value finite.

    Returns:
        a ``<figure>``; empty when there is no series.
    """
    drawn = [(name, np.asarray(x, float), np.asarray(y, float)) for name, x, y in series if len(x)]
    drawn = drawn[:_MAX_SERIES]
    if not drawn:
        return ""
    left, top, right, bottom = _FRAME
    every_x = np.concatenate([x for _, x, _ in drawn])
    x_low, x_high = np.min(every_x), np.max(every_x)
    x_span = float(x_high - x_low) or 1.0
    y_low, y_high = _bounds(np.concatenate([y for _, _, y in drawn]))

    def across(x: np.ndarray | float) -> Any:
        return left + (x - x_low) / x_span * (right - left)

    def up(y: np.ndarray | float) -> Any:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    parts = []
    for tick in _ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        )
        parts.append(_tick(left - 6, up(tick) + 3.5, "end", tick))
    for tick in _ticks(float(x_low), float(x_low) + x_span):
        parts.append(_tick(across(tick), bottom + 16, "middle", tick))
    parts.append(
        f'<text class="tick" x="{right}" y="{bottom + 31}" text-anchor="end">{escape(x_label)}</text>'
    )
    for i, (name, x, y) in enumerate(drawn):
        mean_x, mean_y, lowest, highest = _thinned(x, y)
        if (highest > lowest).any():
            outline_x, outline_y = np.r_[mean_x, mean_x[::-1]], np.r_[highest, lowest[::-1]]
            parts.append(
                f'<polygon class="band f{i}" points="{_path(across(outline_x), up(outline_y))}"/>'
            )
        parts.append(f'<polyline class="curve s{i}" points="{_path(across(mean_x), up(mean_y))}"/>')
        last = f"{escape(name)}: {y[-1]:.4g}"
        end = f'cx="{across(x[-1]):.1f}" cy="{up(mean_y[-1]):.1f}" r="3"'
        parts.append(f'<circle class="f{i}" {end}><title>{last}</title></circle>')
    keys = "".join(
        f'<span><i class="key k{i}"></i>{escape(name)}</span>'
        for i, (name, _, _) in enumerate(drawn)
    )
    legend = f'<div class="keys">{keys}</div>' if len(drawn) > 1 else ""
    box = f'viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="img" aria-label="{escape(title)}"'
    drawing = f"<svg {box}>{''.join(parts)}</svg>"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{drawing}{legend}</figure>'
    )


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss, mean IoU and learning rate of a training.

    Args:
        history: parsed lines of ``scalars.jsonl``: ``global_step`` and named numbers. Scores are the ``iou...`` scalars
            that are not a class's own (``iou/val/vox``, not ``iou/val/vox/car``). Non-finite values are left out.

    Returns:
        up to four ``<figure>`` elements; empty when there is nothing to draw.
    """
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for record in history:
        for name, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value) and "global_step" in record:
                steps, values = columns.setdefault(name, ([], []))
                steps.append(record["global_step"])
                values.append(value)
    scores = [name for name in columns if name.startswith("iou")]
    scores = [name for name in scores if not any(name.startswith(other + "/") for other in scores)]
    total = [name for name in columns if name in ("loss", "loss/total")]
    terms = [name for name in columns if name.startswith("loss/") and name not in total]
    rates = [name for name in columns if name == "lr" or name.startswith("lr/")]
    groups = (
        ("Training loss", total),
        ("Loss terms", terms),
        ("mIoU on the validation split, %", scores),
        ("Learning rate", rates),
    )
    return "".join(
        line_chart(title, [(name, *columns[name]) for name in names])
        for title, names in groups
        if names
    )


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
    cell, margin = 30, 12 + 7 * max(len(name) for name in classes)
    width, height = margin + cell * (len(classes) - first) + 8, margin + cell * len(rows) + 8
    parts = []
    for j, name in enumerate(classes[first:]):
        x = margin + cell * (j + 0.5)
        parts.append(
            f'<text class="name" transform="translate({x + 4} {margin - 8}) rotate(-90)">{escape(name)}</text>'
        )
    for i, name in enumerate(classes[1:]):
        y = margin + cell * i
        faded = "" if total[i] else " faded"
        parts.append(
            f'<text class="name{faded}" x="{margin - 8}" y="{y + 19}" text-anchor="end">{escape(name)}</text>'
        )
        for j in range(first, len(classes)):
            parts.append(
                _cell(
                    margin + cell * (j - first),
                    y,
                    cell,
                    share[i, j],
                    i + 1 == j,
                    f"{name} → {classes[j]}",
                )
            )
    box = f'viewBox="0 0 {width} {height}" style="--w:{width}px" role="img" aria-label="Confusion matrix in percent"'
    return f'<svg class="matrix" {box}>{"".join(parts)}</svg>'


def _cell(x: int, y: int, size: int, share: float, right: bool, what: str) -> str:
    kind = "right" if right else "wrong"
    frame = f'x="{x + 1}" y="{y + 1}" width="{size - 2}" height="{size - 2}" rx="4"'
    cell = f'<rect class="cell empty" {frame}/>'
    if share > 0:
        title = f"<title>{escape(what)}: {100 * share:.2f} %</title>"
        # square root: small confusions stay visible
        cell += f'<rect class="cell {kind}" {frame} fill-opacity="{math.sqrt(share):.2f}">{title}</rect>'
    if share >= 0.005:
        tone = " strong" if share > 0.45 else ""
        cell += f'<text class="share{tone}" x="{x + size / 2}" y="{y + size / 2 + 3.5}">{100 * share:.0f}</text>'
    return cell
