"""Several views of one scan, for predictions that vote (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from core.contracts import Batch, Sample, Scan
from core.data.augment import Change, draw_change
from core.data.collate import collate
from core.data.config import DataConfig, VoteAugmentConfig
from core.data.sample import Recipe
from core.data.sampler import VOTE, SampleKey, sample_rng
from core.data.samples import Samples
from core.datasets.base import ScanDataset

__all__ = ["VoteMode", "VotePlan", "VoteSamples"]

VoteMode = Literal["fixed", "legacy_random"]


@dataclass(frozen=True)
class VotePlan:
    """Which views of a scan are predicted. A single view is always the scan as recorded.

    Attributes:
        count: views per scan.
        mode: ``fixed``: turned about z in ``count`` equal steps, the first one not at all. ``legacy_random``: drawn as
            ``drawn`` says, from a stream of (seed, position in the data set).
        flips: ``fixed`` only: every second view is mirrored (x negated) before it is turned.
    """

    count: int
    mode: VoteMode = "fixed"
    flips: bool = False
    drawn: VoteAugmentConfig = field(default_factory=VoteAugmentConfig)
    seed: int = 0

    def of(self, index: int) -> tuple[Change, ...]:
        """The views of scan ``index``."""
        if self.count == 1:
            return (Change(),)
        if self.mode == "legacy_random":
            rng = sample_rng(self.seed, 0, index, VOTE)
            return tuple(draw_change(rng, self.drawn) for _ in range(self.count))
        return tuple(
            Change(flip="x" if self.flips and k % 2 else "none", degrees=360.0 * k / self.count)
            for k in range(self.count)
        )


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
        changes = self.plan.of(key.index)[first : first + self.chunk]
        return [self.recipe.sample(scan, key.index, change=change) for change in changes]

    @staticmethod
    def _mark(made: list[Sample], padded: bool, skipped: tuple[str, ...]) -> list[Sample]:
        return [replace(sample, padded=padded, skipped=skipped) for sample in made]

    @staticmethod
    def collate(made: Sequence[list[Sample]]) -> Batch:
        """Join the views of the scans of a batch."""
        return collate([sample for views in made for sample in views])
