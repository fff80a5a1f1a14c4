"""Samples and batches on worker processes, with errors a person can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.contracts import Batch, Pair
from core.data.sampler import EpochSampler, SampleKey
from core.data.samples import Samples
from core.data.shares import SharedSampler
from core.machine import usable_cores
from core.processes import WorkerPool

__all__ = ["BatchLoader", "build_loader", "useful_workers"]

_PER_CORE = 2  # workers that wait for a disk leave a core to another one


@dataclass(frozen=True)
class _Batches:
    """Whole batches by their keys."""

    samples: Samples

    def __call__(self, keys: list[SampleKey]) -> Batch | Pair:
        return self.samples.collate([self.samples[key] for key in keys])

    def name(self, keys: list[SampleKey]) -> str:
        """What a batch is called in an error."""
        return "scans " + ", ".join(self.samples.token(key) for key in keys)


class BatchLoader:
    """Batches of one process, epoch by epoch.

    Workers live as long as the loader: a key carries its epoch, so they have nothing to be told.

    Args:
        workers: processes that make batches; 0 makes them in this one.
        pin_memory: batches lie in page-locked memory.

    Attributes:
        samples: what batches are made from. sampler: the order of the scans.
    """

    def __init__(
        self, samples: Samples, sampler: EpochSampler, workers: int, pin_memory: bool = False
    ) -> None:
        self.samples = samples
        self.sampler = sampler
        self._pin = pin_memory
        self._make = _Batches(samples)
        self._pool: WorkerPool | None = None
        if workers > 0:
            self._pool = WorkerPool(self._make, workers, "workers_per_gpu", self._make.name)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch (from 0) of the next iteration, and the step it begins at."""
        self.sampler.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch | Pair]:
        """Batches; pairs of them for :class:`PairedSamples`.

        Raises:
            UserError: a scan is damaged and the policy is to stop, or a worker died or stands still.
        """
        batches: Iterator[Batch | Pair] = map(self._make, self.sampler)
        if self._pool is not None:
            batches = self._pool.run(self.sampler)
        for batch in batches:
            yield batch.pin_memory() if self._pin else batch

    def close(self) -> None:
        """Stop the workers now; a later iteration starts new ones."""
        if self._pool is not None:
            self._pool.close()


def useful_workers(asked: int, scans: int) -> int:
    """Count the worker processes that can have something to do: of ``asked``, so many scans and the cores there are."""
    return min(asked, scans, _PER_CORE * usable_cores())


def build_loader(
    samples: Samples,
    *,
    batch_size: int,
    workers: int,
    training: bool,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
    shuffle: bool | None = None,
    drop_last: bool = False,
) -> BatchLoader:
    """Loader of one process.

    In training on a split with unlabelled scans, each batch has its share of them.

    Args:
        samples: what batches are made of.
        batch_size: scans per process and step.
        workers: loading processes, fewer where not all are useful; 0 loads in this one.
        seed: of the run: the order of the scans.
        shuffle: None = as ``training``.
    """
    workers = useful_workers(workers, len(samples))
    labelled = samples.dataset.budget if training else None
    if labelled is not None and not labelled.all():
        share = samples.dataset.config.unlabelled_share
        shared = SharedSampler(labelled, batch_size, share, rank=rank, world=world, seed=seed)
        return BatchLoader(samples, shared, workers, pin_memory)
    sampler = EpochSampler(
        len(samples),
        batch_size,
        rank=rank,
        world=world,
        seed=seed,
        shuffle=shuffle,
        training=training,
        drop_last=drop_last,
        parts=samples.parts,
    )
    return BatchLoader(samples, sampler, workers, pin_memory)
