"""What a person sees of a training: a header, a bar or lines while it runs, a summary at its end."""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime, timedelta
from typing import Any

from loguru import logger
from tqdm.auto import tqdm

from core.distill import Score
from core.engine.run.torchpack_api import Callback, SummaryWriter
from core.engine.train.callbacks import Checkpoints

__all__ = ["EpochLog", "Progress", "duration"]

_MEASURED = 2  # steps after the first, which is slower, before the whole run's time is told
_EVERY = 180.0  # s between lines where there is no terminal


def duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"


class _Pace:
    """How long the rest of a run takes, by the steps of this process so far, their evaluations included."""

    def __init__(self, done: int) -> None:
        self.first = done
        self.start = time.perf_counter()

    def left(self, done: int, total: int) -> float | None:
        """Seconds until step ``total``, or None before the first step."""
        if done == self.first:
            return None
        spent = time.perf_counter() - self.start
        return spent / (done - self.first) * (total - done)


class Progress(Callback):
    """A bar per epoch with loss, score and the time the whole run still takes; lines where stderr is no terminal.

    Args:
        title: name of the run, which begins every line. score: what decides on the best weights.
    """

    master_only = True

    def __init__(self, title: str, score: Score) -> None:
        self.title = title
        self.score = score

    def _before_train(self) -> None:
        self.first = self.trainer.global_step
        self.shown = time.perf_counter()
        self.pace: _Pace | None = None

    def _before_epoch(self) -> None:
        trainer = self.trainer
        self.bar = tqdm(
            total=trainer.steps_per_epoch,
            initial=trainer.local_step,
            desc=f"{self.title}  epoch {trainer.epoch_num}/{trainer.num_epochs}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
            unit="step",
        )

    def _trigger_step(self) -> None:
        trainer = self.trainer
        step = trainer.global_step - self.first
        if self.pace is None:
            self.pace = _Pace(trainer.global_step)
        elif step == _MEASURED + 1:
            self._forecast()
        if self.bar.disable:
            self._maybe_line()
        else:
            self.bar.set_postfix_str("  ".join(self._parts()))
            self.bar.update()

    def _after_epoch(self) -> None:
        self.bar.close()

    def _forecast(self) -> None:
        """Tell once how long the run takes; evaluations come on top."""
        trainer = self.trainer
        left = self._left()
        if left is None:
            return
        per_step = (time.perf_counter() - self.pace.start) / _MEASURED if self.pace else 0.0
        ending = datetime.now() + timedelta(seconds=left)
        self.bar.clear()
        logger.info(
            "{}  {:.3g} s per step, {} steps: about {} and the evaluations, until {:%H:%M}",
            self.title,
            per_step,
            trainer.last_step,
            duration(left),
            ending,
        )

    def _maybe_line(self) -> None:
        now = time.perf_counter()
        trainer = self.trainer
        if now - self.shown < _EVERY or trainer.at_epoch_end:
            return
        self.shown = now
        place = f"epoch {trainer.epoch_num}/{trainer.num_epochs}"
        step = f"step {trainer.local_step}/{trainer.steps_per_epoch}"
        logger.info("  ".join([self.title, place, step, *self._parts()]))

    def _parts(self) -> list[str]:
        history = self.trainer.summary
        parts = []
        if "loss/total" in history:
            parts.append(f"loss {history['loss/total'][-1][1]:.3f}")
        if self.score.scalar in history:
            parts.append(f"{self.score.title} {history[self.score.scalar][-1][1]:.2f}")
        left = self._left()
        if left is not None:
            parts.append(f"left {duration(left)}")
        return parts

    def _left(self) -> float | None:
        trainer = self.trainer
        if self.pace is None:
            return None
        return self.pace.left(trainer.global_step, trainer.last_step)


class EpochLog(SummaryWriter):
    """One line per epoch: mean loss, score, its time and the time left.

    Args:
        title: name of the run, which begins every line. checkpoints: knows the score and the best so far.
    """

    def __init__(self, title: str, checkpoints: Checkpoints) -> None:
        self.title = title
        self.checkpoints = checkpoints

    def _set_trainer(self, trainer: Any) -> None:
        self.losses: list[float] = []
        self.value: float | None = None

    def _before_train(self) -> None:
        self.pace = _Pace(self.trainer.global_step)

    def _before_epoch(self) -> None:
        self.start = time.perf_counter()

    def _add_scalar(self, name: str, scalar: float) -> None:
        if name == "loss/total":
            self.losses.append(scalar)
        if name == self.checkpoints.score.scalar:
            self.value = scalar

    def _trigger_epoch(self) -> None:
        trainer = self.trainer
        parts = [f"{self.title}  epoch {trainer.epoch_num}/{trainer.num_epochs}"]
        loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        parts.append(f"loss {loss:.4f}")
        if self.value is not None:
            parts.append(self._scored(self.value))
        parts.append(duration(time.perf_counter() - self.start))
        left = self.pace.left(trainer.global_step, trainer.last_step)
        if left is not None and trainer.epoch_num < trainer.num_epochs:
            parts.append(f"left {duration(left)}")
        logger.info("  ".join(parts))
        self.losses = []
        self.value = None

    def _scored(self, value: float) -> str:
        score = self.checkpoints.score
        text = f"{score.title} {value:.2f}"
        best = score.decides and score.improves(value, self.checkpoints.best_value)
        return f"{text} (best)" if best else text
