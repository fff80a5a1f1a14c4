"""Where a teacher's part of a step comes from: nowhere, its own view, the student's view, the disk, or the student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.contracts import Batch, Pair
from core.data import DataConfig, PairedSamples, ScanSamples
from core.data.config import CELLS, DRAWN
from core.datasets.base import ScanDataset
from core.distill import Method, TeacherOutput
from core.engine.run.context import Context
from core.engine.train.teacher import FrozenTeacher, sweeps_of
from core.engine.train.teacher_cache import TeacherCache
from core.errors import UserError

__all__ = [
    "NoTeacher",
    "OwnView",
    "SelfTeacher",
    "SharedView",
    "Stored",
    "TeacherSource",
    "teacher_source",
]

_DRAWN = {*DRAWN, "eval_images"}
_IMAGES = {"images", "image_size", "planes"}


class TeacherSource(ABC):
    """Decides what is loaded for a step, and gives a method its batch and the teacher's output.

    Args:
        context: of the student's run.

    Attributes:
        network: the teacher's, where one runs in every step.
        average: the running average of what is trained, which the trainer names before the first step; None = there is
            none.
    """

    network: nn.Module | None = None
    average: AveragedModel | None = None

    def __init__(self, context: Context) -> None:
        self.context = context

    def samples(self, dataset: ScanDataset, *, training: bool) -> ScanSamples | PairedSamples:
        """What the loader reads: the student's view alone, if not told otherwise."""
        seed = self.context.experiment.train.seed
        return ScanSamples(dataset, self.context.data, training=training, seed=seed)

    @abstractmethod
    def __call__(self, batch: Batch | Pair) -> tuple[Batch, TeacherOutput | None]:
        """The student's batch, and the teacher's output for its scans; all on one device."""


class NoTeacher(TeacherSource):
    """Labels, or the scans themselves, teach."""

    def __call__(self, batch: Batch | Pair) -> tuple[Batch, None]:
        """The batch as it is."""
        assert isinstance(batch, Batch)
        return batch, None


class OwnView(TeacherSource):
    """The teacher runs in every step on its own view of the scans, augmented independently."""

    def __init__(self, context: Context, teacher: FrozenTeacher) -> None:
        super().__init__(context)
        self.teacher = teacher
        self.network = teacher.network

    def samples(self, dataset: ScanDataset, *, training: bool) -> PairedSamples:
        """Both views of each scan."""
        seed = self.context.experiment.train.seed
        student, teacher = self.context.data, self.teacher.data
        return PairedSamples(dataset, student, teacher, seed=seed, training=training)

    def __call__(self, batch: Batch | Pair) -> tuple[Batch, TeacherOutput]:
        """The student's half of the pair, and the teacher's output on the other."""
        assert isinstance(batch, Pair)
        return batch.student, self.teacher.output(batch.teacher)


class SharedView(TeacherSource):
    """The teacher runs in every step on the student's very batch: same augmentation, cells and kernel maps.

    Raises:
        UserError: the teacher was trained on other cells or values.
    """

    def __init__(self, context: Context, teacher: FrozenTeacher) -> None:
        super().__init__(context)
        self.teacher = teacher
        self.network = teacher.network
        _check_same_cells(context.data, teacher)

    def __call__(self, batch: Batch | Pair) -> tuple[Batch, TeacherOutput]:
        """The batch, and the teacher's output on it, row by row."""
        assert isinstance(batch, Batch)
        return batch, self.teacher.output_on(batch)


class SelfTeacher(TeacherSource):
    """The running average of what is trained, on the student's very batch.

    A mean teacher (Tarvainen and Valpola, NeurIPS 2017): what it knows beyond the labels comes from averaging alone.

    Raises:
        UserError: no average is kept.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.experiment.train.ema is None:
            raise UserError(
                "no running average is kept that could teach",
                where="key 'teacher.source'",
                cure="Set train.ema, e.g. 0.99, or teacher.source: checkpoint",
            )

    @torch.no_grad()
    def __call__(self, batch: Batch | Pair) -> tuple[Batch, TeacherOutput]:
        """The batch, and the averaged student's output on it, row by row."""
        assert isinstance(batch, Batch)
        assert self.average is not None, "train.ema is set"
        method = self.average.module
        assert isinstance(method, Method)
        method.eval()
        self._share_statistics(method)
        return batch, TeacherOutput.shared(batch, method.teach(batch))

    def _share_statistics(self, method: Method) -> None:
        """Take the first process's batch statistics where each has its own: a checkpoint holds those alone."""
        if self.context.world.size > 1 and not self.context.experiment.train.sync_bn:
            for buffer in method.buffers():
                dist.broadcast(buffer, 0)


class Stored(TeacherSource):
    """The teacher has looked at every scan once, and its outputs are read from disk.

    Raises:
        UserError: the scans, or the teacher's view of them, change from epoch to epoch.
    """

    def __init__(self, context: Context, teacher: FrozenTeacher, cache: TeacherCache) -> None:
        super().__init__(context)
        self.cache = cache
        data = context.data
        if data.paste is not None or data.mix > 0 or data.scan_mix is not None:
            raise UserError(
                "what is pasted or mixed in is new in every epoch, so a teacher's output for it cannot be kept",
                where="teacher.cache and data.paste, data.mix or data.scan_mix",
                cure="Leave one of the two out",
            )

    def samples(self, dataset: ScanDataset, *, training: bool) -> ScanSamples | PairedSamples:
        """The student's view; the teacher runs now on scans that are not stored yet."""
        context = self.context
        e = context.experiment
        self.cache.fill(dataset, context.world, e.workers_per_gpu, context.autocast)
        digests = self.cache.digests
        seed = e.train.seed
        return ScanSamples(dataset, context.data, training=training, seed=seed, digests=digests)

    def __call__(self, batch: Batch | Pair) -> tuple[Batch, TeacherOutput]:
        """The batch, and the teacher's stored output for its scans."""
        assert isinstance(batch, Batch)
        return batch, self.cache.read(batch)


def teacher_source(
    context: Context, teacher: FrozenTeacher | None, *, needed: bool = False
) -> TeacherSource:
    """The source that the ``teacher`` section asks for.

    Args:
        needed: the method learns from a teacher; where none is given, that is the student itself.
    """
    section = context.experiment.teacher
    if teacher is None and needed:
        return SelfTeacher(context)
    if teacher is None:
        return NoTeacher(context)
    if section.view == "shared":
        return SharedView(context, teacher)
    if section.cache is None:
        return OwnView(context, teacher)
    device = context.world.device
    made_with = {
        "multisweeps": sweeps_of(context.config),
        "number_type": context.experiment.amp.number_type(device.type),
    }
    cache = TeacherCache(section.cache, teacher, made_with, device)
    return Stored(context, teacher, cache)


def _check_same_cells(student: DataConfig, teacher: FrozenTeacher) -> None:
    skipped = _DRAWN | {*CELLS}
    if not teacher.data.images:
        skipped |= _IMAGES
    ours, theirs = _read_values(student, skipped), _read_values(teacher.data, skipped)
    differing = [
        f"data.{key} is {value!r} for the student and {theirs[key]!r} for the teacher"
        for key, value in ours.items()
        if value != theirs[key]
    ]
    if differing:
        raise UserError(
            f"student and teacher cannot share a view: {'; '.join(differing)}",
            where=f"key 'teacher.view' and {teacher.checkpoint}",
            cure="Give the student the teacher's data section, or set teacher.view: own",
        )


def _read_values(data: DataConfig, skipped: set[str]) -> dict[str, Any]:
    """The keys that say what a network reads, with the cells as one of them."""
    return {"partition": data.cells.model_dump()} | data.model_dump(exclude=skipped)
