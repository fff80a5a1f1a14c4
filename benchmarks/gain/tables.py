"""The tables of a summary: on the terminal, and as records for docs/results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gain.intervals import Interval, interval
from benchmarks.gain.summary import Line, Summary, answers, teacher_interval
from benchmarks.results import (
    ABSOLUTE,
    NOT_RECORDED,
    Record,
    ResultTable,
    Spread,
    Value,
    add_record,
)
from core.engine.run.provenance import provenance
from core.io import write_json

__all__ = ["print_summary", "write_records"]

_DIGITS = 1


def print_summary(summary: Summary, console: Console) -> None:
    """Scores with 95 % intervals, gains paired by seed, the teachers and how right they are."""
    console.print(summary.experiment.title, highlight=False)
    for budget in summary.budgets:
        console.print(_scores(summary, budget))
        control = summary.control(budget)
        if control is not None:
            console.print(
                f"control at {budget} of the labels: {control.name}, the best of its kind by the mean over "
                "seeds, chosen on these very scores, which favours it",
                highlight=False,
            )
        for line in _about_teachers(summary, budget):
            console.print(line, highlight=False)
    if len(summary.commits) > 1:
        console.print(f"runs of several commits: {', '.join(summary.commits)}", highlight=False)


def _scores(summary: Summary, budget: str) -> Table:
    by_view = any(score.in_view is not None for score in summary.scores)
    parts = ("in_view", "out_of_view") if by_view else ()
    over = [f"less {name}" for name in summary.experiment.against]
    measured = f"{summary.experiment.measured}, %"
    table = Table("training", "scored", "seeds", measured, *map(_spoken, parts), *over)
    table.title = f"{budget} of the labels, mean ± half of its 95 % interval"
    for line in summary.lines:
        for view in summary.views:
            values = summary.values(line, budget, view)
            if not values:
                continue
            of_parts = [summary.parts(line, budget, view, part) for part in parts]
            cells = [_text(found) for found in (values, *of_parts)]
            cells += _gains(summary, line, budget, view)
            table.add_row(line.name, view, str(len(values)), *cells)
    return table


def _gains(summary: Summary, line: Line, budget: str, view: str) -> Iterator[str]:
    for over in summary.experiment.against:
        gain = summary.gain(line, over, budget, view)
        yield "–" if gain is None else gain.difference.signed


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _text(values: dict[int, float]) -> str:
    return interval(values).text if values else "–"


def _about_teachers(summary: Summary, budget: str) -> Iterator[str]:
    own = teacher_interval(summary, budget)
    if own is not None:
        measured = summary.experiment.measured
        yield f"the teacher itself at {budget}: {measured} {own.text} % on the validation scans"
    for title, columns in answers(summary, budget):
        parts = [f"{name} {value.text} %" for name, value in columns.items()]
        yield f"unlabelled scans, {title}: {', '.join(parts)}"


def write_records(summary: Summary, path: Path) -> None:
    """Put every line into a table of docs/results, which is made if it is not there.

    Raises:
        UserError: the file holds a table of other columns.
    """
    if not path.is_file():
        measured = summary.experiment.measured
        unit = f"{measured} (%), and differences paired by seed with half their 95 % interval"
        title = f"{summary.experiment.title}: {unit}"
        table = ResultTable(title=title, rows="training", columns=_columns(summary), digits=_DIGITS)
        write_json(path, table.model_dump(exclude_defaults=True))
    for record in _records(summary):
        add_record(path, record)


def _columns(summary: Summary) -> list[str]:
    columns = []
    for budget in summary.budgets:
        for view in summary.views:
            columns.append(_column(summary, budget, view))
        for over in summary.experiment.against:
            columns.append(f"{_column(summary, budget, summary.views[0])}, less {over}")
    return columns


def _column(summary: Summary, budget: str, view: str) -> str:
    """Names what differs between the columns: budgets, views, or both."""
    names = []
    if len(summary.budgets) > 1 or len(summary.views) == 1:
        names.append(f"{budget} of labels")
    if len(summary.views) > 1:
        names.append(view)
    return ", ".join(names)


def _records(summary: Summary) -> Iterator[Record]:
    seeds = sorted({score.seed for score in summary.scores})
    made = provenance() | {"commit": ", ".join(summary.commits) or NOT_RECORDED}
    made["command"] = ABSOLUTE.sub(r"\1", made["command"])
    note = f"{summary.experiment.steps} steps; commit of the trainings"
    for line in summary.lines:
        values: dict[str, Value] = {}
        for budget in summary.budgets:
            for view in summary.views:
                found = summary.values(line, budget, view)
                if found:
                    column = _column(summary, budget, view)
                    values[column] = [round(found[seed], _DIGITS) for seed in sorted(found)]
            for over in summary.experiment.against:
                gain = summary.gain(line, over, budget, summary.views[0])
                if gain is not None:
                    column = f"{_column(summary, budget, summary.views[0])}, less {over}"
                    values[column] = _spread(gain.difference)
        if values:
            yield Record(row=_row(summary, line), values=values, seeds=seeds, note=note, **made)
    yield from _teacher_records(summary, seeds, made)


def _row(summary: Summary, line: Line) -> str:
    """The line's name; bold where it is a control that was chosen."""
    chosen = [budget for budget in summary.budgets if summary.control(budget) == line]
    return f"{line.name} (control at {', '.join(chosen)})" if chosen else line.name


def _teacher_records(summary: Summary, seeds: list[int], made: dict[str, str]) -> Iterator[Record]:
    own: dict[str, Value] = {}
    for budget in summary.budgets:
        found = teacher_interval(summary, budget)
        if found is not None:
            own[_column(summary, budget, summary.views[0])] = _spread(found)
    if own:
        yield Record(row="the teacher itself", values=own, seeds=seeds, **made)
    rows: dict[str, dict[str, Value]] = {}
    for budget in summary.budgets:
        column = _column(summary, budget, summary.views[0])
        for title, columns in answers(summary, budget):
            for name, value in columns.items():
                row = f"unlabelled scans, {title}: {name} (%)"
                rows.setdefault(row, {})[column] = _spread(value)
    for row, values in rows.items():
        yield Record(row=row, values=values, seeds=seeds, **made)


def _spread(value: Interval) -> Value:
    mean = round(value.mean, _DIGITS)
    return mean if value.half is None else Spread(mean=mean, spread=round(value.half, _DIGITS))
