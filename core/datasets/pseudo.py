"""Labels of scans that nobody labelled, on disk: an array file per scan, and what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from core.contracts import IGNORE, Scan
from core.decode import read_arrays, read_json
from core.errors import UserError
from core.io import atomic_path
from core.labels import LabelSpace
from core.paths import inside

__all__ = [
    "PSEUDO",
    "SOURCES",
    "GivenLabels",
    "PseudoLabels",
    "Source",
    "pseudo_file",
    "read_pseudo",
    "scan_content",
    "write_pseudo",
]

PSEUDO = "pseudo_labels.json"
Source = Literal["poses", "teacher"]
SOURCES: tuple[Source, ...] = get_args(Source)  # GivenLabels.source counts from 1
_AGAIN = "Write the folder again with prepare_pseudo_labels.py"
_TYPES = {"label": np.uint8, "confidence": np.float16, "source": np.uint8}


@dataclass(frozen=True)
class GivenLabels:
    """Labels of the keyframe points of a scan.

    Attributes:
        label: u8 [N] train ids, 0 = unknown. confidence: f32 [N] in 0..1, kept as f16.
        source: u8 [N], who gave it: 1 + position in ``SOURCES``, 0 where nobody did.
    """

    label: np.ndarray
    confidence: np.ndarray
    source: np.ndarray

    @classmethod
    def by(cls, source: Source, label: np.ndarray, confidence: np.ndarray) -> GivenLabels:
        """Labels that all come from one of ``SOURCES``."""
        number = 1 + SOURCES.index(source)
        return cls(label, confidence, np.where(label == IGNORE, 0, number).astype(np.uint8))


@dataclass(frozen=True)
class PseudoLabels:
    """A folder that ``prepare_pseudo_labels.py`` wrote, as a training reads it.

    Attributes:
        folder: of the files.
        least: f32 [1 + S], by source (0 = none), smallest confidence of a label that is used.
        digest: SHA-256 (hex) of all labels and confidences.
    """

    folder: Path
    least: np.ndarray
    digest: str

    @classmethod
    def open(
        cls,
        folder: Path,
        least: float | Mapping[Source, float],
        labels: LabelSpace,
        labelled: str,
    ) -> PseudoLabels:
        """Open the folder for a split.

        Args:
            least: smallest confidence of a label that is used, or that of each of ``SOURCES``, 0 for those not named.
            labels: the training's label space. labelled: digest of the tokens of its labelled scans.

        Raises:
            UserError: it is none, is unfinished, or was made with other classes or from other labelled scans.
        """
        path = folder / PSEUDO
        about = read_json(path, dict[str, Any], cure=_AGAIN)
        where = f"{path}, key 'dataset.pseudo_labels'"
        if about.get("fingerprint") != labels.fingerprint:
            listed = ", ".join(map(str, about.get("classes", ["not listed"])))
            raise UserError(
                f"these labels were made with other classes ({listed}) than this training has "
                f"({', '.join(labels.classes)})",
                where=where,
                cure=_AGAIN,
            )
        if about.get("labelled") != labelled:
            raise UserError(
                "these labels were made with other labelled scans (dataset.labelled) than this training has",
                where=where,
                cure=_AGAIN,
            )
        by_source = np.zeros(1 + len(SOURCES), np.float32)
        for number, source in enumerate(SOURCES, 1):
            by_source[number] = least.get(source, 0) if isinstance(least, Mapping) else least
        return cls(folder, by_source, str(about.get("content")))

    def of(self, scan: Scan) -> Scan:
        """The scan with its labels from the folder; its sweeps have none.

        Raises:
            UserError: the scan's file is missing, damaged or of another scan.
        """
        given = read_pseudo(self.folder, scan)
        sure = given.confidence >= self.least[given.source]
        label = np.where(sure, given.label, np.uint8(IGNORE))
        whole = np.zeros(len(scan.points), np.uint8)
        whole[scan.keyframe] = label
        return scan.having(label=whole)


def pseudo_file(folder: Path, token: str) -> Path:
    """The file of one scan, whether or not it exists.

    Raises:
        UserError: the token would leave the folder.
    """
    return inside(folder, f"{token}.npz")


def scan_content(scan: Scan) -> np.ndarray:
    """SHA-256, u8 [32], of what a scan's labels belong to: its keyframe's points in their order, and its pose.

    Labels, sweeps and ``dataset.columns`` play no part. Poses count to the micrometre: products of matrices differ in
    their last bits from machine to machine.
    """
    own = scan.keyframe
    digest = hashlib.sha256(np.ascontiguousarray(scan.xyz[own]).tobytes())
    digest.update(np.ascontiguousarray(scan.intensity[own]).tobytes())
    digest.update((np.round(scan.pose, 6) + 0.0).tobytes())  # + 0.0: no negative zeros
    return np.frombuffer(digest.digest(), np.uint8)


def write_pseudo(folder: Path, scan: Scan, given: GivenLabels) -> None:
    """Write the file of one scan, atomically."""
    path = pseudo_file(folder, scan.token)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream,
            label=given.label,
            confidence=given.confidence.astype(np.float16),
            source=given.source,
            scan=scan_content(scan),
        )


def read_pseudo(folder: Path, scan: Scan) -> GivenLabels:
    """Read the labels of one scan.

    Raises:
        UserError: the file is missing or damaged, or was made for other points or another pose under this name.
    """
    path = pseudo_file(folder, scan.token)
    arrays = read_arrays(path, "file of pseudo-labels", cure=_AGAIN)
    points = int(scan.keyframe.sum())
    for name, kind in _TYPES.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.shape != (points,):
            raise UserError(
                f"expected an array '{name}' of {points} {np.dtype(kind)} values, one per point of the scan",
                where=str(path),
                cure=_AGAIN,
            )
    if not np.array_equal(arrays.get("scan", ()), scan_content(scan)):
        raise UserError(
            "these labels were made for other points or another pose of a scan of this name",
            where=str(path),
            cure="Delete the file and start prepare_pseudo_labels.py again, which then labels the scan anew",
        )
    return GivenLabels(arrays["label"], arrays["confidence"].astype(np.float32), arrays["source"])
