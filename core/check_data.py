"""``python -m core.check_data CONFIG``: what a data set should have, what is there, and what is damaged.

Names every missing part with the archive it comes from, reads every file (``--quick``: compares sizes only), counts
the points of each class, and leaves with 0 if a job can start on all of it, else with 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from core.config import Config, load_config
from core.datasets import build_dataset
from core.datasets.base import SPLITS, Multisweeps, ScanDataset
from core.engine.run.cli import run_command
from core.engine.run.experiment import check_config
from core.errors import EXIT_USER_ERROR, UserError
from core.io import write_json

__all__ = ["SplitReport", "check_scan", "inspect_split", "main"]

_SHOWN = 10  # damaged files listed in the terminal; --json has all of them


@dataclass
class SplitReport:
    """What was found of one split.

    Attributes:
        found: scans a job would use. expected: scans of the official split, None if the split is the user's own.
        missing: parts that jobs of the asked kind need. optional: parts that only other kinds of jobs need.
        damaged: one line per bad scan. histogram: points per class name; None where nothing was read.
    """

    split: str
    description: str = ""
    found: int = 0
    expected: int | None = None
    missing: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    histogram: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        """Whether a job can use the whole split."""
        return self.found > 0 and not self.missing and not self.damaged


def inspect_split(
    config: Config, split: str, *, quick: bool = False, cameras: bool = False
) -> SplitReport:
    """Check one split.

    Args:
        quick: compare file sizes in place of reading the files.
        cameras: images are required, and decoded unless ``quick``.

    Returns:
        The report; a split that cannot be opened at all has the reason among ``missing``.
    """
    from tqdm import tqdm

    report = SplitReport(split)
    try:
        dataset = build_dataset(config, split)
    except UserError as error:
        report.missing.append(str(error))
        return report
    report.description = dataset.describe()
    report.found = len(dataset)
    report.expected = dataset.expected
    required = {
        "lidar": True,
        "cameras": cameras,
        "sweeps": _joins_sweeps(dataset),
        "nothing": False,
    }
    for gap in dataset.gaps():
        gaps = report.missing if required[gap.needed_for] else report.optional
        gaps.append(gap.text)
    total = np.zeros(dataset.labels.num_classes, np.int64)
    check = partial(check_scan, dataset, quick=quick, cameras=cameras)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = pool.map(check, range(len(dataset)))
        quiet = not sys.stderr.isatty()
        for result in tqdm(results, total=len(dataset), desc=split, unit="scan", disable=quiet):
            if isinstance(result, str):
                report.damaged.append(result)
            elif result is not None:
                total += result
    if total.any():
        report.histogram = {name: int(count) for name, count in zip(dataset.labels.classes, total)}
    return report


def _joins_sweeps(dataset: ScanDataset) -> bool:
    sweeps = getattr(dataset.config, "multisweeps", None)
    return isinstance(sweeps, Multisweeps) and sweeps.num_sweeps > 0


def check_scan(
    dataset: ScanDataset, index: int, *, quick: bool, cameras: bool
) -> np.ndarray | str | None:
    """Check one scan: the fault as a string, or points per train id of its keyframe [C] (None if none were read)."""
    try:
        if quick:
            _compare_sizes(dataset, index, cameras)
            return None
        scan = dataset.load(index, cameras=cameras)
        for camera in scan.cameras:
            camera.load()
    except UserError as error:
        return str(error)
    if scan.labels is None:
        return None
    return np.bincount(scan.labels[scan.keyframe], minlength=dataset.labels.num_classes)


def _compare_sizes(dataset: ScanDataset, index: int, cameras: bool) -> None:
    files = dataset.files(index)
    point = 4 * dataset.point_fields
    size = _size(files.points)
    if not size or (point and size % point):
        raise UserError(
            f"{size} bytes, not a positive multiple of {point or 1} per point",
            where=str(files.points),
        )
    if files.labels is not None and not point:
        _size(files.labels)
    elif files.labels is not None:
        wanted = size // point * dataset.label_dtype.itemsize
        if (found := _size(files.labels)) != wanted:
            raise UserError(
                f"{found} bytes; the scan's {size // point} points need {wanted}",
                where=str(files.labels),
            )
    for path in dataset.column_files(index).values():
        _size(path)
    if not cameras:
        return
    for path in files.images.values():
        if not _size(path):
            raise UserError("the image is empty", where=str(path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _render(report: SplitReport) -> str:
    """The report as text for a terminal."""
    lines = [f"{report.split}: {report.description or 'not usable'}"]
    if report.expected is not None:
        official = "complete"
        if report.found != report.expected:
            official = f"the official split has {report.expected}"
        lines.append(f"  scans    {report.found} ({official})")
    titles = ("missing", "optional", "damaged")
    for title, entries in zip(titles, (report.missing, report.optional, report.damaged)):
        lines += [f"  {title:8} {entry}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  {title:8} and {len(entries) - _SHOWN} more; --json FILE lists all")
    if report.histogram:
        total = sum(report.histogram.values())
        for name, count in report.histogram.items():
            lines.append(f"  {name:22} {count:>14,} points  {100 * count / total:7.3f} %")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: code 2, something a job needs is missing or damaged.
        UserError: the configuration is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.check_data",
        description="Name every missing or damaged part of a data set and count what is there.",
        epilog="Any key of the configuration can be overridden: --dataset.root FOLDER.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="YAML file of a job, or configs/<dataset>/default.yaml")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=["train", "val"], help="default: train val"
    )
    parser.add_argument("--quick", action="store_true", help="compare file sizes, read nothing")
    parser.add_argument(
        "--cameras", action="store_true", help="images are required, and decoded unless --quick"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args, overrides = parser.parse_known_args(argv)
    config = load_config(args.config, overrides)
    check_config(config)
    reports = []
    for split in args.splits:
        reports.append(inspect_split(config, split, quick=args.quick, cameras=args.cameras))
        sys.stdout.write(_render(reports[-1]))
        sys.stdout.flush()
    if args.json:
        splits = {report.split: asdict(report) for report in reports}
        write_json(args.json, {"ok": all(report.ok for report in reports), "splits": splits})
    faults = sum(len(report.missing) + len(report.damaged) for report in reports)
    scans = sum(report.found for report in reports)
    verdict = f"{faults} faults" if faults else "all good"
    sys.stdout.write(f"data: {scans} scans, {verdict}\n")
    if faults:
        raise SystemExit(EXIT_USER_ERROR)


if __name__ == "__main__":
    run_command(main)
