"""What happens around the steps: evaluation, checkpoints, signals, writers, progress."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from loguru import logger
from tqdm.auto import tqdm

from core.engine.run.distributed import barrier
from core.engine.run.run_dir import RunDir
from core.engine.run.torchpack_api import Callback, SummaryWriter, TFEventWriter
from core.errors import EXIT_INTERRUPTED

__all__ = [
    "Checkpoints",
    "EpochLog",
    "Evaluation",
    "JSONLines",
    "Progress",
    "Resume",
    "TensorBoard",
]


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
    """Score the val split every few epochs and after the last; ``score()`` returns named scalars, the first decides."""

    def __init__(self, score: Callable[[], dict[str, float]], every: int) -> None:
        self.score, self.every = score, every

    def _trigger_epoch(self) -> None:
        if (
            self.trainer.epoch_num % self.every == 0
            or self.trainer.epoch_num == self.trainer.num_epochs
        ):
            for name, value in self.score().items():
                self.trainer.summary.add_scalar(name, value, max_to_keep=1)


class Checkpoints(Callback):
    """Save every few steps, at every epoch's end, and when a signal asks to stop; keep the best by one scalar.

    SIGTERM and SIGUSR1 (SLURM's warning) save at the next step boundary and leave with exit code 75.
    """

    def __init__(self, scalar: str, every: int) -> None:
        self.scalar, self.every = scalar, every
        self.best: tuple[int, float] | None = None

    def _before_train(self) -> None:
        signals = (signal.SIGTERM, signal.SIGUSR1)
        self.handlers = {number: signal.signal(number, self._request_stop) for number in signals}

    def _after_train(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _request_stop(self, *_: Any) -> None:
        self.trainer.stop_requested = True

    def _trigger_step(self) -> None:
        trainer = self.trainer
        last_of_epoch = trainer.local_step == trainer.steps_per_epoch
        if trainer.stop_requested and not last_of_epoch:
            trainer.save()
            self._leave()
        if trainer.global_step % self.every == 0 and not last_of_epoch:
            trainer.save()

    def _trigger_epoch(self) -> None:
        trainer = self.trainer
        step, value = (
            trainer.summary[self.scalar][-1] if self.scalar in trainer.summary else (-1, None)
        )
        improved = step == trainer.global_step and (self.best is None or value > self.best[1])
        if improved:
            self.best = (step, value)
        trainer.save("max-" + self.scalar.replace("/", "-") if improved else None)
        if trainer.stop_requested:
            self._leave()

    def _leave(self) -> None:
        barrier()
        logger.warning(
            "stopped by a signal after step {}; start the same command to go on",
            self.trainer.global_step,
        )
        raise SystemExit(EXIT_INTERRUPTED)

    def _state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])


class JSONLines(SummaryWriter):
    """``scalars.jsonl``: one object per step, and one per epoch with the scores."""

    def __init__(self, run_dir: RunDir) -> None:
        self.path = run_dir.scalars

    def _set_trainer(self, trainer: Any) -> None:
        self.pending: dict[str, float] = {}
        self.stream = open(self.path, "a")  # noqa: SIM115  (lives as long as the training)

    def _add_scalar(self, name: str, scalar: float) -> None:
        self.pending[name] = scalar

    def _trigger_step(self) -> None:
        self._write()

    def _trigger_epoch(self) -> None:
        self._write()

    def _write(self) -> None:
        if self.pending:
            at = {k: getattr(self.trainer, k) for k in ("epoch_num", "local_step", "global_step")}
            self.stream.write(json.dumps(at | self.pending) + "\n")
            self.stream.flush()
            self.pending = {}

    def _after_train(self) -> None:
        self.stream.close()


class TensorBoard(TFEventWriter):
    """TensorBoard events; steps after the checkpoint a run continues from are purged."""

    def __init__(self, run_dir: RunDir, start_step: int) -> None:
        super().__init__(save_dir=str(run_dir.path / "tensorboard"))
        self.start_step = start_step

    def _set_trainer(self, trainer: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter as Writer

        self.writer = Writer(
            self.save_dir, purge_step=self.start_step + 1 if self.start_step else None
        )


class Progress(Callback):
    """A bar with rate, ETA and the loss; rank 0 only, silent when stderr is no terminal."""

    master_only = True

    def _before_epoch(self) -> None:
        trainer = self.trainer
        self.bar = tqdm(
            total=trainer.steps_per_epoch,
            initial=trainer.local_step,
            desc=f"epoch {trainer.epoch_num}/{trainer.num_epochs}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            unit="step",
        )

    def _trigger_step(self) -> None:
        history = self.trainer.summary
        if "loss/total" in history:
            self.bar.set_postfix(loss=f"{history['loss/total'][-1][1]:.3f}")
        self.bar.update()

    def _after_epoch(self) -> None:
        self.bar.close()


class EpochLog(SummaryWriter):
    """One line per epoch: mean loss and the scores."""

    def __init__(self, scalar: str) -> None:
        self.scalar = scalar

    def _set_trainer(self, trainer: Any) -> None:
        self.losses: list[float] = []
        self.score: float | None = None

    def _add_scalar(self, name: str, scalar: float) -> None:
        if name == "loss/total":
            self.losses.append(scalar)
        if name == self.scalar:
            self.score = scalar

    def _trigger_epoch(self) -> None:
        trainer = self.trainer
        loss = sum(self.losses) / len(self.losses) if self.losses else float("nan")
        score = "" if self.score is None else f", {self.scalar} {self.score:.2f}"
        logger.info(
            "epoch {}/{}: loss {:.4f}{}", trainer.epoch_num, trainer.num_epochs, loss, score
        )
        self.losses, self.score = [], None
