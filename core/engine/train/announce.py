"""The first and the last lines of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loguru import logger
from torch import nn

from core.datasets.base import ScanDataset
from core.datasets.training import TrainingScans
from core.engine.run.context import Context
from core.engine.train.progress import duration
from core.engine.train.trainer import Trainer
from core.errors import counted
from core.machine import native_bf16, processor_name
from core.metrics import EvaluationResult

__all__ = ["announce", "summarise"]


def announce(
    context: Context,
    trainer: Trainer,
    train_set: ScanDataset,
    val_set: ScanDataset | None,
    state: dict[str, Any] | None,
) -> None:
    """Tell what is trained, on what, and where it goes.

    Args:
        state: the checkpoint the run continues from, None = it starts.
    """
    if context.world.rank > 0:
        return
    model = context.config.tree["model"]
    extra = _millions(trainer.method) - _millions(trainer.method.deployed)
    size = f"{_millions(trainer.method.deployed):.2f} M parameters"
    if extra > 0:
        size += f" and {extra:.2f} M that stay in the training"
    logger.info("LiDistill   {}, {}   {}", model.get("name"), size, _machine(context))
    count = 0 if val_set is None else len(val_set)
    labels = train_set.labels
    held = str(len(train_set))
    if isinstance(train_set, TrainingScans):
        held = train_set.counts()
    logger.info(
        "data   {}   {} train, {}   {} classes",
        train_set.title,
        held,
        counted(count, "val scan"),
        labels.num_classes - 1,
    )
    if val_set is not None and val_set.leak:
        logger.warning("{}: what is chosen by it must not be submitted", val_set.leak)
    place = "new" if state is None else f"goes on after step {state['global_step']}"
    path = trainer.run_dir.path.resolve()
    logger.info("run    {}   ({}; the same command continues it)", path, place)


def summarise(
    trainer: Trainer, result: EvaluationResult | None, best: Path, seconds: float
) -> None:
    """Tell what came out, where it lies, and what to do with it.

    Args:
        result: of the best weights on the val split, None where they predict no classes.
        best: the file of their weights. seconds: since the command was started.
    """
    if trainer.world.rank > 0:
        return
    run = trainer.run_dir.path
    spent = f"time {duration(seconds)}"
    if result is None:
        logger.info("done   {}", spent)
    else:
        logger.info("{}   {}", _classes(result), spent)
        logger.info("report    {}", run / "report.html")
    logger.info("weights   {} ({:.0f} MB)", best, best.stat().st_size / 1e6)
    if result is None:
        logger.info("next      python train_teacher.py CONFIG --train.init_from {}", run)
    else:
        options = f"--checkpoint {run} --out PREDICTIONS --preview"
        logger.info("next      python evaluate.py predict SCANS {}", options)


def _classes(result: EvaluationResult) -> str:
    scored = {name: 100 * iou for name, iou in result.iou.items() if iou is not None}
    text = f"best mIoU {100 * result.miou:.2f}"
    if not scored:
        return text
    high = max(scored, key=lambda name: scored[name])
    low = min(scored, key=lambda name: scored[name])
    return f"{text}   best class {high} {scored[high]:.1f}, worst {low} {scored[low]:.1f}"


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def _machine(context: Context) -> str:
    world, amp = context.world, context.experiment.amp
    numbers: str = amp.number_type(world.device.type)
    if numbers == "bf16" and world.device.type == "cpu" and not native_bf16():
        numbers = "bf16 through fp32: slow, see amp.enabled"
    elif amp.enabled == "auto":
        numbers += " (amp.enabled auto)"
    processes = "1 process" if world.size == 1 else f"{world.size} processes"
    return f"{processes} on {processor_name()}, {numbers}"
