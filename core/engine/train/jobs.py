"""Training: one job under several names. From the newest checkpoint to the last epoch, then the best weights' score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from loguru import logger
from torch import nn

from core.config import Config
from core.data import DataConfig
from core.data.labelled import Unlabelled, check_labelled, find_unlabelled, missing_labels
from core.data.sensor_record import SensorRecord
from core.datasets import dataset_class
from core.datasets.base import ScanDataset
from core.distill import SUPERVISED, Method, Needs, Score, method_class
from core.engine.run.checkpoint import LAST, read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import (
    World,
    barrier,
    from_rank_zero,
    join_over_ranks,
    sole_job,
)
from core.engine.run.experiment import AmpConfig
from core.engine.run.run_dir import RunDir
from core.engine.run.starting_weights import warn_of_other_cells
from core.engine.run.stopping import STOP
from core.engine.run.store import write_final
from core.engine.run.trained import TrainedNetwork
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
from core.engine.train.progress import EpochLog, Progress
from core.engine.train.sources import teacher_source
from core.engine.train.split import (
    check_same_scans,
    record_of,
    scans_identity,
    tell_of_scans,
    write_labelled,
)
from core.engine.train.stored_logits import check_stored_logits
from core.engine.train.teacher import FrozenTeacher, load_teacher
from core.engine.train.trainer import Trainer
from core.engine.train.validation import validation
from core.errors import UserError
from core.io import write_json
from core.models import Adapting, adapt

__all__ = ["build_trainer", "chosen_score", "pretrain", "train", "train_student", "train_teacher"]


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
    _check_data(context, settings.needs)
    train_set, val_set = context.dataset("train", training=True), context.dataset("val")
    if settings.needs.labels:
        _check_labels(train_set, "so there is nothing to learn from")
        check_labelled(train_set, context.data)
    check_stored_logits(settings.needs, train_set)
    unscored = None
    if settings.needs.labels or kind.predicts_classes():
        _check_labels(val_set, "so nothing can be scored")
        unscored = find_unlabelled(val_set, context.data)
    score = chosen_score(context, kind, val_set)
    _check_score(context, settings.needs, score)
    teacher = None
    _check_view(context, settings.needs)
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
        state = _open_run(context, trainer, train_set)
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
        _compare_inputs(context, teacher.found, teacher.data, shown, "the teacher")
    if begun_from is not None:
        _compare_inputs(context, begun_from, context.data, record, "the network to begin with")
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


def chosen_score(context: Context, kind: type[Method], val_set: ScanDataset) -> Score:
    """What decides on the best weights: ``eval.select``, else what the method says.

    Raises:
        UserError: an IoU is asked of a method that predicts no classes, or of an unknown class.
    """
    select = context.experiment.eval.select
    if select is None:
        return kind.score
    score = Score.parse(select, val_set.labels.classes)
    if score.kind == "iou" and not kind.predicts_classes():
        raise UserError(
            "this method's outputs are no classes, so they have no IoU",
            where="key 'eval.select'",
            cure="Choose loss or none",
        )
    return score


def _check_data(context: Context, needs: Needs) -> None:
    """Refuse ``data:`` and ``dataset:`` sections without what the method learns from."""
    config = context.config
    reader = dataset_class(config)
    if needs.labels and not config.parse(reader.Config, "dataset").use_labels:
        raise UserError(
            "this method learns from labels, and none are read",
            where=f"{config.origin('dataset.use_labels')}, key 'dataset.use_labels'",
            cure="Set dataset.use_labels: true, or choose a method that learns without labels",
        )
    if needs.images and not context.data.images:
        raise UserError(
            "this method learns from images, and batches have none",
            where=f"{context.config.origin('data.images')}, key 'data.images'",
            cure="Set data.images: true, or choose terms of the method that do without",
        )
    missing = [name for name in needs.planes if name not in context.data.planes]
    if missing:
        raise UserError(
            f"this method learns from the maps {', '.join(missing)}, and batches have none",
            where=f"{context.config.origin('data.planes')}, key 'data.planes'",
            cure=f"Name them: data.planes: [{', '.join(needs.planes)}]",
        )


def _check_view(context: Context, needs: Needs) -> None:
    """Refuse a view of the teacher's own where the method compares cell by cell."""
    section = context.experiment.teacher
    if needs.shared and section.source == "checkpoint" and section.view != "shared":
        raise UserError(
            "this method compares student and teacher cell by cell and point by point, and the teacher has a view of "
            "its own",
            where=f"{context.config.origin('teacher.view')}, key 'teacher.view'",
            cure="Set teacher.view: shared and leave teacher.cache out",
        )


def _check_labels(dataset: ScanDataset, consequence: str) -> None:
    """Refuse a split of which no scan has labels."""
    error = missing_labels(dataset, consequence)
    if error is not None:
        raise error


def _without_score(unlabelled: Unlabelled, run_dir: RunDir) -> UserError:
    """The end of a training that nothing could measure: its weights are there, a score is not."""
    error = unlabelled.error()
    weights = run_dir.checkpoints.folder / LAST
    return UserError(
        f"{error.what}, so the training has no score; its last weights are {weights}",
        where=error.where,
        cure=error.cure,
    )


def _check_score(context: Context, needs: Needs, score: Score) -> None:
    """Refuse to rank by losses that need images where evaluation has none."""
    images = needs.images or bool(needs.planes)
    if score.kind == "loss" and images and not context.data.eval_images:
        raise UserError(
            "this method's losses need images, and data.eval_images leaves them out on the val split",
            where=f"{context.config.origin('data.eval_images')}, key 'eval.select'",
            cure="Set data.eval_images: true, or another eval.select, e.g. miou",
        )


def _compare_inputs(
    context: Context, found: TrainedNetwork, data: DataConfig, record: SensorRecord | None, who: str
) -> None:
    """Warn, on rank 0, where this run's scans differ in units or scanner from those a network was trained on.

    Args:
        data: how that network is shown the scans now. who: it is, for the warning.
    """
    if found.sensor is None or record is None or context.world.rank > 0:
        return
    trained, now = found.intensity_divisor, data.intensity_divisor
    for difference in found.sensor.differences(record, trained, now):
        logger.warning("{} knows other scans: {}", who, difference.text)


def _open_run(context: Context, trainer: Trainer, train_set: ScanDataset) -> dict[str, Any] | None:
    """Open the run folder; the newest whole checkpoint there, or None.

    Raises:
        UserError: the folder belongs to another configuration, label space, teacher, number type, or other scans.
    """
    run_dir = trainer.run_dir
    run_dir.open(context.config, context.world)
    newest = from_rank_zero(run_dir.checkpoints.newest_path)
    state = None if newest is None else read_checkpoint(newest)
    if context.world.rank == 0:
        # a run killed before its first checkpoint starts over, and so do its scalars
        run_dir.rewind(0 if state is None else state["global_step"])
    barrier()
    if state is not None:
        _check_same_labels(state["identity"], trainer.identity, run_dir.path)
        _check_same_teacher(state["identity"], trainer.identity, run_dir.path)
        _check_same_numbers(state["identity"], trainer.identity, run_dir.path)
        check_same_scans(state["identity"], trainer.identity, run_dir.path)
    if context.world.rank == 0:
        write_labelled(train_set, run_dir.path)
    return state


def _check_same_labels(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    """Refuse a label space of other content; the configuration knows but its name."""
    if old["fingerprint"] != new["fingerprint"]:
        raise UserError(
            "this run was started with another label space: its classes, or the map from ids to them, have changed",
            where=f"{run_path}, key 'dataset.labels'",
            cure="Give the label space the content it had, or choose another --run-dir",
        )


def _check_same_teacher(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    before, now = (identity.get("teacher", {}).get("sha256") for identity in (old, new))
    if before != now:
        raise UserError(
            f"this run was started with another teacher (SHA-256 {str(before)[:12]}, now {str(now)[:12]})",
            where=f"{run_path}, key 'teacher_pretrain'",
            cure="Give the first teacher again, or choose another --run-dir",
        )


def _check_same_numbers(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    """Refuse to go on in another number type: ``amp.enabled: auto`` means another one on another machine."""
    now = new["number_type"]
    before = old.get("number_type")
    if before is None:  # a checkpoint of before there was ``auto``
        amp = AmpConfig.model_validate(old["config"].get("amp", {}))
        before = amp.dtype if amp.enabled else "fp32"
    if before == now:
        return
    cure = f"Go on in {before} with --amp.enabled {str(before != 'fp32').lower()}"
    raise UserError(
        f"this run computes in {before}, and would go on in {now} on this machine",
        where=f"{run_path}, key 'amp.enabled'",
        cure=f"{cure}, or choose another --run-dir",
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
