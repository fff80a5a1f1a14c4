"""Stage 2: a student learns from labels and from a frozen teacher; the YAML's ``distill`` section names the method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from core.config import Config
from core.contracts import Batch, Pair
from core.data import PairedSamples, ScanSamples
from core.datasets.base import ScanDataset
from core.distill import Knowledge, method_class
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import run_training
from core.engine.train.knowledge_cache import KnowledgeCache
from core.engine.train.teacher import FrozenTeacher, load_teacher
from core.engine.train.trainer import DistillTrainer
from core.errors import UserError

__all__ = ["student_trainer", "train_student"]

Source = Callable[[Batch | Pair], tuple[Batch, Knowledge | None]]


class Distilled:
    """The objective of stage 2: the student's batch and the teacher's knowledge go through the trained module."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, network: nn.Module, batch: Batch | Pair) -> dict[str, Tensor]:
        """Named losses of one batch."""
        return network(*self.source(batch))


def train_student(
    world: World, config: Config, run_path: Path, *, profile: int | None = None
) -> None:
    """Stage 2: train the student, score it each epoch, write the report.

    Args:
        profile: measure this many steps in place of all that.

    Raises:
        UserError: the configuration has no ``distill`` section, the teacher is missing or another one, …
    """
    method = method_class(config)
    context = Context.open(config, world)
    train_set, val_set = context.dataset("train"), context.dataset("val")
    settings = config.parse(method.Config, "distill")
    teacher = (
        load_teacher(config, train_set.labels, world.device) if settings.needs_teacher else None
    )
    run_training(
        context, student_trainer(context, train_set, RunDir(run_path), teacher), val_set, profile
    )


def student_trainer(
    context: Context, train_set: ScanDataset, run_dir: RunDir, teacher: FrozenTeacher | None
) -> DistillTrainer:
    """The trainer of stage 2, before its first step; with ``teacher.cache`` the teacher has looked at every scan."""
    config, labels = context.config, train_set.labels
    kind = method_class(config)
    criterion = context.experiment.criterion_for(labels.num_classes)
    fresh = not run_dir.checkpoints.manifest()
    student = context.model(labels.num_classes, pretrained=fresh)
    with context.seeded():
        network = None if teacher is None else teacher.network
        method = kind(config.parse(kind.Config, "distill"), student, network, criterion)
    if fresh:
        method.load_pretrained()
        context.start_from_other_run(method)
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
    }
    if teacher is not None:
        identity["teacher"] = teacher.identity
    samples, source = _lesson(context, train_set, teacher)
    return DistillTrainer(
        context.experiment,
        method,
        Distilled(source),
        context.loader_of(samples, training=True),
        context.world,
        run_dir,
        identity,
    )


def _lesson(
    context: Context, train_set: ScanDataset, teacher: FrozenTeacher | None
) -> tuple[ScanSamples | PairedSamples, Source]:
    """What is loaded, and where the teacher's part comes from."""
    seed, cache = context.experiment.train.seed, context.experiment.teacher.cache
    alone = ScanSamples(train_set, context.data, training=True, seed=seed)
    if teacher is None:
        return alone, lambda batch: (batch, None)
    if cache is None:
        return PairedSamples(
            train_set, context.data, teacher.data, seed=seed, training=True
        ), teacher
    if context.data.paste is not None or context.data.mix > 0:
        raise UserError(
            "pasted objects are new in every epoch, and what a teacher says about them cannot be kept",
            where="teacher.cache and data.paste or data.mix",
            cure="Leave one of the two out",
        )
    knowledge = KnowledgeCache(
        cache, teacher, context.config.tree["dataset"].get("multisweeps"), context.world.device
    )
    knowledge.fill(train_set, context.world, context.experiment.workers_per_gpu, context.autocast)
    return alone, knowledge
