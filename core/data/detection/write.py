"""Writes scans and their boxes, in parallel, one scan at a time, and goes on where it was stopped."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.config import Config
from core.contracts.boxes import Boxes
from core.data.config import DataConfig
from core.data.detection.classes import DetectionSettings, one_word
from core.data.detection.report import DetectionReport
from core.data.made_with import note_settings
from core.data.motion_job import scans_of
from core.data.sample import keyframe_scan
from core.datasets.base import ScanDataset
from core.decode import read_text
from core.errors import UserError
from core.geometry import transform
from core.io import write_bytes, write_text
from core.locks import sole_writer
from core.processes import shared_work

__all__ = ["SETTINGS", "write_detection"]

SETTINGS = "detection.json"  # in the folder: what its files were made with
VERSION = 1  # of the files
_COMMAND = "prepare_detection.py"
_FIELDS = 8  # of a line
Task = tuple[int, int]  # position of the split, and of the scan in it


def write_detection(
    config: Config,
    out: Path,
    settings: DetectionSettings,
    splits: Sequence[str] = ("train", "val"),
    workers: int = 1,
) -> DetectionReport:
    """Write the scans of some splits and their boxes; the lists of scans come last, so that they name whole files.

    Args:
        config: its ``dataset`` names the scans, its ``data`` how intensities are scaled. workers: processes.

    Raises:
        UserError: the data set has no boxes, a file is missing or damaged, two scans would share a name, or ``out``
            holds files of other settings.
    """
    scans = [scans_of(config, split, _COMMAND) for split in splits]
    data = config.parse(DataConfig, "data")
    tasks = [(k, index) for k, split in enumerate(scans) for index in range(len(split))]
    writer = _Writer(tuple(scans), out, settings, data.intensity_divisor, data.intensity_offset)
    _check_names(writer, tasks)
    for dataset in scans:
        dataset.boxes(0)  # before anything is written, where a data set has none
    lists: list[list[str]] = [[] for _ in splits]
    total = DetectionReport()
    with sole_writer(out, "--out"):
        note_settings(out / SETTINGS, writer.made_with(), "scans and boxes")
        count = min(workers, len(tasks))
        with shared_work(writer, tasks, count, "--workers", writer.named) as results:
            bar = tqdm(results, total=len(tasks), unit="scan", disable=not sys.stderr.isatty())
            for task, done in zip(tasks, bar):
                total.add(done)
                if done.scans:
                    lists[task[0]].append(writer.name(task))
        for split, names in zip(splits, lists):
            lines = "".join(f"{name}\n" for name in names)
            write_text(out / "ImageSets" / f"{split}.txt", lines)
    return total


def _check_names(writer: _Writer, tasks: Sequence[Task]) -> None:
    """Refuse two scans of one name, as where a scan is in two splits."""
    seen: dict[str, str] = {}
    for task in tasks:
        name, token = writer.name(task), writer.named(task)
        if name in seen:
            raise UserError(
                f"scans {seen[name]} and {token} would both be {name}",
                where="command line, --splits",
                cure="Give each scan to one split (dataset.split, dataset.frames)",
            )
        seen[name] = token


@dataclass(frozen=True)
class _Writer:
    """Writes one scan, in any process."""

    splits: tuple[ScanDataset, ...]
    out: Path
    settings: DetectionSettings
    divisor: float
    offset: float

    def made_with(self) -> dict[str, object]:
        """What tells these files from others."""
        classes = self.settings.classes
        return {
            "version": VERSION,
            "data_set": self.splits[0].title,
            "classes": None if classes is None else dict(classes),
            "min_points": self.settings.min_points,
            "intensity_divisor": self.divisor,
            "intensity_offset": self.offset,
        }

    def named(self, task: Task) -> str:
        """The scan's token."""
        return self.splits[task[0]].token(task[1])

    def name(self, task: Task) -> str:
        """Of its files: the token as one word."""
        return one_word(self.named(task))

    def __call__(self, task: Task) -> DetectionReport:
        """Write what is not there; the labels come last, so that they say that both files are whole."""
        points = self.out / "points" / f"{self.name(task)}.npy"
        labels = self.out / "labels" / f"{self.name(task)}.txt"
        if labels.is_file() and points.is_file():
            done = DetectionReport(found=1)
        else:
            done = self._write(task, points, labels)
        _count(labels, done)
        return done

    def _write(self, task: Task, points: Path, labels: Path) -> DetectionReport:
        dataset, index = self.splits[task[0]], task[1]
        boxes = _rounded(dataset.boxes(index))
        scan = keyframe_scan(dataset.read(index, cameras=False))
        xyz = transform(boxes.upright_from_scan, scan.xyz)
        intensity = scan.intensity / np.float32(self.divisor) + np.float32(self.offset)
        counts = boxes.counts(xyz)
        done = DetectionReport()
        if len(boxes.points):
            known = boxes.points >= 0
            done.compared = int(known.sum())
            done.differing = int((known & (counts != boxes.points)).sum())
        lines = []
        for row, source in enumerate(boxes.names):
            name = self.settings.written_name(source)
            if name is None:
                done.left_out[source] += 1
            elif counts[row] >= self.settings.min_points:
                lines.append(f"{_numbers(boxes, row)} {name}\n")
        stream = io.BytesIO()
        np.save(stream, np.column_stack([xyz, intensity]).astype(np.float32))
        labels.unlink(missing_ok=True)  # of other points
        write_bytes(points, stream.getvalue())
        write_text(labels, "".join(lines))
        return done


def _rounded(boxes: Boxes) -> Boxes:
    """The boxes in float32, which is what detectors read."""
    numbers = {}
    for key in ("centre", "size", "heading"):
        numbers[key] = getattr(boxes, key).astype(np.float32).astype(np.float64)
    return replace(boxes, **numbers)


def _numbers(boxes: Boxes, row: int) -> str:
    """Seven numbers, as short as float32 allows."""
    values = [*boxes.centre[row], *boxes.size[row], boxes.heading[row]]
    return " ".join(str(np.float32(value)) for value in values)


def _count(path: Path, done: DetectionReport) -> None:
    """Take in what a label file holds.

    Raises:
        UserError: a line is no box.
    """
    for line in read_text(path).splitlines():
        words = line.split(" ")
        try:
            values = np.array(words[: _FIELDS - 1], np.float64)
        except ValueError:
            values = np.empty(0)
        if len(words) != _FIELDS or len(values) != _FIELDS - 1:
            raise UserError(
                f"'{line[:60]}' is no box",
                where=str(path),
                cure="Delete the file and start the command again",
            )
        done.add_box(words[-1], values[3:6])
    done.scans = int(bool(done.boxes))
    done.empty = 1 - done.scans
