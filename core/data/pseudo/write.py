"""Writes labels for the unlabelled scans of a training split, and says how right they are where that can be told."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from core.data.pseudo.both import joined
from core.data.pseudo.report import PseudoReport, confusion_of, no_confusion
from core.data.sample import keyframe_scan
from core.datasets.pseudo import PSEUDO, GivenLabels, pseudo_file, read_pseudo, write_pseudo
from core.datasets.training import TrainingScans
from core.decode import read_json
from core.errors import UserError
from core.io import write_json
from core.locks import sole_writer
from core.processes import shared_work

__all__ = ["Carrier", "Teacher", "write_pseudo_labels"]

Carrier = Callable[[int], GivenLabels]  # of one scan, in any process
Teacher = Callable[[Sequence[int]], Iterator[GivenLabels]]  # of many, in this one
Task = tuple[int, GivenLabels | None]  # a scan, and what the teacher says of it
Result = tuple[np.ndarray, str]  # see :func:`confusion_of`; SHA-256 (hex) of the labels


def write_pseudo_labels(
    dataset: TrainingScans,
    out: Path,
    made_from: Mapping[str, Any],
    *,
    carrier: Carrier | None = None,
    teacher: Teacher | None = None,
    workers: int = 1,
) -> PseudoReport:
    """Label every scan outside the budget that ``out`` has no file of; a killed command goes on.

    Args:
        dataset: the split under its budget, the rest in it.
        carrier, teacher: who labels; both together as in :func:`joined`. The carrier is picklable.
        made_from: what else the labels depend on, JSON. workers: processes beside this one, which has the teacher.

    Raises:
        UserError: every scan has labels, ``out`` holds labels made from something else or of a scan that has changed
            since, or a scan is damaged.
    """
    scans = np.flatnonzero(~dataset.budget).tolist()
    if not scans:
        raise UserError(
            "every scan of the training split has its labels",
            where="key 'dataset.labelled'",
            cure="Set a budget, e.g. --dataset.labelled '{fraction: 0.1}' --dataset.unlabelled rest",
        )
    labels = dataset.labels
    identity = {
        "classes": list(labels.classes),
        "fingerprint": labels.fingerprint,
        "labelled": dataset.labelled_digest,
        "made_from": dict(made_from),
    }
    confusion = no_confusion(labels.num_classes)
    content = hashlib.sha256()
    with sole_writer(out, "--out"):
        _begin(out, identity)
        tasks = _tasks(dataset, out, scans, teacher)
        writer = _Writer(dataset, carrier, out)
        count = min(workers, len(scans))
        with shared_work(writer, tasks, count, "--workers", writer.named) as results:
            bar = tqdm(results, total=len(scans), unit="scan", disable=not sys.stderr.isatty())
            for counts, digest in bar:
                confusion += counts
                content.update(digest.encode())
        report = PseudoReport(labels.classes, len(scans), confusion)
        found = {"content": content.hexdigest(), "report": report.to_json()}
        write_json(out / PSEUDO, identity | found)
    return report


def _begin(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder of other labels; what is written there first names what they are made from."""
    started = out / f".{PSEUDO}.started"
    for path in (out / PSEUDO, started):
        if not path.is_file():
            continue
        found = read_json(path, dict[str, Any])
        differing = [key for key in identity if found.get(key) != identity[key]]
        if differing:
            raise UserError(
                f"this folder holds labels that were made from something else ({', '.join(differing)})",
                where=str(path),
                cure="Give another folder with --out, or delete this one",
            )
        return
    write_json(started, identity)


def _tasks(
    dataset: TrainingScans, out: Path, scans: Sequence[int], teacher: Teacher | None
) -> Iterator[Task]:
    """The scans, each with the teacher's labels where it has no file yet."""
    missing = []
    for index in scans:
        if not pseudo_file(out, dataset.token(index)).is_file():
            missing.append(index)
    answers = iter(()) if teacher is None else teacher(missing)
    wanted = set(missing)
    for index in scans:
        said = None
        if teacher is not None and index in wanted:
            said = next(answers)
        yield index, said


@dataclass(frozen=True)
class _Writer:
    """Labels one scan, in any process."""

    dataset: TrainingScans
    carrier: Carrier | None
    out: Path

    def named(self, task: Task) -> str:
        """The scan's token."""
        return self.dataset.token(task[0])

    def __call__(self, task: Task) -> Result:
        index, said = task
        scan = keyframe_scan(self.dataset.with_labels(index))
        if not pseudo_file(self.out, scan.token).is_file():
            write_pseudo(self.out, scan, self._labels(index, said))
        given = read_pseudo(self.out, scan)
        counts = confusion_of(scan.labels, given, self.dataset.labels.num_classes)
        digest = hashlib.sha256(given.label.tobytes() + given.confidence.tobytes())
        return counts, digest.hexdigest()

    def _labels(self, index: int, said: GivenLabels | None) -> GivenLabels:
        if self.carrier is None:
            assert said is not None, "somebody labels"
            return said
        carried = self.carrier(index)
        return carried if said is None else joined(carried, said)
