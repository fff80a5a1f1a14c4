"""Mix augmentation of 2DPASS (Yan et al., ECCV 2022): all instances of a second scan, put into the first.

Nothing is aligned with the ground or tested for collision, and the images show none of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.contracts import Points, Scan
from core.data.augment import flip, rotate
from core.data.beams import with_beams
from core.data.config import AugmentConfig
from core.datasets.base import ScanDataset
from core.errors import UserError

__all__ = ["Mixer", "mix_scans"]


class Mixer:
    """Draws another scan of the data set and adds its instances.

    They are flipped and turned on their own; the sample's augmentation follows for both. A turn by any angle after a
    turn by any angle is again one, so the two parts are oriented independently.

    Args:
        dataset: where the other scans come from; under a label budget only those with labels give and take.
        augment: of the sample, None = the instances are not moved either.
        chance: of a scan to be mixed.
        beams: a view asks which laser each point comes from.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        augment: AugmentConfig | None,
        chance: float,
        beams: bool = False,
    ) -> None:
        self.dataset, self.augment, self.chance = dataset, augment, chance
        self.beams = beams
        labelled = np.ones(len(dataset), bool) if dataset.budget is None else dataset.budget
        self._rows = np.flatnonzero(labelled)

    def __call__(self, scan: Scan, index: int, rng: np.random.Generator) -> Scan:
        """The scan, number ``index`` of the data set, with the other's instances among its keyframe's points.

        Raises:
            UserError: one of the scans is damaged, or has no labels or instance numbers.
        """
        others = self._rows[self._rows != index]
        without_labels = len(others) == len(self._rows)
        if without_labels or not len(others) or rng.random() >= self.chance:
            return scan
        drawn = int(others[rng.integers(len(others))])
        other = self.dataset.load(drawn, cameras=False)
        if self.beams:
            other = with_beams(other)
        xyz = other.xyz
        if self.augment is not None and self.augment.flip_choices:
            xyz = flip(xyz, rng, self.augment.flip_choices)
        if self.augment is not None and self.augment.rotate_range is not None:
            xyz = rotate(xyz, rng, self.augment.rotate_range)
        return mix_scans(scan, other.having(xyz=xyz))


def mix_scans(scan: Scan, other: Scan) -> Scan:
    """``scan`` with the keyframe points of ``other`` that belong to an instance, after its own keyframe's points.

    They are marked as pasted, and their instances' numbers follow those of the scan.

    Raises:
        UserError: one of them has no labels or instance numbers.
    """
    ours, theirs = _instances(scan), _instances(other)
    added = other.points.take(other.keyframe & (theirs > 0))
    if not len(added):
        return scan
    count = int(np.count_nonzero(scan.keyframe))
    first = int(ours.max(initial=0))
    added = added.having(
        instance=added["instance"] + first,
        pasted=np.ones(len(added), bool),
    )
    keyframe, sweeps = scan.points.take(slice(count)), scan.points.take(slice(count, None))
    return replace(scan, points=Points.join(keyframe, added, sweeps))


def _instances(scan: Scan) -> np.ndarray:
    instances = scan.instances
    if scan.labels is None or instances is None:
        raise UserError(
            f"scan {scan.token} has no {'labels' if scan.labels is None else 'instance numbers'}",
            where="data.mix",
            cure="Set data.mix: 0, or let the reader give them (nuScenes: dataset.instances: true)",
        )
    return instances
