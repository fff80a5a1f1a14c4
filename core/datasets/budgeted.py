"""A training split of which only some scans have labels."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from core.contracts import Scan
from core.datasets.base import Gap, ScanDataset, ScanFiles
from core.datasets.budget import LabelBudget, labelled_scans
from core.datasets.pseudo import PseudoLabels

__all__ = ["BudgetedScans", "with_budget"]


class BudgetedScans(ScanDataset):
    """A split whose labels are known for some scans alone; of the others none is ever read.

    Args:
        whole: the split with all its labels.
        labelled: bool [N], which of its scans keep them.
        rest: the others stay in the split, without labels; False = they leave it.

    Attributes:
        budget: bool, of the scans that stayed. pseudo: labels for the others; None = they have none.
    """

    budget: np.ndarray

    def __init__(
        self,
        whole: ScanDataset,
        labelled: np.ndarray,
        *,
        rest: bool,
    ) -> None:
        self.whole = whole
        self.pseudo: PseudoLabels | None = None
        self._rows = np.arange(len(whole)) if rest else np.flatnonzero(labelled)
        self.budget = labelled[self._rows]
        self.config, self.root, self.split = whole.config, whole.root, whole.split
        self.labels, self.sensor, self.columns = whole.labels, whole.sensor, whole.columns
        self.point_fields, self.label_dtype = whole.point_fields, whole.label_dtype
        self.title = whole.title

    def __len__(self) -> int:
        return len(self._rows)

    def token(self, index: int) -> str:
        """The token in the whole split."""
        return self.whole.token(int(self._rows[index]))

    def scene(self, index: int) -> str:
        """The scene in the whole split."""
        return self.whole.scene(int(self._rows[index]))

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the scan; one outside the budget has no instances, and no labels but those of ``pseudo``."""
        scan = self.whole.read(int(self._rows[index]), cameras=cameras)
        if self.budget[index]:
            return scan
        scan = scan.having(label=None, instance=None)
        return scan if self.pseudo is None else self.pseudo.of(scan)

    def with_labels(self, index: int) -> Scan:
        """Read the scan as the whole split has it, to tell how right others' labels are."""
        return self.whole.read(int(self._rows[index]), cameras=False)

    @cached_property
    def labelled_tokens(self) -> list[str]:
        """Of the scans that keep their labels."""
        return [self.token(row) for row in np.flatnonzero(self.budget).tolist()]

    @property
    def labelled_digest(self) -> str:
        """SHA-256 (hex) of ``labelled_tokens``."""
        return hashlib.sha256("\n".join(self.labelled_tokens).encode()).hexdigest()

    def files(self, index: int) -> ScanFiles:
        """The scan's files; an unlabelled one has no label file."""
        files = self.whole.files(int(self._rows[index]))
        if self.budget[index]:
            return files
        return ScanFiles(files.points, None, files.images)

    def column_files(self, index: int) -> dict[str, Path]:
        """Files of ``dataset.columns`` of the scan."""
        return self.whole.column_files(int(self._rows[index]))

    def num_points(self, index: int) -> int:
        """Count the points of the scan."""
        return self.whole.num_points(int(self._rows[index]))

    def index_of(self, token: str) -> int:
        """Position of the scan called ``token``.

        Raises:
            UserError: the split has no such scan, or the budget leaves it out.
        """
        row = self.whole.index_of(token)
        position = int(np.searchsorted(self._rows, row))
        if position == len(self._rows) or self._rows[position] != row:
            raise self._unknown_token(token)
        return position

    def gaps(self) -> list[Gap]:
        """What the whole split lacks."""
        return self.whole.gaps()

    def describe(self) -> str:
        """One line that also says how many scans have labels."""
        return f"{self.whole.describe()}, {int(self.budget.sum())} of them labelled"


def with_budget(whole: ScanDataset, budget: LabelBudget, *, rest: bool) -> BudgetedScans:
    """The split under a label budget.

    Args:
        rest: the other scans stay, without labels.

    Raises:
        UserError: see :func:`core.datasets.budget.labelled_scans`.
    """
    tokens = [whole.token(i) for i in range(len(whole))]
    scenes = [whole.scene(i) for i in range(len(whole))]
    dataset = BudgetedScans(whole, labelled_scans(budget, tokens, scenes), rest=rest)
    folder = whole.config.pseudo_labels
    if folder is not None and rest:
        least = whole.config.pseudo_confidence
        dataset.pseudo = PseudoLabels.open(folder, least, whole.labels, dataset.labelled_digest)
    return dataset
