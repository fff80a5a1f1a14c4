"""Stage 1 and what both stages share: train from the newest checkpoint, score the best weights, report them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loguru import logger

from core.config import Config
from core.datasets.base import ScanDataset
from core.engine.run.context import Context
from core.engine.run.distributed import World, barrier, join_over_ranks
from core.engine.run.run_dir import RunDir
from core.engine.score.evaluation import score_network
from core.engine.score.jobs import evaluate_checkpoint, print_result
from core.engine.train.callbacks import (
    Checkpoints,
    EpochLog,
    Evaluation,
    JSONLines,
    Progress,
    Resume,
    TensorBoard,
)
from core.engine.train.trainer import DistillTrainer, Supervised
from core.errors import UserError
from core.io import read_json, sha256, write_json
from core.metrics import EvaluationResult

__all__ = ["BEST_SCALAR", "run_training", "teacher_trainer", "train_teacher"]

BEST_SCALAR = "iou/val/vox"


def train_teacher(
    world: World, config: Config, run_path: Path, *, profile: int | None = None
) -> None:
    """Stage 1: train a LiDAR-only network with labels, score it each epoch, write the report.

    Args:
        profile: measure this many steps in place of all that.

    Raises:
        UserError: the configuration is a student's, or gets something else wrong.
    """
    if "distill" in config.tree:
        raise UserError(
            "this is a student's configuration",
            where=config.origin("distill"),
            cure="Run train_student.py with it",
        )
    context = Context.open(config, world)
    train_set, val_set = context.dataset("train"), context.dataset("val")
    run_training(context, teacher_trainer(context, train_set, RunDir(run_path)), val_set, profile)


def run_training(
    context: Context, trainer: DistillTrainer, val_set: ScanDataset, profile: int | None = None
) -> None:
    """Train from the newest checkpoint to the last epoch, then score the best weights and write the report.

    The trainer comes ready-made: a faulty setting has stopped the job before the run folder is touched. With
    ``profile`` so many steps are measured instead, and the run folder gets their profile alone.
    """
    if profile is not None:
        from core.engine.train.profiling import profile_training

        profile_training(trainer, profile)
        return
    world, config, run_dir = context.world, context.config, trainer.run_dir
    run_path = run_dir.path
    run_dir.open(config, world)
    found = run_dir.checkpoints.newest()
    state = None if found is None else found[1]
    if (
        world.rank == 0
    ):  # a run killed before its first checkpoint starts over, and so do its scalars
        run_dir.rewind(0 if state is None else state["global_step"])
    barrier()
    if state is not None:
        _same_teacher(state["identity"], trainer.identity, run_path)
    if state is not None and state["global_step"] >= trainer.total_steps:
        if world.rank == 0:
            logger.info("{} is already trained to its last epoch", run_path)
    else:
        _fit(context, trainer, val_set, run_dir, state)
    barrier()
    best = run_dir.path / "checkpoints" / f"max-{BEST_SCALAR.replace('/', '-')}.pt"
    if not _scored_before(run_path, best):
        evaluate_checkpoint(world, config, best, run_path, report=True)
    elif world.rank == 0:
        result = EvaluationResult.from_json(read_json(run_path / "evaluation-val.json"))
        print_result(result, run_path / "report.html", context.experiment.eval.legacy_metric)


def _same_teacher(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    before, now = (identity.get("teacher", {}).get("sha256") for identity in (old, new))
    if before != now:
        raise UserError(
            f"this run was started with another teacher (SHA-256 {str(before)[:12]}, now {str(now)[:12]})",
            where=f"{run_path}, key 'teacher_pretrain'",
            cure="Give the first teacher again, or choose another --run-dir",
        )


def teacher_trainer(context: Context, train_set: ScanDataset, run_dir: RunDir) -> DistillTrainer:
    """The trainer of stage 1, before its first step."""
    labels = train_set.labels
    criterion = context.experiment.criterion_for(labels.num_classes)
    fresh = not run_dir.checkpoints.manifest()
    model = context.model(labels.num_classes, pretrained=fresh)
    if fresh:
        context.start_from_other_run(model)
    return DistillTrainer(
        context.experiment,
        model,
        Supervised(criterion.to(context.world.device)),
        context.loader(train_set, training=True),
        context.world,
        run_dir,
        {
            "fingerprint": labels.fingerprint,
            "classes": list(labels.classes),
            "config": context.config.tree,
        },
    )


def _scored_before(run_path: Path, checkpoint: Path) -> bool:
    """Whether the run folder holds the score and the report of this very checkpoint."""
    saved = run_path / "evaluation-val.json"
    whole = saved.is_file() and (run_path / "report.html").is_file()
    return whole and read_json(saved).get("checkpoint_sha256") == sha256(checkpoint)


def _fit(
    context: Context, trainer: DistillTrainer, val_set: ScanDataset, run_dir: RunDir, state: Any
) -> None:
    val_loader = context.loader(val_set, training=False)
    classes = val_set.labels.classes

    def score() -> dict[str, float]:
        result, _, _ = score_network(
            trainer.scored_model, val_loader, len(classes), context.world, context.autocast
        )
        ious = result.overall.iou().tolist()
        named = {
            f"{BEST_SCALAR}/{name}": 100 * iou
            for name, iou in zip(classes[1:], ious[1:])
            if iou == iou
        }
        return {BEST_SCALAR: 100 * result.overall.miou()} | named

    e = context.experiment
    callbacks = [
        Resume(state),
        Evaluation(score, e.eval.every),
        EpochLog(BEST_SCALAR),
        JSONLines(run_dir),
        TensorBoard(run_dir, 0 if state is None else state["global_step"]),
        Progress(),
        Checkpoints(BEST_SCALAR, e.train.save_every),
    ]
    trainer.train(trainer.steps, num_epochs=e.num_epochs, callbacks=callbacks)
    skipped = join_over_ranks(trainer.skipped_samples)
    if skipped and context.world.rank == 0:
        path = run_dir.path / "skipped.json"
        write_json(path, skipped)
        logger.warning("{} damaged scans were skipped; see {}", len(skipped), path)
