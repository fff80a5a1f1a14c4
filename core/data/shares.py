"""Batches with a given share of unlabelled scans, as a function of (seed, epoch) alone."""

from __future__ import annotations

import numpy as np

from core.data.sampler import ORDER, EpochSampler, SampleKey
from core.errors import UserError

__all__ = ["SharedSampler"]


class SharedSampler(EpochSampler):
    """Batches of which each process fills the same share with unlabelled scans.

    An epoch ends when every scan has been seen, so that the fewer kind comes several times, in a new order each time.
    A batch holds its labelled scans first.

    Args:
        labelled: bool [N], whether each scan of the split has labels.
        batch_size: scans per process and step. share: of them that are unlabelled, in (0, 1).

    Raises:
        UserError: a batch cannot hold both kinds, or the split lacks one of them.
    """

    def __init__(
        self,
        labelled: np.ndarray,
        batch_size: int,
        share: float,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        self.kinds = (np.flatnonzero(labelled), np.flatnonzero(~labelled))
        unlabelled = round(share * batch_size)
        self.sizes = (batch_size - unlabelled, unlabelled)
        for size, rows, name in zip(self.sizes, self.kinds, ("labelled", "unlabelled")):
            if size == 0:
                raise UserError(
                    f"a batch of {batch_size} scans with a share of {share:g} unlabelled ones has no {name} scan",
                    where="key 'dataset.unlabelled_share'",
                    cure="Take a larger batch_size, or another share",
                )
            if not len(rows):
                raise UserError(f"the training split has no {name} scan", where="key 'dataset'")
        super().__init__(len(labelled), batch_size, rank=rank, world=world, seed=seed)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every scan has been seen."""
        steps = [-(-len(rows) // (size * self.world)) for rows, size in zip(self.kinds, self.sizes)]
        return max(steps)

    def _order(self) -> np.ndarray:
        """Scans of the epoch by step, process and place in the batch: i64 [steps * world * batch]."""
        steps = self.steps_per_epoch * self.world
        parts = []
        for kind, (rows, size) in enumerate(zip(self.kinds, self.sizes)):
            rounds = -(-steps * size // len(rows))
            orders = []
            for turn in range(rounds):
                rng = np.random.default_rng([self.seed, self.epoch, 1 + kind + 2 * turn, ORDER])
                orders.append(rows[rng.permutation(len(rows))])
            parts.append(np.concatenate(orders)[: steps * size].reshape(steps, size))
        return np.concatenate(parts, 1).reshape(-1)

    def _batch(self, order: np.ndarray, step: int) -> list[SampleKey]:
        begin = (step * self.world + self.rank) * self.batch_size
        return [
            SampleKey(self.epoch, index)
            for index in order[begin : begin + self.batch_size].tolist()
        ]
