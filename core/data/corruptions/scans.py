"""Corrupted data sets: made on the fly from clean scans, or read from the folders the benchmarks publish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.contracts import IGNORE, Scan
from core.data.corruptions.apply import Scanner, corrupt
from core.data.corruptions.profiles import Corruption
from core.datasets.base import Gap, ScanDataset, ScanFiles
from core.datasets.folder import FolderConfig, FolderDataset
from core.datasets.semantickitti import SemanticKITTI, SemanticKITTIConfig
from core.errors import UserError
from core.labels import SEMANTICKITTI

__all__ = ["CorruptedScans", "published"]

# Robo3D writes fog, snow and crosstalk as ids 21 to 23, which SemanticKITTI does not know.
_LABELS = replace(
    SEMANTICKITTI,
    raw_to_train={**SEMANTICKITTI.raw_to_train, **dict.fromkeys((21, 22, 23), IGNORE)},
)


class CorruptedScans(ScanDataset):
    """A data set under one corruption; scans keep their number, order and tokens.

    Args:
        clean: the data set. corruption: what happens to each scan.
        scanner: see :class:`Scanner`. seed: of all draws.
    """

    def __init__(
        self, clean: ScanDataset, corruption: Corruption, scanner: Scanner, seed: int = 0
    ) -> None:
        self.clean, self.corruption, self.scanner, self.seed = clean, corruption, scanner, seed
        self.config, self.sensor = clean.config, clean.sensor
        self.labels, self.root, self.split = clean.labels, clean.root, clean.split
        self.point_fields, self.label_dtype = clean.point_fields, clean.label_dtype
        self.title = f"{clean.title}, {corruption.name}"

    def __len__(self) -> int:
        return len(self.clean)

    def token(self, index: int) -> str:
        """The clean scan's token."""
        return self.clean.token(index)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the clean scan and corrupt it, alike at every call."""
        scan = self.clean.load(index, cameras=cameras)
        return corrupt(scan, self.corruption, self.scanner, self.seed)

    def files(self, index: int) -> ScanFiles:
        """The clean scan's files."""
        return self.clean.files(index)

    def absent_images(self, index: int) -> dict[str, Path]:
        """The clean scan's."""
        return self.clean.absent_images(index)

    def image_digests(self, index: int) -> Iterator[str]:
        """The clean scan's."""
        return self.clean.image_digests(index)

    def num_points(self, index: int) -> int:
        """Count the points that the corruption leaves."""
        return int(np.count_nonzero(self.read(index, cameras=False).keyframe))

    def index_of(self, token: str) -> int:
        """The clean scan's position."""
        return self.clean.index_of(token)

    def gaps(self) -> list[Gap]:
        """What the clean data set lacks."""
        return self.clean.gaps()


class _Flat(FolderDataset):
    """``{velodyne,labels}`` as published: the one validation sequence."""

    title = "SemanticKITTI-C"
    labels = _LABELS


class _Sequences(SemanticKITTI):
    """``sequences/NN/{velodyne,labels}`` as this package writes it."""

    title = "SemanticKITTI-C"
    labels = _LABELS


def published(root: Path, corruption: Corruption) -> ScanDataset:
    """Open the scans of a corruption in a published SemanticKITTI-C, or in one that this package wrote.

    Raises:
        UserError: the folder is missing or empty, or labels are missing.
    """
    found = [
        folder for name in (corruption.folder, corruption.name) if (folder := root / name).is_dir()
    ]
    if not found:
        raise UserError(
            "this folder does not exist",
            where=str(root / corruption.folder),
            cure="--robustness-root must hold one folder per corruption, with velodyne and labels in it; "
            "write it with 'python -m core.data.corruptions CONFIG --out DIR', or leave the option out",
        )
    sequences = sorted(path.name for path in found[0].glob("sequences/*") if path.is_dir())
    if not sequences:
        flat = FolderConfig(
            name="folder",
            root=found[0],
            scans="velodyne/*.bin",
            label_files="labels/{stem}.label",
            no_return="keep",  # every row counts in the published scores
        )
        return _Flat(flat, "val")
    config = SemanticKITTIConfig(
        name="semantickitti", root=found[0], split={"val": sequences}, cameras=()
    )
    return _Sequences(config, "val")
