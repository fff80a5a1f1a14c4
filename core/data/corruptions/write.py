"""Corrupted scans on disk in SemanticKITTI's layout, one folder per corruption.

``OUT/<corruption>/sequences/08/{velodyne/*.bin, labels/*.label}``; scans whose tokens name no sequence lie in
``OUT/<corruption>/{velodyne,labels}``. A scan is read once for all corruptions; its points are written last, whole or
not at all, so a killed command goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from core.contracts import Scan
from core.data.corruptions.apply import Scanner, corrupt
from core.data.corruptions.profiles import Corruption
from core.data.sample import keyframe_scan
from core.datasets.base import ScanDataset
from core.decode import read_json
from core.errors import UserError
from core.io import write_bytes, write_json
from core.locks import sole_writer
from core.paths import check_name
from core.processes import WorkerPool

__all__ = ["VERSION", "write_corrupted"]

VERSION = 1  # raise when the same seed gives other points
_IDENTITY = "corruptions.json"


def write_corrupted(
    dataset: ScanDataset,
    corruptions: Sequence[Corruption],
    out: Path,
    *,
    workers: int = 1,
    seed: int = 0,
    keep_labels: bool = False,
) -> int:
    """Write every scan's own points under every corruption; returns the number of files that were not there yet.

    Args:
        corruptions: of one profile. workers: processes.
        seed: of all draws. keep_labels: what ``corruptions`` were chosen with.

    Raises:
        UserError: ``out`` holds corruptions of other scans, another seed or another version, or a scan is damaged.
    """
    tokens = "\n".join(dataset.token(i) for i in range(len(dataset)))
    identity = {
        "version": VERSION,
        "profile": corruptions[0].profile,
        "seed": seed,
        "keep_labels": keep_labels,
        "dataset": type(dataset.member(0)[0]).title,
        "scans": len(dataset),
        "tokens": hashlib.sha256(tokens.encode()).hexdigest(),
    }
    work = _Writer(dataset, tuple(corruptions), Scanner.of(dataset), out, seed)
    with sole_writer(out, "--out"):
        _begin(out, identity)
        return _write_all(work, len(dataset), workers)


def _write_all(work: _Writer, scans: int, workers: int) -> int:
    written = 0
    with _results(work, range(scans), workers) as results:
        bar = tqdm(
            results,
            total=scans,
            desc="corrupting",
            unit="scan",
            disable=not sys.stderr.isatty(),
        )
        for count in bar:
            written += count
    return written


def _begin(out: Path, identity: dict[str, Any]) -> None:
    path = out / _IDENTITY
    if not path.is_file():
        write_json(path, identity)
    elif read_json(path) != json.loads(json.dumps(identity)):
        raise UserError(
            "this folder holds corruptions of other scans, or of another profile or seed",
            where=str(path),
            cure="Give another folder with --out, or delete this one",
        )


@contextmanager
def _results(work: _Writer, tasks: Sequence[int], workers: int) -> Iterator[Iterator[int]]:
    count = min(workers, len(tasks))
    if count <= 1:
        yield map(work, tasks)
        return
    with WorkerPool(work, count, "--workers", work.dataset.token) as pool:
        yield pool.run(tasks)


@dataclass(frozen=True)
class _Writer:
    """Writes one scan under all corruptions; returns how many files of points it wrote."""

    dataset: ScanDataset
    corruptions: tuple[Corruption, ...]
    scanner: Scanner
    out: Path
    seed: int

    def __call__(self, index: int) -> int:
        token = self.dataset.token(index)
        missing = []
        for corruption in self.corruptions:
            if not self._path(corruption, token, "velodyne", "bin").is_file():
                missing.append(corruption)
        if missing:
            scan = keyframe_scan(self.dataset.load(index, cameras=False))
            for corruption in missing:
                corrupted = corrupt(scan, corruption, self.scanner, self.seed)
                self._write(corruption, token, corrupted)
        return len(missing)

    def _path(self, corruption: Corruption, token: str, part: str, suffix: str) -> Path:
        sequence, _, frame = check_name(token, str(self.dataset.root)).rpartition("/")
        folder = self.out / corruption.folder
        if sequence:
            folder = folder / "sequences" / sequence
        return folder / part / f"{frame}.{suffix}"

    def _write(self, corruption: Corruption, token: str, scan: Scan) -> None:
        if scan.labels is not None:
            ids = self.dataset.labels.to_raw(scan.labels).astype("<u4")
            if scan.instances is not None:
                ids |= (scan.instances.astype("<u4") & 0xFFFF) << 16
            write_bytes(self._path(corruption, token, "labels", "label"), ids.tobytes())
        cloud = np.column_stack([scan.xyz, scan.intensity]).astype("<f4")
        write_bytes(self._path(corruption, token, "velodyne", "bin"), cloud.tobytes())
