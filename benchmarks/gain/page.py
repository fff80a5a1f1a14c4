"""A page of an experiment: curves over the share of labels, the table of arms, gains by class."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gain.experiment import CONTROL
from benchmarks.gain.intervals import Interval, interval
from benchmarks.gain.summary import Line, Summary, quality_rows, teacher_interval
from core.engine.report.style import page
from core.io import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_page"]

_COLORS = ("#0b7a75", "#c2571a", "#5b5bd6", "#a8328f", "#6f7d1c", "#3878b8", "#8a5a2b", "#555f6e")
_SIZE = (8.2, 4.6)  # inches
_DODGE = 0.012  # of the width, between the points of neighbouring arms


def write_page(summary: Summary, folder: Path) -> Path:
    """Write ``curves.png`` and ``index.html``, which has it inside.

    Returns:
        the page.
    """
    picture = draw_curves(summary)
    write_bytes(folder / "curves.png", picture)
    encoded = base64.b64encode(picture).decode()
    shown = f'<img alt="mIoU by share of labels" style="width:100%" src="data:image/png;base64,{encoded}">'
    note = "Mean over seeds and its 95 % interval, held-out scenes."
    blocks = [f"<section><h2>Scores</h2><p class=soft>{note}</p>{shown}</section>"]
    for budget in summary.budgets:
        blocks.append(
            f"<section><h2>{escape(budget)} of the labels</h2>{_budget(summary, budget)}</section>"
        )
    header = f'<div class="over">LiDistill · benchmark of gains</div><h1>{escape(summary.experiment.title)}</h1>'
    path = folder / "index.html"
    footer = f"{summary.experiment.steps} steps per arm. Commits: {', '.join(summary.commits)}"
    write_text(path, page(summary.experiment.title, header + "".join(blocks), footer))
    return path


def draw_curves(summary: Summary) -> bytes:
    """PNG of mIoU over the share of labels, a line with intervals per arm; of the controls the chosen one alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = {budget: _share(budget, place) for place, budget in enumerate(summary.budgets)}
    curves = list(_curves(summary))
    for number, (name, values) in enumerate(curves):
        shift = 1 + _DODGE * (number - (len(curves) - 1) / 2)
        style = "--" if name in ("the teacher itself", CONTROL) else "-"
        x = [places[budget] * shift for budget in values]
        y = [value.mean for value in values.values()]
        halves = [value.half or 0.0 for value in values.values()]
        color = _COLORS[number % len(_COLORS)]
        axes.errorbar(x, y, halves, label=name, color=color, ls=style, marker="o", ms=4, capsize=3)
    _label(axes, places)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _share(budget: str, place: int) -> float:
    """Where a budget lies on the axis: its percent, else its place."""
    number = budget.removesuffix(" %")
    return float(number) if number != budget else float(place + 1)


def _label(axes: Axes, places: dict[str, float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(list(places.values()), list(places))
    axes.minorticks_off()
    low, high = min(places.values()), max(places.values())
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.set_xlabel("training scans with labels")
    axes.set_ylabel("mIoU on held-out scenes, %")
    axes.grid(True, axis="y", color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def _curves(summary: Summary) -> Iterator[tuple[str, dict[str, Interval]]]:
    """Name and values by budget of each line."""
    view = summary.views[0]
    chosen = {}
    for budget in summary.budgets:
        control = summary.control(budget)
        if control is not None:
            chosen[budget] = interval(summary.values(control, budget, view))
    if chosen:
        yield CONTROL, chosen
    for line in summary.lines:
        if not line.control and line.part == 1:
            values = {budget: summary.values(line, budget, view) for budget in summary.budgets}
            found = {budget: interval(of_seed) for budget, of_seed in values.items() if of_seed}
            if found:
                yield line.name, found
    teachers = {budget: teacher_interval(summary, budget) for budget in summary.budgets}
    own = {budget: value for budget, value in teachers.items() if value is not None}
    if own:
        yield "the teacher itself", own


def _budget(summary: Summary, budget: str) -> str:
    """Tables of one budget."""
    control = summary.control(budget)
    text = ""
    if control is not None:
        text = (
            f"<p class=soft>Control: {escape(control.name)}, the best of the arms without a teacher by its mean over "
            "seeds, chosen on these scores.</p>"
        )
    view = summary.views[0]
    rows = []
    for line in summary.lines:
        values = summary.values(line, budget, view)
        if values:
            cells = [line.name, str(len(values)), interval(values).text]
            for over in summary.experiment.against:
                gain = summary.gain(line, over, budget, view)
                cells.append("–" if gain is None else gain.difference.signed)
            rows.append(cells)
    over = [f"less {name}" for name in summary.experiment.against]
    text += _table(["Training", "Seeds", "mIoU, %", *over], rows)
    return text + _teacher(summary, budget) + _by_class(summary, budget)


def _teacher(summary: Summary, budget: str) -> str:
    own = teacher_interval(summary, budget)
    text = "" if own is None else f"<h3>Teacher</h3><p>{own.text} % mIoU itself.</p>"
    rows = []
    names = ("coverage", "accuracy", "miou")
    for threshold, columns in quality_rows(summary, budget):
        cells = [columns[name].text if name in columns else "–" for name in names]
        rows.append([f"{threshold:g}", *cells])
    if rows:
        text += (
            "<p class=soft>Its answers on the unlabelled scans against their hidden labels, %.</p>"
        )
        text += _table(["Confidence", "Coverage", "Right", "mIoU"], rows)
    return text


def _by_class(summary: Summary, budget: str) -> str:
    """IoU of each class less the control's, of the arms that are no controls."""
    lines: list[Line] = []
    columns: list[dict[str, Interval]] = []
    for line in summary.lines:
        gains = summary.class_gains(line, budget) if not line.control else {}
        if gains:
            lines.append(line)
            columns.append(gains)
    if not lines:
        return ""
    rows = []
    for name in columns[0]:
        rows.append([name, *(gains[name].signed if name in gains else "–" for gains in columns)])
    table = _table(["Class", *(line.name for line in lines)], rows)
    return f"<details><summary>IoU by class, less the control</summary>{table}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = []
    for first, *cells in rows:
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f"<tr><th>{escape(first)}</th>{rest}</tr>")
    inner = f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table class="plain">{inner}</table></div>'
