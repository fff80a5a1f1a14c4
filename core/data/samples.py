"""What a loader makes of each scan: one sample, a student's and a teacher's, or one per vote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, Literal, TypeVar

import numpy as np
from loguru import logger
from torch.utils.data import Dataset

from core.contracts import Batch, Pair, Sample, Scan
from core.data.beams import with_beams
from core.data.collate import collate
from core.data.config import DataConfig
from core.data.content import scan_digest
from core.data.mix import Mixer
from core.data.paste_config import PasteAugmentation, PasteSection
from core.data.sample import Recipe
from core.data.sampler import MIX, PASTE, SCAN_MIX, SampleKey, sample_rng
from core.data.scan_mix import ScanMixer
from core.datasets.base import ScanDataset
from core.errors import UserError

__all__ = ["ChosenScans", "Digests", "PairedSamples", "Samples", "ScanSamples"]

T = TypeVar("T")
Together = tuple[Sample, Sample]
Digests = Literal["points", "images"]
_MAX_BAD_IN_A_ROW = 20  # then it is the data set that is damaged, not a scan


class Samples(ABC, Dataset, Generic[T]):
    """Scan ``key.index`` as ``T``, or under ``data.on_bad_sample: skip`` the next undamaged one.

    Args:
        dataset: the scans of a split; pickled to workers that are not forked.
        data: of the student, where there are several views: its policy on damaged scans, paste and mix hold for all.
        cameras: images are wanted.
        beams: a view asks which laser each point comes from.
        seed: of the run, the same on all processes.
        training: augment, paste and mix.
        indices: positions of the scans that are wanted, in this order; None = all.
    """

    parts: int = 1  # batches that together hold what is made from a scan

    def __init__(
        self,
        dataset: ScanDataset,
        data: DataConfig,
        *,
        cameras: bool,
        beams: bool = False,
        seed: int = 0,
        training: bool = False,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.dataset, self.seed, self.training = dataset, seed, training
        self.cameras, self.beams, self.indices = cameras, beams, indices
        self.skip = data.on_bad_sample == "skip"
        self.paste = _paster(dataset, data.paste) if training else None
        self.mix = _mixer(dataset, data, beams) if training else None
        self.scan_mix = _scan_mixer(dataset, data, beams) if training else None

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def __getitem__(self, key: SampleKey) -> T:
        wanted = key.index if self.indices is None else self.indices[key.index]
        tries = min(_MAX_BAD_IN_A_ROW, len(self.dataset)) if self.skip else 1
        skipped: list[str] = []
        for step in range(tries):
            index = self._in_place_of(wanted, step)
            try:
                made = self._make(self._load(key.epoch, index), replace(key, index=index))
            except UserError as error:
                if not self.skip:
                    raise
                skipped.append(f"{self.dataset.token(index)}: {error}")
                continue
            # A replacement is a full member of a training batch, and in a score it would count one scan twice.
            repeated = bool(skipped) and not self.training
            return self._mark(made, key.padded or repeated, tuple(skipped))
        raise UserError(
            f"{len(skipped)} scans in a row are damaged; the first: {skipped[0]}",
            cure="Run 'python -m core.check_data CONFIG' to see what is wrong with the data set",
        )

    def _in_place_of(self, wanted: int, step: int) -> int:
        """The scan so many places after ``wanted``; one with labels is followed by one with labels, and so on."""
        budget = self.dataset.budget
        if budget is None or step == 0:
            return (wanted + step) % len(self.dataset)
        rows = np.flatnonzero(budget == budget[wanted])
        return int(rows[(np.searchsorted(rows, wanted) + step) % len(rows)])

    def token(self, key: SampleKey) -> str:
        """The name of the scan that is asked for."""
        wanted = key.index if self.indices is None else self.indices[key.index]
        return self.dataset.token(wanted)

    def _load(self, epoch: int, index: int) -> Scan:
        """The scan with its pasted objects and instances: what all its views have in common."""
        scan = self.dataset.load(index, cameras=self.cameras)
        unlabelled = self._unlabelled(index)
        if unlabelled:
            scan = replace(scan, images_optional=True)
        if self.beams:  # before anything is mixed in: an estimate goes by the order of the points
            scan = with_beams(scan)
        if self.paste is not None and not unlabelled:
            scan = self.paste(scan, sample_rng(self.seed, epoch, index, PASTE))
        if self.mix is not None:
            scan = self.mix(scan, index, sample_rng(self.seed, epoch, index, MIX))
        if self.scan_mix is not None:
            scan = self.scan_mix(scan, index, sample_rng(self.seed, epoch, index, SCAN_MIX))
        return scan

    def _unlabelled(self, index: int) -> bool:
        """A training scan that a label budget left without labels."""
        budget = self.dataset.budget
        return budget is not None and not budget[index]

    @abstractmethod
    def _make(self, scan: Scan, key: SampleKey) -> T: ...

    @staticmethod
    @abstractmethod
    def _mark(made: T, padded: bool, skipped: tuple[str, ...]) -> T: ...

    @staticmethod
    @abstractmethod
    def collate(made: Sequence[T]) -> Batch | Pair:
        """Join what was made of the scans of a batch."""


class ScanSamples(Samples[Sample]):
    """One view of each scan; a sample is a function of (seed, epoch, index) alone.

    Args:
        dataset, seed, training, indices: see :class:`Samples`.
        config: how a scan becomes a sample.
        stream: number of the random stream; samples of one scan with different numbers are augmented independently.
        digests: samples carry the digest of their scan: of its points, or of its images too; None = none.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        config: DataConfig,
        *,
        seed: int = 0,
        training: bool = False,
        stream: int = 0,
        indices: Sequence[int] | None = None,
        digests: Digests | None = None,
    ) -> None:
        cameras = config.uses_images(training) or digests == "images"
        super().__init__(
            dataset,
            config,
            cameras=cameras,
            beams=config.beams is not None,
            seed=seed,
            training=training,
            indices=indices,
        )
        self.config, self.stream, self.digests = config, stream, digests
        self.recipe = Recipe.of(config, training)

    def _make(self, scan: Scan, key: SampleKey) -> Sample:
        rng = sample_rng(self.seed, key.epoch, key.index, self.stream)
        sample = self.recipe.sample(scan, key.index, rng)
        if self.digests is None:
            return sample
        images = None
        if self.digests == "images":
            images = self.dataset.image_digests(key.index)
        return replace(sample, content=scan_digest(scan, images))

    @staticmethod
    def _mark(made: Sample, padded: bool, skipped: tuple[str, ...]) -> Sample:
        return replace(made, padded=padded, skipped=skipped)

    @staticmethod
    def collate(made: Sequence[Sample]) -> Batch:
        """Join the samples of a batch."""
        return collate(made)


class ChosenScans(ScanSamples):
    """Some scans of a data set, in one view and without augmentation; samples keep their position in the data set."""

    def __init__(
        self,
        dataset: ScanDataset,
        config: DataConfig,
        indices: Sequence[int],
        digests: Digests | None = None,
    ) -> None:
        super().__init__(dataset, config, indices=indices, digests=digests)


class PairedSamples(Samples[Together]):
    """A student's and a teacher's view of the same scan, read once and augmented independently.

    A batch is a :class:`Pair`; :func:`core.data.mapping.teacher_voxels` links its rows. Messages about damaged scans
    travel in the student's batch alone, so that they are not reported twice.

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
        cameras = student.uses_images(training) or teacher.uses_images(training)
        beams = student.beams is not None or teacher.beams is not None
        super().__init__(
            dataset, student, cameras=cameras, beams=beams, seed=seed, training=training
        )
        self.student, self.teacher = student, teacher
        self.recipes = (Recipe.of(student, training), Recipe.of(teacher, training))

    def _make(self, scan: Scan, key: SampleKey) -> Together:
        student, teacher = (
            recipe.sample(scan, key.index, sample_rng(self.seed, key.epoch, key.index, stream))
            for stream, recipe in enumerate(self.recipes)
        )
        return student, teacher

    @staticmethod
    def _mark(made: Together, padded: bool, skipped: tuple[str, ...]) -> Together:
        return replace(made[0], padded=padded, skipped=skipped), replace(made[1], padded=padded)

    @staticmethod
    def collate(made: Sequence[Together]) -> Pair:
        """Join the pairs of a batch."""
        students, teachers = zip(*made)
        return Pair(collate(students), collate(teachers))


def _paster(dataset: ScanDataset, config: PasteSection | None) -> PasteAugmentation | None:
    if config is None:
        return None
    paster = config.paster(dataset.labels)
    rows = range(len(dataset)) if dataset.budget is None else np.flatnonzero(dataset.budget)
    foreign = paster.foreign_scans({dataset.token(int(i)) for i in rows})
    if foreign:
        logger.warning(
            f"{foreign} scans of the instance database {config.database} are not labelled ones of this training split; "
            "if they are validation scans, the score is worth nothing: write a database with this configuration"
        )
    return paster


def _mixer(dataset: ScanDataset, config: DataConfig, beams: bool) -> Mixer | None:
    return Mixer(dataset, config.augment, config.mix, beams) if config.mix > 0 else None


def _scan_mixer(dataset: ScanDataset, config: DataConfig, beams: bool) -> ScanMixer | None:
    if config.scan_mix is None:
        return None
    things = [dataset.labels.classes.index(name) for name in dataset.labels.things]
    return ScanMixer(dataset, config.scan_mix, things, beams)
