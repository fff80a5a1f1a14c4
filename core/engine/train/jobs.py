"""Training: one job under several names. From the newest checkpoint to the last epoch, then the best weights' score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from loguru import logger
from torch import nn

from core.config import Config
from core.data.labelled import Unlabelled, check_labelled, find_unlabelled
from core.datasets.base import ScanDataset
from core.distill import SUPERVISED, Needs, Score, method_class
from core.engine.run.checkpoint import LAST
from core.engine.run.context import Context
from core.engine.run.distributed import (
    World,
    barrier,
    from_rank_zero,
    join_over_ranks,
    sole_job,
)
from core.engine.run.run_dir import RunDir
from core.engine.run.starting_weights import warn_of_other_cells
from core.engine.run.stopping import STOP
from core.engine.run.store import write_final
from core.engine.train.announce import announce, summarise
from core.engine.train.best_score import best_score
from core.engine.train.callbacks import (
    Checkpoints,
    Evaluation,
    HeapTrimming,
    JSONLines,
    Resume,
    TensorBoard,
)
from core.engine.train.continuing import open_run
from core.engine.train.progress import EpochLog, Progress
from core.engine.train.requirements import (
    check_data,
    check_labels,
    check_score,
    check_view,
    chosen_score,
    compare_inputs,
)
from core.engine.train.sources import teacher_source
from core.engine.train.split import (
    record_of,
    scans_identity,
    tell_of_scans,
)
from core.engine.train.stored_logits import check_stored_logits
from core.engine.train.teacher import FrozenTeacher, load_teacher
from core.engine.train.trainer import Trainer
from core.engine.train.validation import validation
from core.errors import UserError
from core.io import write_json
from core.models import Adapting, adapt

__all__ = ["build_trainer", "pretrain", "train", "train_student", "train_teacher"]


def train_teacher(
    world: World, config: Config, run_path: Path, *, profile: int | None = None
) -> None:
    """:func:`train` a network with its labels alone.

    Raises:
        UserError: the configuration is a student's, or gets something else wrong.
    """
    section = config.tree.get("distill")
    if section is not None and section != {"name": SUPERVISED}:
        raise UserError(
            "this is a student's configuration",
            where=config.origin("distill"),
            cure="Run train_student.py with it",
        )
    train(world, config, run_path, profile=profile)


def train_student(
    world: World, config: Config, run_path: Path, *, profile: int | None = None
) -> None:
    """:func:`train` by the method that the ``distill`` section names.

    Raises:
        UserError: the configuration has no ``distill`` section, or gets something else wrong.
    """
    if config.tree.get("distill") is None:
        raise UserError(
            "key 'distill.name' is missing, so this is no student's configuration",
            where=config.origin("distill.name"),
            cure="Name a method, e.g. --distill.name u2mkd, or run train_teacher.py with it",
        )
    if not _needs(config).labels:
        raise UserError(
            f"'{config.get('distill.name')}' learns without labels, which is a pre-training",
            where=config.origin("distill.name"),
            cure="Run pretrain.py with it",
        )
    train(world, config, run_path, profile=profile)


def pretrain(world: World, config: Config, run_path: Path, *, profile: int | None = None) -> None:
    """:func:`train` by a method that learns without labels.

    Raises:
        UserError: the configuration's method needs labels, or it gets something else wrong.
    """
    if config.tree.get("distill") is None or _needs(config).labels:
        name = config.get("distill.name") or SUPERVISED
        raise UserError(
            f"'{name}' learns from labels, so this is no pre-training",
            where=config.origin("distill.name"),
            cure="Name a method without labels, e.g. --distill.name slidr, or run train_student.py with it",
        )
    train(world, config, run_path, profile=profile)


def _needs(config: Config) -> Needs:
    return config.parse(method_class(config).Config, "distill").needs


def train(world: World, config: Config, run_path: Path, *, profile: int | None = None) -> None:
    """Train by the configuration's method, measure the weights as it goes, write the report.

    Whatever is wrong with the configuration stops the job before the run folder is touched.

    Args:
        profile: measure this many steps in place of all that; the run folder gets their profile alone.

    Raises:
        UserError: anything the configuration gets wrong, a missing or unfit teacher, …
    """
    started = time.perf_counter()
    STOP.doing = "preparing the training"
    context = Context.open(config, world)
    kind = method_class(config)
    settings = config.parse(kind.Config, "distill")
    check_data(context, settings.needs)
    train_set, val_set = context.dataset("train", training=True), context.dataset("val")
    if settings.needs.labels:
        check_labels(train_set, "so there is nothing to learn from")
        check_labelled(train_set, context.data)
    check_stored_logits(settings.needs, train_set)
    unscored = None
    if settings.needs.labels or kind.predicts_classes():
        check_labels(val_set, "so nothing can be scored")
        unscored = find_unlabelled(val_set, context.data)
    score = chosen_score(context, kind, val_set)
    check_score(context, settings.needs, score)
    check_view(context, settings.needs)
    teacher = None
    if settings.needs.teacher and context.experiment.teacher.source == "checkpoint":
        teacher = load_teacher(config, train_set.labels, world.device)
        if teacher.data.uses_images(training=True):
            train_set.check_images()
    trainer = build_trainer(context, train_set, RunDir(run_path), teacher)
    if profile is not None:
        from core.engine.train.profiling import profile_training

        profile_training(trainer, profile)
        return
    with sole_job(world, run_path, "--run-dir"):
        state = open_run(context, trainer, train_set)
        announce(context, trainer, train_set, val_set, state)
        if unscored is not None:
            logger.warning("{} Nothing can be scored", unscored.error())
        if state is not None and state["global_step"] >= trainer.total_steps:
            if world.rank == 0:
                logger.info("{} is already trained to its last epoch", run_path)
        else:
            _fit(context, trainer, val_set, score, state)
        barrier()
        if unscored is not None:
            raise _without_score(unscored, trainer.run_dir)
        best = trainer.run_dir.best()
        if not kind.predicts_classes() and world.rank == 0:
            best = write_final(best, run_path)
        result = None
        if kind.predicts_classes():
            STOP.doing = "scoring the best weights"
            result = best_score(context, val_set, best, run_path)
    summarise(trainer, result, best, time.perf_counter() - started)


def build_trainer(
    context: Context, train_set: ScanDataset, run_dir: RunDir, teacher: FrozenTeacher | None
) -> Trainer:
    """The trainer before its first step; with ``teacher.cache`` the teacher has looked at every scan.

    Args:
        teacher: for methods that need one.

    Raises:
        UserError: anything the configuration gets wrong.
    """
    config, labels = context.config, train_set.labels
    kind = method_class(config)
    settings = config.parse(kind.Config, "distill")
    criterion = context.experiment.criterion_for(labels.num_classes)
    fresh = from_rank_zero(lambda: not run_dir.checkpoints.started())
    student = context.model(kind.outputs(settings, labels), pretrained=fresh)
    if not fresh:
        _adapt_to_run(student, run_dir)
    network = student if teacher is None else teacher.network  # looked at for its widths
    with context.seeded():
        method = kind(settings, student, network, criterion)
    method.name_classes(labels.classes)
    trainable = context.experiment.train.trainable
    method.freeze(None if trainable == "all" else trainable)
    begun_from = None
    if fresh:
        method.load_pretrained()
        begun_from = context.start_from_other_run(method)
    source = teacher_source(context, teacher, needed=bool(settings.needs.teacher))
    record = record_of(train_set, context.data)
    if context.world.rank == 0:
        tell_of_scans(train_set, record, context.data)
    if teacher is not None:
        shown = record_of(train_set, teacher.data)
        compare_inputs(context, teacher.found, teacher.data, shown, "the teacher")
    if begun_from is not None:
        compare_inputs(context, begun_from, context.data, record, "the network to begin with")
        if context.world.rank == 0:
            warn_of_other_cells(begun_from, context.data)
    loader = context.loader_of(source.samples(train_set, training=True), training=True)
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
        "number_type": context.experiment.amp.number_type(context.world.device.type),
        "sensor": None if record is None else record.to_json(),
        "trained_on": train_set.title,
    }
    identity |= scans_identity(train_set)
    if teacher is not None:
        identity["teacher"] = teacher.identity
    return Trainer(context.experiment, method, source, loader, context.world, run_dir, identity)


def _adapt_to_run(student: nn.Module, run_dir: RunDir) -> None:
    """Give the student the form it had when the run was started, before an optimiser counts its parameters."""
    if not any(isinstance(module, Adapting) for module in student.modules()):
        return
    found = run_dir.checkpoints.newest()
    if found is not None:
        adapt(student, found[1]["model"])


def _without_score(unlabelled: Unlabelled, run_dir: RunDir) -> UserError:
    """The end of a training that nothing could measure: its weights are there, a score is not."""
    error = unlabelled.error()
    weights = run_dir.checkpoints.folder / LAST
    return UserError(
        f"{error.what}, so the training has no score; its last weights are {weights}",
        where=error.where,
        cure=error.cure,
    )


def _fit(
    context: Context,
    trainer: Trainer,
    val_set: ScanDataset,
    score: Score,
    state: dict[str, Any] | None,
) -> None:
    experiment, run_dir = context.experiment, trainer.run_dir
    title = experiment.train.title or run_dir.path.resolve().name
    measure = validation(context, trainer, val_set, score)
    start = 0 if state is None else state["global_step"]
    settings = experiment.train
    checkpoints = Checkpoints(score, settings.save_every, settings.save_epochs)
    callbacks = [  # a checkpoint names the state of a callback by its place here
        Resume(state),
        Evaluation(measure, experiment.eval.every),
        EpochLog(title, checkpoints),
        JSONLines(run_dir),
        TensorBoard(run_dir, start),
        Progress(title, score),
        checkpoints,
        HeapTrimming(),
    ]
    with STOP.held():
        trainer.train(trainer.steps, num_epochs=trainer.epochs, callbacks=callbacks)
    skipped = join_over_ranks(trainer.skipped_samples)
    if skipped and context.world.rank == 0:
        path = run_dir.path / "skipped.json"
        write_json(path, skipped)
        logger.warning("{} damaged scans were skipped; see {}", len(skipped), path)
