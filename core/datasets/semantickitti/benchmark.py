"""SemanticKITTI's benchmark: ``validate_submission.py`` of semantic-kitti-api, and what its server refuses later.

``sequences/NN/predictions/*.label``, one u32 raw id per point, and a zip with an entry for each folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.datasets.benchmark import Benchmark, stored_ids
from core.labels import LabelSpace

__all__ = ["SemanticKITTIBenchmark"]

_MOVING = frozenset(range(252, 260))  # raw ids of things that move


class SemanticKITTIBenchmark(Benchmark):
    """U32 raw ids in ``.label`` files; the upper 16 bits of an id are an instance's number."""

    name = "semantickitti"
    title = "SemanticKITTI"
    dtype = np.dtype("<u4")
    folder_entries = True
    optional = ("description.txt",)  # name, PDF and code of the method
    has_corrupted_version = True

    def path(self, token: str) -> str:
        """``sequences/NN/predictions/*.label``; ``*.label`` for a scan without a sequence."""
        sequence, _, frame = token.rpartition("/")
        if not sequence:
            return f"{frame}.label"
        return f"sequences/{sequence}/predictions/{frame}.label"

    def submitted_path(self, token: str, split: str) -> str:
        """The same as :meth:`path`; a submission does not name its split."""
        return self.path(token)

    def ids(self, labels: LabelSpace) -> Sequence[int]:
        """The raw id of each train id."""
        return labels.train_to_raw

    def encode(self, classes: np.ndarray, labels: LabelSpace) -> bytes:
        """Write raw ids u32, instances 0."""
        return labels.to_raw(classes).astype(self.dtype).tobytes()

    def decode(self, content: bytes, labels: LabelSpace, where: Path) -> np.ndarray:
        """Read raw ids u32; instances are dropped."""
        return labels.to_train(self.class_ids(stored_ids(content, self.dtype, where)), where)

    def allowed_ids(self, labels: LabelSpace) -> Sequence[int]:
        """The raw ids of the train ids; with moving classes, all ids of things that move, as the server reads them."""
        allowed = list(labels.train_to_raw)
        if not _MOVING.isdisjoint(allowed):
            allowed += sorted(_MOVING & labels.raw_to_train.keys() - set(allowed))
        return allowed

    def class_ids(self, ids: np.ndarray) -> np.ndarray:
        """The lower 16 bits."""
        return ids & 0xFFFF

    def advice(self, labels: LabelSpace, largest: int) -> str:
        """Name the raw ids, and say so where train ids were written in their place."""
        ids = ", ".join(str(i) for i in self.allowed_ids(labels))
        hint = ""
        if largest < labels.num_classes:
            hint = "these look like train ids, see 'remap': "
        return f"{hint}ids of a submission are {ids}"
