"""A page of an experiment: curves over the share of labels, the table of arms, gains by class."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.gain.experiment import CONTROL
from benchmarks.gain.intervals import Interval, interval
from benchmarks.gain.summary import Line, Summary, answers, teacher_interval
from core.engine.report.style import page
from core.io import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves", "write_page"]

TEACHER = "the teacher itself"
_Curve = dict[str, Interval]  # by budget

_COLORS = ("#c2571a", "#5b5bd6", "#a8328f", "#6f7d1c", "#3878b8", "#0b7a75", "#b8860b")
_GREY = {CONTROL: "#14181f", TEACHER: "#8d96a3"}  # what the arms are compared with
_SIZE = (11.5, 4.4)  # inches
_LOOK: dict[str, Any] = {"marker": "o", "ms": 4, "capsize": 3}
_DODGE = 0.03  # between the points of neighbouring arms, as a factor


def write_page(summary: Summary, folder: Path) -> Path:
    """Write ``curves.png`` and ``index.html``, which has it inside.

    Returns:
        the page.
    """
    picture = draw_curves(summary)
    write_bytes(folder / "curves.png", picture)
    encoded = base64.b64encode(picture).decode()
    shown = f'<img alt="scores by share of labels" style="width:100%" src="data:image/png;base64,{encoded}">'
    note = (
        f"{summary.experiment.measured} on held-out scenes, mean over seeds and its 95 % interval."
    )
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
    """PNG of scores and of gains over what arms are compared with: by the share of labels, of one share by arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    scores, gains = _scores(summary), _gains(summary)
    colors = _colors(scores)
    over = _spoken(summary.experiment.against[0])
    draw = _draw_arms if len(summary.budgets) == 1 else _draw_shares
    measured = summary.experiment.measured
    draw(left, scores, colors, summary.budgets, f"{measured} on held-out scenes, %")
    draw(right, gains, colors, summary.budgets, f"{measured} less {over}, paired by seed")
    if summary.budgets[1:]:
        right.axhline(0, color=_GREY[CONTROL], lw=1)
        figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    else:
        right.axvline(0, color=_GREY[CONTROL], lw=1)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _tidy(axes: Axes, values: Literal["x", "y"]) -> None:
    """Lines at the values, and no frame where nothing is read off."""
    axes.grid(True, axis=values, color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_shares(
    axes: Axes,
    curves: dict[str, _Curve],
    colors: Mapping[str, str],
    budgets: Sequence[str],
    label: str,
) -> None:
    """A line per arm over the logarithm of the share."""
    places = {budget: _share(budget, place) for place, budget in enumerate(budgets)}
    for number, (name, curve) in enumerate(curves.items()):
        shift = 1 + _DODGE * (number - (len(curves) - 1) / 2)
        x = [places[budget] * shift for budget in curve]
        y = [value.mean for value in curve.values()]
        look = "--" if name in _GREY else "-"
        axes.errorbar(
            x, y, _halves(curve), label=_spoken(name), color=colors[name], ls=look, **_LOOK
        )
    axes.set_xscale("log")
    axes.set_xticks(list(places.values()), list(places))
    axes.minorticks_off()
    axes.set_xlabel("training scans with labels")
    axes.set_ylabel(label)
    _tidy(axes, "y")


def _draw_arms(
    axes: Axes,
    curves: dict[str, _Curve],
    colors: Mapping[str, str],
    budgets: Sequence[str],
    label: str,
) -> None:
    """A point per arm, one below the other."""
    names = list(curves)
    for place, name in enumerate(names):
        curve = curves[name]
        means = [value.mean for value in curve.values()]
        halves = _halves(curve)
        axes.errorbar(means, [place], xerr=halves, color=colors[name], ls="", **_LOOK)
    axes.set_yticks(range(len(names)), [_spoken(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    _tidy(axes, "x")


def _halves(curve: _Curve) -> list[float]:
    return [value.half or 0.0 for value in curve.values()]


def _colors(names: Iterable[str]) -> dict[str, str]:
    """By name: one for each arm, dark and grey for what arms are measured by."""
    arms = [name for name in names if name not in _GREY]
    return _GREY | {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(arms)}


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _share(budget: str, place: int) -> float:
    """Where a budget lies on the axis: its percent, else its place."""
    number = budget.removesuffix(" %")
    return float(number) if number != budget else float(place + 1)


def _arms(summary: Summary) -> list[Line]:
    return [line for line in summary.lines if not line.control and line.part == 1]


def _scores(summary: Summary) -> dict[str, _Curve]:
    """Of the chosen controls, each arm, and the teachers."""
    curves: dict[str, _Curve] = {CONTROL: {}}
    for budget in summary.budgets:
        control = summary.control(budget)
        if control is not None:
            found = summary.values(control, budget, summary.views[0])
            curves[CONTROL][budget] = interval(found)
    for line in _arms(summary):
        curve = curves.setdefault(line.name, {})
        for budget in summary.budgets:
            found = summary.values(line, budget, summary.views[0])
            if found:
                curve[budget] = interval(found)
    curves[TEACHER] = {}
    for budget in summary.budgets:
        own = teacher_interval(summary, budget)
        if own is not None:
            curves[TEACHER][budget] = own
    return {name: curve for name, curve in curves.items() if curve}


def _gains(summary: Summary) -> dict[str, _Curve]:
    """Of each arm over the first that it is compared with."""
    over = summary.experiment.against[0]
    curves: dict[str, _Curve] = {}
    for line in _arms(summary):
        curve = curves.setdefault(line.name, {})
        for budget in summary.budgets:
            gain = summary.gain(line, over, budget, summary.views[0])
            if gain is not None:
                curve[budget] = gain.difference
    return {name: curve for name, curve in curves.items() if curve}


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
    text += _table(["Training", "Seeds", f"{summary.experiment.measured}, %", *over], rows)
    return text + _teacher(summary, budget) + _by_class(summary, budget)


def _teacher(summary: Summary, budget: str) -> str:
    own = teacher_interval(summary, budget)
    measured = summary.experiment.measured
    text = "" if own is None else f"<h3>Teacher</h3><p>{measured} {own.text} % itself.</p>"
    rows = []
    names = ("coverage", "accuracy", "miou")
    for title, columns in answers(summary, budget):
        cells = [columns[name].text if name in columns else "–" for name in names]
        rows.append([title, *cells])
    if rows:
        text += "<p class=soft>Unlabelled scans, against their hidden labels, %.</p>"
        text += _table(["Answers", "Coverage", "Right", "mIoU"], rows)
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
