"""What scans hold, as short texts: results that are kept go by these, not by the names of scans and files.

Two prices. :func:`scan_digest` reads every byte of a scan that is in memory anyway. :func:`split_stamp` asks each file
for its size, its time of change and three blocks of 4 KiB: about 60 µs a file on a local disk, half a second for
the 4,071 validation scans of SemanticKITTI and their labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from core.contracts import Scan
from core.datasets.base import ScanDataset
from core.datasets.columns import CELL_COLUMNS
from core.io import file_stamp

__all__ = ["scan_digest", "scan_stamp", "split_stamp"]

_NOT_SEEN = ("label", "instance", "pasted", "beam", *CELL_COLUMNS)  # columns that no network reads


def scan_stamp(dataset: ScanDataset, index: int, images: bool) -> str:
    """SHA-256 (hex) of the stamps of a scan's files: points, labels, ``dataset.columns``, and on request images."""
    digest = hashlib.sha256(dataset.token(index).encode())
    for path in dict.fromkeys(_files(dataset, index, images)):
        digest.update(file_stamp(path).encode() + b"\n")
    return digest.hexdigest()


def split_stamp(dataset: ScanDataset, images: bool) -> str:
    """SHA-256 (hex) of the stamps of all scans of a split, in their order."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(scan_stamp(dataset, index, images).encode())
    return digest.hexdigest()


def _files(dataset: ScanDataset, index: int, images: bool) -> Iterator[Path]:
    files = dataset.files(index)
    yield files.points
    if files.labels is not None:
        yield files.labels
    if images:
        yield from files.images.values()
    yield from dataset.column_files(index).values()


def scan_digest(scan: Scan, images: Iterable[str] | None = None) -> str:
    """SHA-256 (hex) of all values of a scan that a network may read, sweeps included; labels play no part.

    Args:
        images: digests of the scan's images, where a network reads those; the cameras count then too.
    """
    digest = hashlib.sha256(repr(scan.sensor.origin).encode())
    for name in sorted(scan.points):
        if name not in _NOT_SEEN:
            digest.update(_bytes(name, scan.points[name]))
    if images is None:
        return digest.hexdigest()
    for camera in scan.cameras:
        digest.update(_bytes(f"{camera.name} {camera.size} {camera.min_depth}", camera.projection))
    for image in images:
        digest.update(image.encode())
    return digest.hexdigest()


def _bytes(name: str, array: np.ndarray) -> bytes:
    return f"{name} {array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes()
