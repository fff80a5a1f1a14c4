"""Labels of scans that nobody labelled, on disk: an array file per scan, and what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import IGNORE, Scan
from core.decode import read_arrays, read_json
from core.errors import UserError
from core.io import atomic_path
from core.labels import LabelSpace
from core.paths import inside

__all__ = ["PSEUDO", "PseudoLabels", "pseudo_file", "read_pseudo", "write_pseudo"]

PSEUDO = "pseudo_labels.json"
_AGAIN = "Write the folder again with prepare_pseudo_labels.py"


@dataclass(frozen=True)
class PseudoLabels:
    """A folder that ``prepare_pseudo_labels.py`` wrote, as a training reads it.

    Attributes:
        folder: of the files. least: smallest confidence of a label that is used.
    """

    folder: Path
    least: float

    @classmethod
    def open(cls, folder: Path, least: float, labels: LabelSpace, labelled: str) -> PseudoLabels:
        """Open the folder for a split.

        Args:
            labels: the training's label space. labelled: digest of the tokens of its labelled scans.

        Raises:
            UserError: it is none, is unfinished, or was made with other classes or from other labelled scans.
        """
        about = read_json(folder / PSEUDO, dict[str, Any], cure=_AGAIN)
        wanted = {"fingerprint": labels.fingerprint, "labelled": labelled}
        meanings = {"fingerprint": "classes", "labelled": "labelled scans (dataset.labelled)"}
        for key, value in wanted.items():
            if about.get(key) != value:
                raise UserError(
                    f"these labels were made with other {meanings[key]} than this training has",
                    where=f"{folder / PSEUDO}, key 'dataset.pseudo_labels'",
                    cure=_AGAIN,
                )
        return cls(folder, least)

    def of(self, scan: Scan) -> Scan:
        """The scan with its labels from the folder; its sweeps have none.

        Raises:
            UserError: the scan's file is missing, damaged or of another scan.
        """
        own = scan.keyframe
        label, confidence = read_pseudo(self.folder, scan.token, int(own.sum()))
        label = np.where(confidence >= self.least, label, np.uint8(IGNORE))
        whole = np.zeros(len(scan.points), np.uint8)
        whole[own] = label
        return scan.having(label=whole)


def pseudo_file(folder: Path, token: str) -> Path:
    """The file of one scan, whether or not it exists.

    Raises:
        UserError: the token would leave the folder.
    """
    return inside(folder, f"{token}.npz")


def write_pseudo(folder: Path, token: str, label: np.ndarray, confidence: np.ndarray) -> None:
    """Write the file of one scan, atomically.

    Args:
        label: u8 [N] train ids, 0 = unknown. confidence: f32 [N] in 0..1, kept as f16.
    """
    path = pseudo_file(folder, token)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, label=label, confidence=confidence.astype(np.float16))


def read_pseudo(folder: Path, token: str, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the file of one scan: label u8 [N] and confidence f32 [N].

    Args:
        points: of the scan's keyframe.

    Raises:
        UserError: the file is missing, damaged, or has another number of rows.
    """
    path = pseudo_file(folder, token)
    arrays = read_arrays(path, "file of pseudo-labels", cure=_AGAIN)
    label, confidence = arrays.get("label"), arrays.get("confidence")
    if label is None or confidence is None or label.dtype != np.uint8:
        raise UserError(
            "expected arrays 'label' u8 and 'confidence' f16", where=str(path), cure=_AGAIN
        )
    if label.shape != (points,) or confidence.shape != (points,):
        raise UserError(
            f"holds {list(label.shape)} labels and {list(confidence.shape)} confidences for a scan of {points} points",
            where=str(path),
            cure=_AGAIN,
        )
    return label, confidence.astype(np.float32)
