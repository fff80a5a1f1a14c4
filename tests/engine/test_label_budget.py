"""Training under a label budget: which labels are read, what batches hold, what the run folder remembers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import ToyReader

from core.config import Config, load_config
from core.contracts import Scan
from core.datasets import DATASETS, build_dataset
from core.distill.u2mkd import U2MKD
from core.engine.run.distributed import World
from core.engine.run.experiment import Experiment
from core.engine.train.jobs import train, train_teacher
from core.errors import UserError

CONFIG = """
num_epochs: 2
batch_size: 2
workers_per_gpu: 0
amp: {enabled: false}
dataset: {name: toy, scans: 6, labelled: {fraction: 0.34}, unlabelled: rest}
data: {voxel_size: 0.5, scan_mix: {kinds: [laser]}}
model: {name: minkunet, cr: 0.1}
optimizer: {name: adamw, lr: 0.01}
eval: {pictures: 0}
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DATASETS, "toy", "toys:ToyReader")
    yield


def configured(folder: Path, *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(CONFIG)
    return load_config(path, list(overrides))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint."""
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_labels_are_read_of_the_budget_alone(tmp_path: Path) -> None:
    config = configured(tmp_path)
    dataset = build_dataset(config, "train")
    assert dataset.budget.sum() == 2 and len(dataset) == 6
    for index in range(6):
        assert (dataset.load(index).labels is not None) == dataset.budget[index]
        assert dataset.index_of(dataset.token(index)) == index
    validation = build_dataset(config, "val")
    assert validation.budget is None
    assert all(validation.load(index).labels is not None for index in range(6))


def test_without_the_rest_the_labelled_scans_are_the_split(tmp_path: Path) -> None:
    whole = build_dataset(configured(tmp_path), "train")
    part = build_dataset(configured(tmp_path, "--dataset.unlabelled", "none"), "train")
    kept = [whole.token(int(row)) for row in np.flatnonzero(whole.budget)]
    assert [part.token(index) for index in range(len(part))] == kept
    assert part.budget.all()
    left_out = next(t for t in (whole.token(i) for i in range(6)) if t not in kept)
    with pytest.raises(UserError, match="no scan"):
        part.index_of(left_out)


def test_a_run_remembers_its_labelled_scans(tmp_path: Path) -> None:
    """They are written down; a run that is continued with others is refused."""
    names = tmp_path / "mine.txt"
    names.write_text("train1\ntrain4\n")
    budget = ["--dataset.labelled", f"{{file: {names}, fraction: null}}"]
    train_teacher(World(), configured(tmp_path, *budget), tmp_path / "run")
    assert (tmp_path / "run" / "labelled.txt").read_text() == "train1\ntrain4\n"
    steps = (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()
    assert len(steps) >= 2
    names.write_text("train1\ntrain5\n")
    with pytest.raises(UserError, match="other labelled scans"):
        train_teacher(World(), configured(tmp_path, *budget), tmp_path / "run")


def test_no_other_label_is_ever_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training works although reading any other label of the split ends it."""
    config = configured(tmp_path, "--num_epochs", "1")
    kept = np.flatnonzero(build_dataset(config, "train").budget).tolist()
    read = ToyReader.read
    without: set[int] = set()

    def only_the_budget(self: ToyReader, index: int, *, cameras: bool = True) -> Scan:
        if self.split == "train" and self.config.use_labels:
            assert index in kept, "a label that the budget leaves out"
        elif self.split == "train":
            without.add(index)
        return read(self, index, cameras=cameras)

    monkeypatch.setattr(ToyReader, "read", only_the_budget)
    train_teacher(World(), config, tmp_path / "run")
    assert without.isdisjoint(kept) and len(without) == 4


SELF_TAUGHT = """
distill: {name: u2mkd, w_kl: 1, w_feat: 0, w_align: 0, w_pixel: 0, confidence: {ground: 0.4, wall: 0.2}}
teacher: {source: ema}
train: {ema: 0.9, save_every: 1}
"""


def self_taught(folder: Path, *overrides: str) -> Config:
    path = folder / "self.yaml"
    path.write_text(CONFIG + SELF_TAUGHT)
    return load_config(path, list(overrides))


def test_the_running_average_teaches_of_unlabelled_scans(tmp_path: Path) -> None:
    """Its term is there, and learning from it moves the weights; continued, the run ends in the same bits."""
    train(World(), self_taught(tmp_path), tmp_path / "whole")
    lines = [json.loads(s) for s in (tmp_path / "whole" / "scalars.jsonl").read_text().splitlines()]
    assert all(line["loss/kl"] >= 0 for line in lines if "loss/kl" in line)
    assert any(line.get("loss/kl", 0) > 0 for line in lines)
    train(World(), self_taught(tmp_path, "--distill.w_kl", "0"), tmp_path / "labels")
    whole, labels = (weights(tmp_path / name) for name in ("whole", "labels"))
    assert any(not torch.equal(whole[key], labels[key]) for key in whole)

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    kept = tmp_path / "again" / "checkpoints"
    last = sorted(kept.glob("step-*.pt"))[-1]
    manifest = json.loads((kept / "manifest.json").read_text())
    assert len(list(kept.glob("step-*.pt"))) >= 2, "an earlier step to go back to"
    last.write_bytes(b"cut short")
    assert manifest
    train(World(), self_taught(tmp_path), tmp_path / "again")
    again = weights(tmp_path / "again")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_self_teacher_needs_an_average(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.ema"):
        train(World(), self_taught(tmp_path, "--train.ema", "null"), tmp_path / "run")
    with pytest.raises(UserError, match="leave out cache"):
        train(World(), self_taught(tmp_path, "--teacher.cache", "c"), tmp_path / "run")
    recipe = self_taught(tmp_path, "--teacher.cache", "null", "--teacher.view", "own")
    assert (
        Experiment.from_config(recipe).teacher.cache is None
    )  # what says nothing is no contradiction


def test_confidence_names_classes(tmp_path: Path) -> None:
    wrong = self_taught(tmp_path, "--distill.confidence", "{grund: 0.5}")
    with pytest.raises(UserError, match=r"'grund'.*ground"):
        train(World(), wrong, tmp_path / "run")


def test_a_method_hears_how_far_the_training_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(U2MKD, "begin_step", lambda self, progress: heard.append(progress))
    train(World(), self_taught(tmp_path), tmp_path / "run")
    assert len(heard) > 2
    assert heard == [step / len(heard) for step in range(len(heard))]
