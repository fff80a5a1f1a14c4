"""Which ends of epochs have a checkpoint, and that fewer of them change nothing of a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folder_world import write_world

from core.config import load_config
from core.distill.score import MIOU, Score
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.distributed import World
from core.engine.run.stopping import Stopped
from core.engine.train.callbacks import Checkpoints
from core.engine.train.jobs import train_teacher

EPOCHS = 7


class Trainer(SimpleNamespace):
    """Notes at which epochs it is told to save, and under which names besides."""

    def __init__(self) -> None:
        super().__init__(num_epochs=EPOCHS, epoch_num=0, global_step=0, summary={}, saved=[])
        self.stop_after = EPOCHS + 1

    def save(self, best: tuple[str, ...] = ()) -> None:
        self.saved.append((self.epoch_num, bool(best)))

    def agree_to_stop(self) -> bool:
        return self.epoch_num == self.stop_after


def saved(epochs: int, score: Score, scores: dict[int, float] | None = None, **more: Any) -> list:
    trainer = Trainer()
    vars(trainer).update(more)
    callback = Checkpoints(score, every=500, epochs=epochs)
    callback.trainer = trainer
    for epoch in range(1, EPOCHS + 1):
        trainer.epoch_num = trainer.global_step = epoch
        if epoch in (scores or {}):
            trainer.summary[score.scalar] = [(epoch, scores[epoch])]
        callback._trigger_epoch()
    return trainer.saved


def test_every_third_epoch_and_the_last_one() -> None:
    last_weights = Score("none")
    assert saved(3, last_weights) == [(3, True), (6, True), (7, True)]
    assert [epoch for epoch, _ in saved(1, last_weights)] == list(range(1, EPOCHS + 1))
    assert saved(99, last_weights) == [(7, True)]


def test_the_best_score_is_always_saved() -> None:
    scores = {2: 40.0, 4: 39.0, 5: 41.0}
    assert saved(3, MIOU, scores) == [(2, True), (3, False), (5, True), (6, False), (7, False)]


def test_a_signal_saves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.engine.train.callbacks.STOP", SimpleNamespace(settle=lambda: None))
    for epoch, expected in ((2, [2]), (3, [3])):
        trainer_saves: list = []
        with pytest.raises(Stopped):
            saved(3, Score("none"), stop_after=epoch, saved=trainer_saves)
        assert [place for place, _ in trainer_saves] == expected


def test_fewer_checkpoints_are_the_same_training(tmp_path: Any) -> None:
    config = write_world(tmp_path / "scans")
    states = []
    for epochs in ("1", "3"):
        folder = tmp_path / epochs
        words = ["--num_epochs", "2", "--eval.select", "none", "--eval.pictures", "0"]
        words += ["--train.save_every", "500", "--train.save_epochs", epochs]
        train_teacher(World(), load_config(config, words), folder)
        states.append(read_checkpoint(folder / "checkpoints" / "last.pt"))
        assert len(list((folder / "checkpoints").glob("step-*.pt"))) == (2 if epochs == "1" else 1)
    first, second = states
    assert first["global_step"] == second["global_step"]
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
