"""A training split made of scans with labels and scans without, the latter from several places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from core.contracts import Scan
from core.datasets.base import Gap, ScanDataset, ScanFiles
from core.datasets.pseudo import PseudoLabels
from core.datasets.static_scans import DroppedScans
from core.errors import counted

__all__ = ["Part", "PartKind", "TrainingScans"]

PartKind = Literal["labelled", "rest", "sweeps", "scenes"]


@dataclass(frozen=True)
class Part:
    """Some scans of a reader.

    Attributes:
        kind: "labelled", or why the training has them without labels.
        scans: the reader; of all kinds but "labelled" it was opened without labels, so that none is ever read.
        rows: i64, positions in ``scans``.
    """

    kind: PartKind
    scans: ScanDataset
    rows: np.ndarray

    def named(self, name: str) -> str:
        """A token or the name of a scene; those of other scenes are kept apart from equal ones of the split."""
        return f"scenes/{name}" if self.kind == "scenes" else name


class TrainingScans(ScanDataset):
    """Labelled and unlabelled scans of a training, one after the other.

    An unlabelled scan has no labels (but those of ``pseudo``), no instances, and cameras only where all their images
    are there.

    Args:
        labelled: the split as its labels are known, whatever the training may see of them.
        split: as its scans are listed with or without labels; what is said of the whole split is said of it.
        parts: see :class:`Part`.
        order: i64 [K], in which the first K scans of all parts come; the others follow as they are.

    Attributes:
        budget: bool [N], whether a scan has labels. pseudo: labels of the others; None = they have none.
        dropped: what ``dataset.drop_static`` has left; None = nothing was dropped.
    """

    budget: np.ndarray

    def __init__(
        self,
        labelled: ScanDataset,
        split: ScanDataset,
        parts: Sequence[Part],
        order: np.ndarray,
    ) -> None:
        self.take_after(labelled)
        self.pseudo: PseudoLabels | None = None
        self.dropped: DroppedScans | None = None
        self.parts = tuple(parts)
        self._labelled, self._split = labelled, split
        part = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
        row = np.concatenate([part.rows for part in parts])
        order = np.concatenate([order, np.arange(len(order), len(row))])
        self._part, self._row = part[order], row[order]
        self.budget = np.zeros(len(row), bool)
        self.budget[self.rows_of("labelled")] = True

    def __len__(self) -> int:
        return len(self._row)

    def rows_of(self, kind: PartKind) -> np.ndarray:
        """Positions i64 of the scans of a kind."""
        numbers = [k for k, part in enumerate(self.parts) if part.kind == kind]
        return np.flatnonzero(np.isin(self._part, numbers))

    def member(self, index: int) -> tuple[ScanDataset, int]:
        """The reader of scan ``index``, and its position there."""
        part, row = self._place(index)
        return part.scans, row

    def _place(self, index: int) -> tuple[Part, int]:
        return self.parts[int(self._part[index])], int(self._row[index])

    def token(self, index: int) -> str:
        """Its reader's token; see :meth:`Part.named`."""
        part, row = self._place(index)
        return part.named(part.scans.token(row))

    def scene(self, index: int) -> str:
        """Its reader's name of the scene; see :meth:`Part.named`."""
        part, row = self._place(index)
        return part.named(part.scans.scene(row))

    def drive(self, index: int) -> str:
        """Its reader's name of the drive; see :meth:`Part.named`."""
        part, row = self._place(index)
        return part.named(part.scans.drive(row))

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the scan with the columns of its own reader."""
        scans, row = self.member(index)
        return self._as_known(index, scans.load(row, cameras=self._wants(index, cameras)))

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the scan without ``dataset.columns``."""
        scans, row = self.member(index)
        return self._as_known(index, scans.read(row, cameras=self._wants(index, cameras)))

    def _wants(self, index: int, cameras: bool) -> bool:
        return cameras and (bool(self.budget[index]) or bool(self.files(index).images))

    def _as_known(self, index: int, scan: Scan) -> Scan:
        """The scan under its token here and, where it has no labels, with those that were made for it."""
        if self.budget[index]:
            return scan
        scan = replace(scan, token=self.token(index))
        return scan if self.pseudo is None else self.pseudo.of(scan)

    def with_labels(self, index: int) -> Scan:
        """Read the scan as the whole split has it, to tell how right others' labels are."""
        part, row = self._place(index)
        if part.kind in ("labelled", "rest"):
            known = self._labels_known.get(part.scans.token(row))
            if known is not None:
                return self._labelled.read(known, cameras=False)
        return replace(part.scans.read(row, cameras=False), token=self.token(index))

    @cached_property
    def _labels_known(self) -> dict[str, int]:
        return {self._labelled.token(k): k for k in range(len(self._labelled))}

    @cached_property
    def labelled_tokens(self) -> list[str]:
        """Of the scans that have labels."""
        return [self.token(row) for row in np.flatnonzero(self.budget).tolist()]

    @property
    def labelled_digest(self) -> str:
        """SHA-256 (hex) of ``labelled_tokens``."""
        return _digest(self.labelled_tokens)

    @cached_property
    def unlabelled_digest(self) -> str:
        """SHA-256 (hex) of the tokens of all others."""
        return _digest([self.token(row) for row in np.flatnonzero(~self.budget).tolist()])

    def files(self, index: int) -> ScanFiles:
        """The scan's files; an unlabelled one has no label file, and images only where all of them are there."""
        scans, row = self.member(index)
        files = scans.files(row)
        if self.budget[index] or all(path.is_file() for path in files.images.values()):
            return files
        return ScanFiles(files.points, files.labels)

    def absent_images(self, index: int) -> dict[str, Path]:
        """As its reader says; of an unlabelled scan none is missed."""
        scans, row = self.member(index)
        return scans.absent_images(row) if self.budget[index] else {}

    def image_digests(self, index: int) -> Iterator[str]:
        """Of the images that it is read with."""
        scans, row = self.member(index)
        if self.files(index).images:
            yield from scans.image_digests(row)

    def check_images(self) -> None:
        """See that the split with labels has its images; the others need none.

        Raises:
            UserError: see :meth:`ScanDataset.check_images`.
        """
        self._labelled.check_images()

    def pose_files(self, index: int) -> tuple[Path, ...]:
        """Those of its own reader."""
        scans, row = self.member(index)
        return scans.pose_files(row)

    def column_files(self, index: int) -> dict[str, Path]:
        """Files of ``dataset.columns`` of the scan."""
        scans, row = self.member(index)
        return scans.column_files(row)

    def num_points(self, index: int) -> int:
        """Count the points of the scan."""
        scans, row = self.member(index)
        return scans.num_points(row)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self.token(index): index for index in range(len(self))}

    def index_of(self, token: str) -> int:
        """Position of the scan called ``token``.

        Raises:
            UserError: the split has no such scan, or the training does without it.
        """
        if token not in self._positions:
            raise self._unknown_token(token)
        return self._positions[token]

    def gaps(self) -> list[Gap]:
        """What the split lacks, and what is not there of sweeps and other scenes."""
        gaps = self._split.gaps()
        for part in self.parts:
            if part.kind in ("sweeps", "scenes"):
                gaps += [
                    replace(gap, text=f"unlabelled {part.kind}: {gap.text}", needed_for="nothing")
                    for gap in part.scans.gaps()
                ]
        return gaps

    @property
    def expected(self) -> int | None:
        """Number of scans of the official split, without budget and further scans."""
        return self._split.expected

    @property
    def listed(self) -> int:
        """Number of scans of the split that are there, without budget and further scans."""
        return self._split.listed

    def absent(self) -> str:
        """Which parts of the split are not there."""
        return self._split.absent()

    def counts(self) -> str:
        """How many scans there are of each kind: "40 scans, 4 labelled, 36 rest"."""
        told = [counted(len(self), "scan")]
        for part in self.parts:
            told.append(f"{len(part.rows)} {part.kind}")
        if self.dropped is not None:
            told.append(f"{len(self.dropped.dropped)} static ones dropped")
        return ", ".join(told)

    def describe(self) -> str:
        """One line that also says how many scans there are of each kind."""
        return f"{self._split.describe()}; {self.counts()}"


def _digest(tokens: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()
