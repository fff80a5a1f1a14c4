"""Several views of one scan, for predictions that vote (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np

from core.contracts import Batch, Sample, Scan
from core.data.augment import Change, draw_change
from core.data.collate import collate
from core.data.config import DataConfig, FlipAxes, VoteAugmentConfig
from core.data.sample import Recipe
from core.data.sampler import VOTE, SampleKey, sample_rng
from core.data.samples import Samples
from core.datasets.base import ScanDataset

__all__ = ["MIRRORS", "VoteMode", "VotePlan", "VoteSamples", "cumulative_views"]

VoteMode = Literal["fixed", "mirrors", "points", "legacy_random", "legacy_cumulative"]
MIRRORS: tuple[FlipAxes, ...] = ("none", "x", "y", "xy")  # in PVKD's order
_QUARTER = 90.0  # degrees; mirrored in x, in y and in both, it covers half of a circle


@dataclass(frozen=True)
class VotePlan:
    """Which views of a scan are predicted. A single view is always the scan as recorded.

    Attributes:
        count: views per scan.
        mode: ``fixed``: turned about z in ``count`` equal steps, the first one not at all. ``legacy_random``: drawn as
            ``drawn`` says, from a stream of (seed, position in the data set).
            ``mirrors``: as recorded and mirrored in x, in y and in both, each of them turned by the same ``count / 4``
            angles, equal steps in (-45, 45] degrees that begin with 0: what the training of Cylinder3D and PVKD has
            seen. ``points``: as recorded, view k shows of each cell its point number k. ``legacy_cumulative``: the
            four views of PVKD's published code, see :func:`cumulative_views`.
        flips: ``fixed`` only: every second view is mirrored (x negated) before it is turned.
    """

    count: int
    mode: VoteMode = "fixed"
    flips: bool = False
    drawn: VoteAugmentConfig = field(default_factory=VoteAugmentConfig)
    seed: int = 0

    def of(self, index: int) -> tuple[Change, ...]:
        """The views of scan ``index``."""
        if self.count == 1 or self.mode == "points":
            return (Change(),) * self.count
        if self.mode == "legacy_random":
            rng = sample_rng(self.seed, 0, index, VOTE)
            return tuple(draw_change(rng, self.drawn) for _ in range(self.count))
        if self.mode == "legacy_cumulative":
            return cumulative_views(sample_rng(self.seed, 0, index, VOTE))
        if self.mode == "mirrors":
            return _mirrored_views(self.count // len(MIRRORS))
        return tuple(
            Change(flip="x" if self.flips and k % 2 else "none", degrees=360.0 * k / self.count)
            for k in range(self.count)
        )


def _mirrored_views(turns: int) -> tuple[Change, ...]:
    """Four views of each of ``turns`` angles."""
    views = []
    for k in range(turns):
        degrees = _QUARTER * k / turns
        if degrees > _QUARTER / 2:
            degrees -= _QUARTER
        views += [Change(flip=flip, degrees=degrees) for flip in MIRRORS]
    return tuple(views)


def cumulative_views(rng: np.random.Generator) -> tuple[Change, ...]:
    """Draw the four views that PVKD's published test script votes with, to reproduce what was published with it.

    There each view begins with the points of the one before: it turns them by U(-45, 45) degrees, then mirrors them,
    first not at all, then in x, in y, in both, then scales x and y by U(0.95, 1.05). So mirrors, angles and scales add
    up, and three of the four views are not mirrored. There the draws had no seed.

    Returns:
        each view as one change of the points as recorded.
    """
    views = []
    mirrored, degrees, factor = False, 0.0, 1.0
    for flip in MIRRORS:
        degrees += rng.uniform(-45.0, 45.0)
        if flip in ("x", "y"):
            mirrored = not mirrored
            degrees = -degrees  # to mirror what was turned is to turn the mirrored the other way
        if flip in ("y", "xy"):
            degrees += 180.0  # a mirror in y is one in x and half a turn
        factor *= rng.uniform(0.95, 1.05)
        axes: FlipAxes = "none"
        if mirrored:
            axes = "x"
        views.append(Change(axes, degrees, (factor, factor, 1.0)))
    return tuple(views)


class VoteSamples(Samples[list[Sample]]):
    """The views of each scan, ``chunk`` of them to a batch; the batches of a scan follow one another.

    All views hold the same points in the same order, and their pixels are those of the points as recorded. A process
    reads a scan and decodes its images once for all the batches it makes of them.

    Args:
        indices: positions of the scans, in the order they are wanted; None = all.
        chunk: views in memory at a time.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        config: DataConfig,
        plan: VotePlan,
        chunk: int,
        indices: Sequence[int] | None = None,
    ) -> None:
        cameras = config.uses_images(training=False)
        super().__init__(dataset, config, cameras=cameras, indices=indices)
        self.recipe = Recipe.of(config, training=False)
        self.plan, self.chunk = plan, chunk
        self.parts = -(-plan.count // chunk)
        self._kept: tuple[int, Scan] | None = None

    def _load(self, epoch: int, index: int) -> Scan:
        if self._kept is None or self._kept[0] != index:
            scan = super()._load(epoch, index)
            cameras = tuple(replace(camera, load=cache(camera.load)) for camera in scan.cameras)
            self._kept = index, replace(scan, cameras=cameras)
        return self._kept[1]

    def _make(self, scan: Scan, key: SampleKey) -> list[Sample]:
        first = key.part * self.chunk
        made = []
        for number, change in enumerate(self.plan.of(key.index)[first : first + self.chunk], first):
            visit = number if self.plan.mode == "points" else 0
            made.append(self.recipe.sample(scan, key.index, change=change, visit=visit))
        return made

    @staticmethod
    def _mark(made: list[Sample], padded: bool, skipped: tuple[str, ...]) -> list[Sample]:
        return [replace(sample, padded=padded, skipped=skipped) for sample in made]

    @staticmethod
    def collate(made: Sequence[list[Sample]]) -> Batch:
        """Join the views of the scans of a batch."""
        return collate([sample for views in made for sample in views])
