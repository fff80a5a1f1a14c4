"""Which scans each process takes at each step, as a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Sampler

from core.errors import UserError

__all__ = ["MIX", "ORDER", "PASTE", "SCAN_MIX", "VOTE", "EpochSampler", "SampleKey", "sample_rng"]

ORDER = 0xFFFFFFFF  # the stream that shuffles an epoch; views of a sample use 0, 1, ...
PASTE = 0xFFFFFFFE  # the stream of what all views of a scan share: pasted objects
MIX = 0xFFFFFFFD  # the same of another scan's instances
SCAN_MIX = 0xFFFFFFFB  # the same of parts of another scan
VOTE = 0xFFFFFFFC  # the stream that draws the views a vote is taken of


@dataclass(frozen=True)
class SampleKey:
    """What a worker needs to make a sample: no state travels by any other way.

    Attributes:
        epoch: counts from 0. index: position in the data set.
        padded: repeats a scan to even out the processes; never counts in a score.
        part: which part of what is made from the scan, where that comes in several batches.
    """

    epoch: int
    index: int
    padded: bool = False
    part: int = 0


def sample_rng(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """The generator of a stream of one scan in an epoch; ``stream`` 0 equals ``default_rng([seed, epoch, index])``."""
    return np.random.default_rng([seed, epoch, index, stream])


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of keys for one process.

    At step ``s`` the ``world`` processes together take the samples that one process with batches of
    ``world * batch_size`` takes, process ``r`` the r-th block of them. In training the last incomplete step is filled
    from the start of the epoch's order (or dropped). In evaluation every scan counts once: the last step is smaller,
    and at most ``world - 1`` repetitions, marked ``padded``, keep the processes in step.

    Args:
        num_samples: scans in the split.
        batch_size: scans per process and step.
        shuffle: a new order each epoch; None = as ``training``.
        parts: each batch is given so many times in a row, with the part's number in its keys.

    Raises:
        UserError: no scans, or fewer than one step with ``drop_last``.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        shuffle: bool | None = None,
        training: bool = True,
        drop_last: bool = False,
        parts: int = 1,
    ) -> None:
        if num_samples < 1:
            raise UserError(
                "the split has no scans", cure="Run 'python -m core.check_data CONFIG' to see why"
            )
        if not 0 <= rank < world or batch_size < 1:
            raise ValueError(f"rank {rank} of {world} with batches of {batch_size}")
        self.num_samples, self.batch_size, self.rank, self.world = (
            num_samples,
            batch_size,
            rank,
            world,
        )
        self.seed, self.training = seed, training
        self.shuffle = training if shuffle is None else shuffle
        self.drop_last = drop_last and training
        self.parts = parts
        self.epoch = self.start_step = 0
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{num_samples} scans do not fill one step of {world} x {batch_size}",
                where="batch_size",
                cure="Use a smaller batch or fewer processes",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size * self.world)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch (from 0) and the step it begins at; the steps that follow are those of the whole epoch."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch}")
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.start_step) * self.parts

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # The whole list at once: a change of epoch while the loader reads ahead must not reach into this epoch.
        order = self._order()
        batches = [
            self._batch(order, step) for step in range(self.start_step, self.steps_per_epoch)
        ]
        return iter(
            [
                [replace(key, part=part) for key in keys]
                for keys in batches
                for part in range(self.parts)
            ]
        )

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_samples)
        return np.random.default_rng([self.seed, self.epoch, 0, ORDER]).permutation(
            self.num_samples
        )

    def _batch(self, order: np.ndarray, step: int) -> list[SampleKey]:
        joined = self.batch_size * self.world
        begin, size = step * joined, self.batch_size
        if not self.training:
            size = min(size, -(-(self.num_samples - begin) // self.world))
        places = begin + self.rank * size + np.arange(size)
        return [
            SampleKey(
                self.epoch,
                int(order[place % self.num_samples]),
                not self.training and place >= self.num_samples,
            )
            for place in places.tolist()
        ]
