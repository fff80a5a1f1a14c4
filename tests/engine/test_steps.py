"""``train.steps``: a training of so many optimiser steps, whatever number of scans an epoch has."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.config import Config, load_config
from core.datasets import DATASETS
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.optim import lr_factor
from core.engine.run.run_dir import RunDir
from core.engine.run.torchpack_api import Callback
from core.engine.train.callbacks import Resume
from core.engine.train.jobs import build_trainer, train_teacher
from core.engine.train.trainer import Trainer
from core.errors import UserError

CONFIG = """
num_epochs: 2
batch_size: 2
workers_per_gpu: 0
dataset: {name: toy, scans: 6}
data: {voxel_size: 0.5}
model: {name: minkunet, cr: 0.1}
optimizer: {name: adamw, lr: 0.01}
eval: {pictures: 0, select: none}
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DATASETS, "toy", "toys:ToyReader")
    yield


def configured(folder: Path, *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(CONFIG)
    return load_config(path, list(overrides))


def make(folder: Path, *overrides: str) -> Trainer:
    context = Context.open(configured(folder, *overrides), World())
    return build_trainer(context, context.dataset("train"), RunDir(folder / "run"), None)


class Keep(Callback):
    """The whole state after one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def _trigger_step(self) -> None:
        if self.trainer.global_step == self.step:
            self.state = copy.deepcopy(self.trainer.state_dict())


def test_a_training_ends_within_an_epoch(tmp_path: Path) -> None:
    """Seven steps of three an epoch; the schedule's length is seven, too."""
    train_teacher(World(), configured(tmp_path, "--train.steps", "7"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "scalars.jsonl").open()]
    steps = [line for line in lines if "loss/total" in line]
    assert [line["global_step"] for line in steps] == list(range(1, 8))
    assert steps[-1]["epoch_num"] == 3
    trainer = make(tmp_path, "--train.steps", "7")
    expected = 0.01 * lr_factor(trainer.experiment.scheduler, 6, 7)
    assert steps[-2]["lr"] == pytest.approx(expected)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["global_step"] == 7


def test_whole_epochs_are_the_same_training(tmp_path: Path) -> None:
    by_epochs, by_steps = make(tmp_path), make(tmp_path, "--train.steps", "6", "num_epochs=99")
    for trainer in (by_epochs, by_steps):
        trainer.train(trainer.steps, num_epochs=trainer.epochs, callbacks=[])
    ours, theirs = by_steps.method.whole_state(), by_epochs.method.whole_state()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("step", [4, 7])
def test_an_exact_continuation(tmp_path: Path, step: int) -> None:
    """Also within the epoch that is cut short, eight steps of three an epoch and two processes of loading."""
    overrides = ("--train.steps", "8", "--workers_per_gpu", "1")
    straight, keep = make(tmp_path, *overrides), Keep(step)
    straight.train(straight.steps, num_epochs=straight.epochs, callbacks=[keep])
    assert straight.global_step == 8 and straight.epochs == 3
    again = make(tmp_path, *overrides)
    again.train(again.steps, num_epochs=again.epochs, callbacks=[Resume(keep.state)])
    assert again.global_step == 8
    ours, theirs = again.method.whole_state(), straight.method.whole_state()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_average_that_never_begins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="swa_start is 4, but there are 3 epochs"):
        make(tmp_path, "--train.steps", "7", "--train.swa_start", "4")


def test_another_length_is_another_run(tmp_path: Path) -> None:
    train_teacher(World(), configured(tmp_path, "--train.steps", "2"), tmp_path / "run")
    with pytest.raises(UserError, match=r"train\.steps was 2 and is 3.*--train\.init_from"):
        train_teacher(World(), configured(tmp_path, "--train.steps", "3"), tmp_path / "run")
