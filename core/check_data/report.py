"""What was found, as text for a person and as JSON for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from core.check_data.inspection import FaultKind, SplitReport
from core.errors import EXIT_USER_ERROR, UserError, counted

__all__ = ["exit_code", "for_machines", "refused", "text_of", "verdict"]

SCHEMA = 1  # of the JSON; raised when a key changes its meaning
_SHOWN = 10  # lines of a kind in the terminal; the JSON has all of them
_KINDS: tuple[FaultKind, ...] = ("unusable", "missing", "incomplete", "damaged", "unlabelled")


def exit_code(reports: Sequence[SplitReport]) -> int:
    """0 where a job can use all of it, else 2."""
    if all(report.ok for report in reports):
        return 0
    return EXIT_USER_ERROR


def verdict(reports: Sequence[SplitReport]) -> str:
    """The last line: how many scans, and whether they are good."""
    scans = counted(sum(report.scans for report in reports), "scan")
    faults = sum(len(report.faults) for report in reports)
    if not faults:
        return f"data: {scans}, all good\n"
    return f"data: {scans}, {counted(faults, 'fault')}\n"


def text_of(report: SplitReport) -> str:
    """One split as lines for a terminal."""
    lines = [f"{report.split}: {report.description or 'not usable'}"]
    if report.expected is not None:
        official = "complete"
        if report.scans != report.expected:
            official = f"the official split has {report.expected:,}"
        lines.append(f"  scans      {report.scans:,} ({official})")
    for kind in _KINDS:
        lines += _listed(kind, report.texts(kind))
    lines += _listed("left out", report.left_out)
    lines += _listed("optional", report.optional)
    lines += _classes(report)
    return "\n".join(lines) + "\n"


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    lines = [f"  {title:10} {entry}" for entry in entries[:_SHOWN]]
    if len(entries) > _SHOWN:
        lines.append(f"  {title:10} and {len(entries) - _SHOWN} more; --json FILE lists all")
    return lines


def _classes(report: SplitReport) -> list[str]:
    if report.points is None:
        return []
    total = sum(report.points.values())
    lines = []
    for name, count in report.points.items():
        lines.append(f"  {name:22} {count:>14,} points  {100 * count / total:7.3f} %")
    return lines


def for_machines(reports: Sequence[SplitReport]) -> dict[str, Any]:
    """The JSON; its keys are explained in ``docs/data.md``."""
    splits = {}
    for report in reports:
        content = asdict(report)
        content["ok"] = report.ok
        splits[report.split] = content
    code = exit_code(reports)
    return {"schema": SCHEMA, "ok": code == 0, "exit_code": code, "error": None, "splits": splits}


def refused(error: UserError) -> dict[str, Any]:
    """The JSON where the configuration itself is wrong and no split was looked at."""
    return {
        "schema": SCHEMA,
        "ok": False,
        "exit_code": EXIT_USER_ERROR,
        "error": str(error),
        "splits": {},
    }
