"""Stochastic weight averaging, and runs that begin with another run's weights."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from folder_world import write_world
from torch import Tensor, nn

from core.config import load_config
from core.distill.twodpass import MSFSKD
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.experiment import Experiment
from core.engine.run.run_dir import RunDir
from core.engine.run.starting_weights import start_from
from core.engine.run.torchpack_api import Callback
from core.engine.train.averaging import renew_batch_norm
from core.engine.train.callbacks import Resume
from core.engine.train.jobs import build_trainer
from core.engine.train.trainer import Trainer
from core.errors import UserError
from core.losses import CrossEntropyLovasz

SWA = ("--num_epochs", "3", "--train.swa_start", "2")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


def make(config: Path, folder: Path, *overrides: str) -> Trainer:
    context = Context.open(load_config(config, list(overrides)), World())
    return build_trainer(context, context.dataset("train"), RunDir(folder), None)


class Watch(Callback):
    """Keeps the trained weights at the end of each epoch, and the whole state after one step."""

    def __init__(self, step: int = 0) -> None:
        self.step, self.weights, self.updates = step, [], []

    def _trigger_step(self) -> None:
        if self.trainer.global_step == self.step:
            self.state = copy.deepcopy(self.trainer.state_dict())

    def _trigger_epoch(self) -> None:
        self.weights.append(copy.deepcopy(self.trainer.method.deployed_state()))
        self.updates.append(int(self.trainer.average.n_averaged))


def test_mean_of_the_last_epochs_and_an_exact_continuation(config, tmp_path) -> None:
    straight, watch = make(config, tmp_path, *SWA), Watch(step=10)
    straight.train(straight.steps, num_epochs=3, callbacks=[watch])
    assert watch.updates == [0, 1, 2]
    final = straight.scored_network.state_dict()
    names = {name for name, _ in straight.method.deployed.named_parameters()}
    for name in names:
        mean = (watch.weights[1][name] + watch.weights[2][name]) / 2
        torch.testing.assert_close(final[name], mean, rtol=1e-5, atol=1e-7)
    statistics = "stem.1.running_mean"  # those of the last epoch's weights would be others
    assert not torch.allclose(final[statistics], watch.weights[2][statistics], rtol=1e-3)
    assert watch.state["ema_updates"] == 1  # in the middle of the third epoch

    broken = make(config, tmp_path, *SWA)
    broken.train(broken.steps, num_epochs=3, callbacks=[Resume(watch.state), Watch()])
    for name, value in broken.scored_network.state_dict().items():
        assert torch.equal(value, final[name]), name


def test_nothing_is_averaged_before_its_time(config, tmp_path) -> None:
    trainer, watch = make(config, tmp_path, *SWA), Watch(step=2)
    trainer.train(trainer.steps, num_epochs=1, callbacks=[watch])
    assert trainer.scored_method is trainer.method and watch.state["ema_updates"] == 0
    again = make(config, tmp_path, *SWA)
    again.train(again.steps, num_epochs=1, callbacks=[Resume(watch.state), Watch()])
    for name, value in again.scored_network.state_dict().items():
        assert torch.equal(value, trainer.method.deployed_state()[name]), name


@dataclass
class Rows:
    """As much of a batch as the statistics need."""

    x: Tensor

    def to(self, device: torch.device) -> Rows:
        return self


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(2, momentum=0.3)

    def forward(self, batch: Rows) -> Tensor:
        return self.norm(self.dropout(batch.x))


def test_batch_statistics_are_the_mean_over_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [Rows(torch.randn(n, 2, generator=generator) * n + n) for n in (4, 9, 30)]
    toy, state = Toy().train(), torch.get_rng_state()
    toy.norm.running_mean.fill_(100.0)
    renew_batch_norm(toy, batches, torch.device("cpu"), contextlib.nullcontext)
    mean = torch.stack([batch.x.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.x.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(toy.norm.running_mean, mean)
    torch.testing.assert_close(toy.norm.running_var, variance)
    assert toy.norm.momentum == 0.3 and not toy.norm.training
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["--train.swa_start", "2", "--train.ema", "0.9"], "choose one"),
        (["--train.swa_start", "4", "--num_epochs", "3"], "swa_start is 4, but there are 3 epochs"),
    ],
)
def test_contradictions(config, overrides, what) -> None:
    with pytest.raises(UserError, match=what):
        Experiment.from_config(load_config(config, overrides))


# --- train.init_from ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    trainer = make(config, folder, "--train.seed", "7")
    path = folder / "checkpoint.pt"
    torch.save({"model": trainer.method.deployed_state(), "training_only": {}}, path)
    return path


def test_a_run_begins_with_another_ones_weights(config, checkpoint, tmp_path) -> None:
    first = torch.load(checkpoint, weights_only=True)["model"]
    plain = make(config, tmp_path).method.deployed_state()
    tuned = make(config, tmp_path, "--train.init_from", str(checkpoint)).method.deployed_state()
    head = "classifier_vox.0.weight"
    assert not torch.equal(plain[head], first[head])
    assert all(torch.equal(value, first[name]) for name, value in tuned.items())
    skip = ("--train.init_from", str(checkpoint), "--train.init_skip", "[classifier_vox.]")
    partly = make(config, tmp_path, *skip).method.deployed_state()
    assert torch.equal(partly[head], plain[head])
    assert torch.equal(partly["stem.0.kernel"], first["stem.0.kernel"])


def test_a_run_goes_on_from_its_own_checkpoint(config, checkpoint, tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    tuned = make(config, tmp_path, "--train.init_from", str(checkpoint)).method.deployed_state()
    first = torch.load(checkpoint, weights_only=True)["model"]
    assert not torch.equal(tuned["classifier_vox.0.weight"], first["classifier_vox.0.weight"])


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (
            ["--train.init_skip", "[haed.]"],
            r"train.init_skip: no weight's name begins with 'haed.'.*classifier_vox",
        ),
        (["--model.cr", "0.5"], r"another model: .* of another shape"),
    ],
)
def test_what_does_not_fit_is_said(config, checkpoint, tmp_path, overrides, what) -> None:
    with pytest.raises(UserError, match=what):
        make(config, tmp_path, "--train.init_from", str(checkpoint), *overrides)
    with pytest.raises(UserError, match="does not exist"):
        make(config, tmp_path, "--train.init_from", str(tmp_path / "nothing.pt"))


class Student(nn.Linear):
    scales = (2,)


def test_a_method_takes_what_learned_beside_the_student(tmp_path) -> None:
    def method() -> MSFSKD:
        made = MSFSKD(
            MSFSKD.Config(name="2dpass", mode="baseline"), Student(2, 3), None, CrossEntropyLovasz()
        )
        made.image = nn.Linear(2, 2)
        return made

    first, path = method(), tmp_path / "checkpoint.pt"
    torch.save(
        {"model": first.student.state_dict(), "training_only": {"image.weight": torch.ones(2, 2)}},
        path,
    )
    with pytest.raises(UserError, match=r"1 missing \(image.bias\)"):
        start_from(method(), path)
    beside = {key: value for key, value in first.state_dict().items() if key.startswith("image.")}
    torch.save({"model": first.student.state_dict(), "training_only": beside}, path)
    second = method()
    start_from(second, path)
    assert all(
        torch.equal(value, first.state_dict()[key]) for key, value in second.state_dict().items()
    )
    third = method()
    before = copy.deepcopy(third.state_dict())
    start_from(third, path, ["image.", "bias"])
    assert torch.equal(third.student.weight, first.student.weight)
    for key in ("image.weight", "image.bias", "student.bias"):
        assert torch.equal(third.state_dict()[key], before[key])
    torch.save(
        {"model": first.student.state_dict(), "training_only": {}}, path
    )  # of a run with labels alone
    fourth = method()
    start_from(fourth, path)
    assert torch.equal(fourth.student.weight, first.student.weight)
    assert not torch.equal(fourth.image.weight, first.image.weight)
