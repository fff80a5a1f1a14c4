"""What happens around the steps: evaluation, checkpoints, signals, writers, heap."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from core.distill import MIOU, Score
from core.engine.run.checkpoint import BEST, OLD_BEST
from core.engine.run.distributed import barrier
from core.engine.run.memory import GrownHeap
from core.engine.run.run_dir import RunDir
from core.engine.run.stopping import STOP, Stopped
from core.engine.run.torchpack_api import Callback, SummaryWriter, TFEventWriter
from core.io import appending, cannot_write

__all__ = ["Checkpoints", "Evaluation", "HeapTrimming", "JSONLines", "Resume", "TensorBoard"]


class Resume(Callback):
    """Continue from the newest whole checkpoint of the run directory, if there is one."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = state

    def _before_train(self) -> None:
        if self.state is not None:
            self.trainer.load_state_dict(self.state)
            logger.info("continuing after step {}", self.trainer.global_step)
            self.state = None


class Evaluation(Callback):
    """Measure the weights every few epochs and after the last.

    Args:
        measure: returns named scalars; None = nothing is measured.
        every: epochs between measurements.
    """

    def __init__(self, measure: Callable[[], dict[str, float]] | None, every: int) -> None:
        self.measure = measure
        self.every = every

    def _trigger_epoch(self) -> None:
        if self.measure is None:
            return
        epoch, last = self.trainer.epoch_num, self.trainer.num_epochs
        if epoch % self.every == 0 or epoch == last:
            for name, value in self.measure().items():
                self.trainer.summary.add_scalar(name, value, max_to_keep=1)


class Checkpoints(Callback):
    """Save every few steps, at the ends of epochs, and when a signal asks to stop; keep the best by a score.

    SIGTERM and SIGUSR1 (SLURM's warning) save when all ranks know of them, at the end of a step or of an epoch's
    evaluation, and leave with exit code 75.

    Args:
        score: what decides. every: optimiser steps between checkpoints within an epoch.
        epochs: between checkpoints at an epoch's end; the last epoch's and those with the best score are always saved.
    """

    def __init__(self, score: Score, every: int, epochs: int) -> None:
        self.score = score
        self.every = every
        self.epochs = epochs
        self.best: tuple[int, float] | None = None

    def _trigger_step(self) -> None:
        trainer = self.trainer
        if trainer.at_epoch_end:
            return  # the epoch's end saves
        if trainer.stop_agreed or trainer.global_step % self.every == 0:
            trainer.save()
        if trainer.stop_agreed:
            self._leave()

    def _trigger_epoch(self) -> None:
        improved = self._improved()
        names = self._names() if improved else ()
        due = self._due() or (improved and self.score.kind != "none")
        if due:
            self.trainer.save(names)
        if self.trainer.agree_to_stop():
            if not due:
                self.trainer.save(names)
            self._leave()

    def _due(self) -> bool:
        """Whether this epoch's end has a checkpoint, whatever its score."""
        epoch = self.trainer.epoch_num
        return epoch % self.epochs == 0 or epoch == self.trainer.num_epochs

    @property
    def best_value(self) -> float | None:
        """The best score so far."""
        return None if self.best is None else self.best[1]

    def _improved(self) -> bool:
        """Whether this epoch's weights are the best so far; then their score is kept."""
        if not self.score.decides:
            return True
        measured = self.trainer.summary
        if self.score.scalar not in measured:
            return False
        step, value = measured[self.score.scalar][-1]
        new = step == self.trainer.global_step
        if not new or not self.score.improves(value, self.best_value):
            return False
        self.best = (step, value)
        return True

    def _names(self) -> tuple[str, ...]:
        return (BEST, OLD_BEST) if self.score == MIOU else (BEST,)

    def _leave(self) -> None:
        STOP.settle()
        barrier()
        logger.warning(
            "stopped by a signal after step {}; start the same command to go on",
            self.trainer.global_step,
        )
        raise Stopped

    def _state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = None if best is None else tuple(best)


class JSONLines(SummaryWriter):
    """``scalars.jsonl``: one object per step, and one per epoch with the scores."""

    def __init__(self, run_dir: RunDir) -> None:
        self.path = run_dir.scalars

    def _set_trainer(self, trainer: Any) -> None:
        self.pending: dict[str, float] = {}
        with appending(self.path):
            self.stream = open(self.path, "ab", buffering=0)  # noqa: SIM115  (as long as the training)

    def _add_scalar(self, name: str, scalar: float) -> None:
        self.pending[name] = scalar

    def _trigger_step(self) -> None:
        self._write()

    def _trigger_epoch(self) -> None:
        self._write()

    def _write(self) -> None:
        if self.pending:
            at = {k: getattr(self.trainer, k) for k in ("epoch_num", "local_step", "global_step")}
            line = json.dumps(at | self.pending) + "\n"
            with appending(self.path):
                self._append(line.encode())
            self.pending = {}

    def _append(self, line: bytes) -> None:
        """Write the whole line, or none of it."""
        end = self.stream.seek(0, os.SEEK_END)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self.stream.write(rest) :]
        except OSError:
            self.stream.truncate(end)
            raise

    def _after_train(self) -> None:
        self.stream.close()


class TensorBoard(TFEventWriter):
    """TensorBoard events; steps after the checkpoint a run continues from are purged."""

    def __init__(self, run_dir: RunDir, start_step: int) -> None:
        super().__init__(save_dir=str(run_dir.path / "tensorboard"))
        self.start_step = start_step

    def _set_trainer(self, trainer: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter as Writer

        first = self.start_step + 1 if self.start_step else None
        self.others_hook = threading.excepthook
        threading.excepthook = self._hear
        with appending(Path(self.save_dir)):
            self.writer = Writer(self.save_dir, purge_step=first)

    def _hear(self, fault: threading.ExceptHookArgs) -> None:
        """Leave a failed write to the main thread, which meets it at its next scalar; tell all else."""
        if not isinstance(fault.exc_value, OSError):
            self.others_hook(fault)

    def _add_scalar(self, name: str, scalar: float) -> None:
        with appending(Path(self.save_dir)):
            super()._add_scalar(name, scalar)

    def _after_train(self) -> None:
        try:
            self.writer.close()
        except OSError as error:
            logger.warning("{}", cannot_write(Path(self.save_dir), error))
        threading.excepthook = self.others_hook


class HeapTrimming(Callback):
    """Return free heap memory where it has grown. For trainings on a CPU."""

    EVERY = 20  # steps

    def __init__(self) -> None:
        self.heap = GrownHeap()

    def _trigger_step(self) -> None:
        on_cpu = self.trainer.device.type == "cpu"
        if on_cpu and self.trainer.global_step % self.EVERY == 0:
            self.heap.look()
