"""Samples and batches on worker processes, with errors a person can read."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from loguru import logger
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from core.contracts import Batch, Pair, Sample, Scan
from core.data.collate import collate
from core.data.config import DataConfig, PasteConfig
from core.data.mix import Mixer
from core.data.sample import Recipe
from core.data.sampler import MIX, PASTE, EpochSampler, SampleKey, sample_rng
from core.data.workers import leave_on_signals, worker_context
from core.datasets.base import ScanDataset
from core.errors import UserError

__all__ = [
    "BatchLoader",
    "ChosenScans",
    "PairedSamples",
    "ScanSamples",
    "build_loader",
]

T = TypeVar("T")
_MAX_BAD_IN_A_ROW = 20  # then it is the data set that is damaged, not a scan


class _Samples(ABC, Dataset, Generic[T]):
    """Scan ``key.index`` as ``T``, or under ``skip`` the next undamaged one."""

    dataset: ScanDataset
    parts: int = 1  # batches that together hold what is made from a scan
    seed: int
    training: bool
    cameras: bool
    skip: bool
    paste: Callable[[Scan, np.random.Generator], Scan] | None
    mix: Callable[[Scan, int, np.random.Generator], Scan] | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> T:
        skipped: list[str] = []
        for step in range(min(_MAX_BAD_IN_A_ROW, len(self.dataset)) if self.skip else 1):
            index = (key.index + step) % len(self.dataset)
            try:
                made = self._make(self._load(key.epoch, index), key._replace(index=index))
            except UserError as error:
                if not self.skip:
                    raise
                skipped.append(f"{self.dataset.token(index)}: {error}")
                continue
            # A replacement is a full member of a training batch, and in a score it would count one scan twice.
            return self._mark(
                made, key.padded or (bool(skipped) and not self.training), tuple(skipped)
            )
        raise UserError(
            f"{len(skipped)} scans in a row are damaged; the first: {skipped[0]}",
            cure="Run 'python -m core.check_data CONFIG' to see what is wrong with the data set",
        )

    def _load(self, epoch: int, index: int) -> Scan:
        """The scan with its pasted objects and instances: what all its views have in common."""
        scan = self.dataset.load(index, cameras=self.cameras)
        if self.paste is not None:
            scan = self.paste(scan, sample_rng(self.seed, epoch, index, PASTE))
        return (
            scan
            if self.mix is None
            else self.mix(scan, index, sample_rng(self.seed, epoch, index, MIX))
        )

    @abstractmethod
    def _make(self, scan: Scan, key: SampleKey) -> T: ...

    @staticmethod
    @abstractmethod
    def _mark(made: T, padded: bool, skipped: tuple[str, ...]) -> T: ...

    @staticmethod
    @abstractmethod
    def collate(made: Sequence[T]) -> Any: ...


class ScanSamples(_Samples[Sample]):
    """One view of each scan; a sample is a function of (seed, epoch, index) alone.

    Args:
        dataset: the scans of a split; pickled to workers that are not forked.
        config: how a scan becomes a sample.
        seed: of the run, the same on all processes.
        training: augment, crop and draw cameras as ``config`` says.
        stream: number of the random stream; samples of one scan with different numbers are augmented independently.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        config: DataConfig,
        *,
        seed: int = 0,
        training: bool = False,
        stream: int = 0,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.seed, self.training, self.stream = seed, training, stream
        self.recipe = Recipe.of(config, training)
        self.cameras, self.skip = config.uses_images(training), config.on_bad_sample == "skip"
        self.paste = _paster(dataset, config.paste) if training else None
        self.mix = _mixer(dataset, config) if training else None

    def _make(self, scan: Scan, key: SampleKey) -> Sample:
        rng = sample_rng(self.seed, key.epoch, key.index, self.stream)
        return self.recipe.sample(scan, key.index, rng)

    @staticmethod
    def _mark(made: Sample, padded: bool, skipped: tuple[str, ...]) -> Sample:
        return replace(made, padded=padded, skipped=skipped)

    collate = staticmethod(collate)


class ChosenScans(ScanSamples):
    """Some scans of a data set, in one view and without augmentation; samples keep their position in the data set.

    Args:
        indices: positions of the scans, in the order they are wanted.
    """

    def __init__(self, dataset: ScanDataset, config: DataConfig, indices: Sequence[int]) -> None:
        super().__init__(dataset, config)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: SampleKey) -> Sample:
        return super().__getitem__(key._replace(index=self.indices[key.index]))


class PairedSamples(_Samples[tuple[Sample, Sample]]):
    """A student's and a teacher's view of the same scan, read once and augmented independently.

    A batch is a :class:`Pair`; :func:`core.data.mapping.teacher_voxels` links its rows. Messages
    about damaged scans travel in the student's batch alone, so that they are not reported twice.

    Args:
        dataset: the scans, with the sweeps the teacher needs; ``student.sweeps`` decides whether the student sees them.
        student, teacher: how a scan becomes each view; ``student.on_bad_sample``, ``.paste`` and ``.mix`` hold for
            both, since both see one scan.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        student: DataConfig,
        teacher: DataConfig,
        *,
        seed: int = 0,
        training: bool = False,
    ) -> None:
        self.dataset, self.seed, self.training = dataset, seed, training
        self.student, self.teacher = student, teacher
        self.recipes = (Recipe.of(student, training), Recipe.of(teacher, training))
        self.cameras = student.uses_images(training) or teacher.uses_images(training)
        self.skip = student.on_bad_sample == "skip"
        self.paste = _paster(dataset, student.paste) if training else None
        self.mix = _mixer(dataset, student) if training else None

    def _make(self, scan: Scan, key: SampleKey) -> tuple[Sample, Sample]:
        student, teacher = (
            recipe.sample(scan, key.index, sample_rng(self.seed, key.epoch, key.index, stream))
            for stream, recipe in enumerate(self.recipes)
        )
        return student, teacher

    @staticmethod
    def _mark(
        made: tuple[Sample, Sample], padded: bool, skipped: tuple[str, ...]
    ) -> tuple[Sample, Sample]:
        return replace(made[0], padded=padded, skipped=skipped), replace(made[1], padded=padded)

    @staticmethod
    def collate(made: Sequence[tuple[Sample, Sample]]) -> Pair:
        students, teachers = zip(*made)
        return Pair(collate(students), collate(teachers))


def _paster(
    dataset: ScanDataset, config: PasteConfig | None
) -> Callable[[Scan, np.random.Generator], Scan] | None:
    """The paste augmentation, which only jobs that ask for it import."""
    if config is None:
        return None
    from core.data.instances.paste import Paster, foreign_scans

    paster = Paster(config, dataset.labels)
    foreign = foreign_scans(paster.database, {dataset.token(i) for i in range(len(dataset))})
    if foreign:
        logger.warning(
            f"{foreign} scans of the instance database {config.database} are not in this training split; if they are "
            "validation scans, the score is worth nothing: write a database with this configuration"
        )
    return paster


def _mixer(dataset: ScanDataset, config: DataConfig) -> Mixer | None:
    return Mixer(dataset, config.augment, config.mix) if config.mix > 0 else None


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way out of a worker; raised there, torch would wrap it in a traceback."""

    error: UserError


class _Batches(Dataset):
    """Whole batches by their keys."""

    def __init__(self, samples: _Samples) -> None:
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

    def __init__(self, loader: DataLoader, sampler: EpochSampler) -> None:
        self._loader, self.sampler = loader, sampler

    @property
    def samples(self) -> _Samples:
        """What the workers make batches from."""
        return self._loader.dataset.samples

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
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


def build_loader(
    samples: _Samples,
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
        samples: :class:`ScanSamples` or :class:`PairedSamples`.
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
    signal_handling.SIGCHLD_handler_set = True
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
    return BatchLoader(loader, sampler)


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """One thread per worker: the cores belong to the workers and the trainer, and OpenMP does not survive a fork."""
    torch.set_num_threads(1)
    leave_on_signals()
