"""Samples and batches on worker processes, with errors a person can read."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from core.contracts import Batch, Pair
from core.data.sampler import EpochSampler, SampleKey
from core.data.samples import Samples
from core.data.workers import leave_on_signals, worker_context
from core.errors import UserError

__all__ = ["BatchLoader", "build_loader"]


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way out of a worker; raised there, torch would wrap it in a traceback."""

    error: UserError


class _Batches(Dataset):
    """Whole batches by their keys."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, keys: list[SampleKey]) -> Any:
        try:
            return self.samples.collate([self.samples[key] for key in keys])
        except UserError as error:
            return _Failure(error)


class BatchLoader:
    """Batches of one process, epoch by epoch.

    Workers live as long as the loader: a key carries its epoch, so they have nothing to be told.

    Attributes:
        sampler: the order of the scans.
    """

    def __init__(self, loader: DataLoader, sampler: EpochSampler, samples: Samples) -> None:
        self._loader, self.sampler, self._samples = loader, sampler, samples

    @property
    def samples(self) -> Samples:
        """What the workers make batches from."""
        return self._samples

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch (from 0) of the next iteration, and the step it begins at."""
        self.sampler.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch | Pair]:
        """Batches; pairs of them for :class:`PairedSamples`.

        Raises:
            UserError: a scan is damaged and the policy is to stop, or a worker died.
        """
        try:
            for batch in self._loader:
                if isinstance(batch, _Failure):
                    raise batch.error
                yield batch
        except (RuntimeError, OSError, EOFError) as error:
            death = self._death()
            self.close()
            if death is None:
                raise
            raise death from error
        except UserError:
            self.close()
            raise

    def _death(self) -> UserError | None:
        """How a worker died, if one did; a batch cut short may arrive a moment before the news of it."""
        workers = getattr(self._loader._iterator, "_workers", [])
        ended = (
            connection.wait([worker.sentinel for worker in workers], timeout=1.0) if workers else []
        )
        if not ended:
            return None
        dead = next(worker for worker in workers if worker.sentinel == ended[0])
        dead.join(1.0)  # its files close a moment before its exit code is known
        code = dead.exitcode or 0
        how = (
            f"was killed by signal: {signal.strsignal(-code)}"
            if code < 0
            else "ended without an error message"
        )
        return UserError(
            f"a data-loading worker {how}. The usual causes are too little memory (the system stops the largest "
            "process) or too little shared memory for the batches on their way to the trainer",
            where="workers_per_gpu",
            cure="Lower workers_per_gpu (0 loads in the trainer itself), free some memory, or give a container more "
            "/dev/shm (docker run --shm-size=8g)",
        )

    def close(self) -> None:
        """Stop the workers now; a later iteration starts new ones.

        Left to the garbage collector, which an error's traceback invites, each worker would be waited for in vain for
        five seconds: its queue is collected before it can be told to stop.
        """
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()


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

    Args:
        samples: what batches are made of.
        batch_size: scans per process and step.
        workers: loading processes; 0 loads in this one.
        seed: of the run: the order of the scans.
        shuffle: None = as ``training``.
    """
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
    options: dict[str, Any] = {}
    # Torch would report a dead worker from a signal handler, that is anywhere, more than once, and even while workers
    # start. Without the handler it sees the death within five seconds when it waits for a batch.
    signal_handling._SIGCHLD_handler_set = True
    if workers:
        options = {
            "multiprocessing_context": worker_context(),
            "persistent_workers": True,
            "worker_init_fn": _start_worker,
            "prefetch_factor": 2,
        }
    loader = DataLoader(
        _Batches(samples),
        batch_size=None,
        sampler=sampler,
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(
            seed
        ),  # each pass draws from it; the network's stream stays untouched
        **options,
    )
    return BatchLoader(loader, sampler, samples)


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """One thread per worker: the cores belong to the workers and the trainer, and OpenMP does not survive a fork."""
    torch.set_num_threads(1)
    leave_on_signals()
