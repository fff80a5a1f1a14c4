"""Where a teacher's part comes from: its own view, the student's, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folder_world import write_world

from core.config import Config, load_config
from core.contracts import Pair
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import build_trainer, train_student, train_teacher
from core.engine.train.sources import NoTeacher, OwnView, SharedView
from core.engine.train.teacher import load_teacher
from core.engine.train.trainer import Trainer
from core.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def teacher(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher(World(), load_config(config, ["--num_epochs", "1"]), folder)
    return folder


def student(config: Path, teacher: Path, *overrides: str) -> Config:
    """Of the teacher's own weights."""
    named = ["--distill.name", "u2mkd", "--teacher_pretrain", str(teacher)]
    return load_config(config, [*named, "--train.init_from", str(teacher), *overrides])


def trainer_of(config: Config, folder: Path) -> Trainer:
    context = Context.open(config, World())
    train_set = context.dataset("train")
    teacher = load_teacher(config, train_set.labels, World().device)
    return build_trainer(context, train_set, RunDir(folder), teacher)


def kl_of(trainer: Trainer) -> float:
    batch = next(iter(trainer.steps.loader))
    trainer.network.eval()
    with torch.no_grad():
        return float(trainer.losses(batch)["kl"])


def test_a_network_on_its_own_batch_agrees_with_itself(config, teacher, tmp_path) -> None:
    trainer = trainer_of(student(config, teacher, "--teacher.view", "shared"), tmp_path)
    assert isinstance(trainer.source, SharedView)
    assert kl_of(trainer) == pytest.approx(0, abs=1e-6)
    batch = next(iter(trainer.steps.loader))
    _, output = trainer.source(batch)
    assert torch.equal(output.rows_for(batch), torch.arange(len(batch.coords)))
    assert output.coords is batch.coords


def test_kernel_maps_are_built_once_for_both(config, teacher, tmp_path) -> None:
    trainer = trainer_of(student(config, teacher, "--teacher.view", "shared"), tmp_path)
    batch = next(iter(trainer.steps.loader))
    trainer.network.eval()
    with torch.no_grad():
        trainer.method.deployed(batch)
    maps = dict(batch.cells.tables["maps"].maps)
    trainer.source(batch)
    after = batch.cells.tables["maps"].maps
    assert maps and after.keys() == maps.keys()
    assert all(after[key] is found for key, found in maps.items())


def test_on_a_view_of_its_own_it_does_not(config, teacher, tmp_path) -> None:
    trainer = trainer_of(student(config, teacher), tmp_path)
    assert isinstance(trainer.source, OwnView)
    assert isinstance(next(iter(trainer.steps.loader)), Pair)
    assert kl_of(trainer) > 1e-3


def test_other_voxels_cannot_be_shared(config, teacher, tmp_path) -> None:
    other = student(config, teacher, "--teacher.view", "shared", "--data.voxel_size", "0.2")
    with pytest.raises(UserError) as caught:
        train_student(World(), other, tmp_path / "run")
    message = str(caught.value)
    assert "data.partition is {'name': 'voxels', 'size': 0.2} for the student" in message
    assert "'size': 0.4} for the teacher" in message
    assert "teacher.view" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefix", ["--data", "--teacher.data"])
def test_cells_count_whichever_key_names_them(config, teacher, prefix, tmp_path) -> None:
    shared = ("--teacher.view", "shared")
    same = load_config(config, ["--distill.name", "u2mkd", "--teacher_pretrain", str(teacher)])
    same.override(shared)
    del same.tree["data"]["voxel_size"]
    if prefix != "--data":
        same.tree["data"]["voxel_size"] = 0.4
    same.override([f"{prefix}.partition", "{name: voxels, size: 0.4}"])
    assert isinstance(trainer_of(same, tmp_path).source, SharedView)
    same.override([f"{prefix}.partition", "{name: voxels, size: 0.8}"])
    with pytest.raises(UserError, match=r"partition.*size.*0\.8.*size.*0\.4"):
        trainer_of(same, tmp_path)


def test_augmentation_is_the_students(config, teacher, tmp_path) -> None:
    overrides = ("--teacher.view", "shared", "--data.augment", "null", "--data.max_voxels", "500")
    trainer = trainer_of(student(config, teacher, *overrides), tmp_path)
    assert len(next(iter(trainer.steps.loader)).coords) <= 2 * 500


@pytest.mark.parametrize("view", ["shared", "own"])
def test_a_live_teacher_sees_the_mixed_scan(config, teacher, view, tmp_path) -> None:
    """In evaluation mode and without a gradient, whatever is mixed into the student's view."""
    mixed = ("--data.scan_mix", "{kinds: [laser]}", "--teacher.view", view)
    trainer = trainer_of(student(config, teacher, *mixed), tmp_path)
    trainer.network.train()
    loaded = next(iter(trainer.steps.loader))
    batch, output = trainer.source(loaded)
    network = trainer.source.network
    assert not network.training and not output.logits.requires_grad
    seen = batch if view == "shared" else loaded.teacher
    assert torch.equal(output.logits, network(seen).logits)
    plain = trainer_of(student(config, teacher, "--teacher.view", view), tmp_path / "plain")
    first, _ = plain.source(next(iter(plain.steps.loader)))
    assert first.tokens == batch.tokens and len(first.point_labels) != len(batch.point_labels)
    assert (output.rows_for(batch) >= 0).all()


def test_a_method_that_compares_cells_refuses_another_view(config, teacher, tmp_path) -> None:
    pvkd = ("--distill", "{name: pvkd, supervoxel: [32, 32, 8], n_point: 32, n_voxel: 16}")
    with pytest.raises(UserError, match=r"'teacher.view'.*cell by cell") as caught:
        train_student(World(), student(config, teacher, *pvkd), tmp_path / "run")
    assert "shared" in str(caught.value.cure) and not (tmp_path / "run").exists()
    shared = student(config, teacher, *pvkd, "--teacher.view", "shared")
    trainer = trainer_of(shared, tmp_path)
    trainer.network.eval()
    losses = trainer.losses(next(iter(trainer.steps.loader)))
    for name in ("out_point", "out_voxel", "aff_point", "aff_voxel"):
        assert float(losses[name].detach()) == pytest.approx(0, abs=1e-6)  # its own teacher


def test_a_shared_view_is_not_kept(config, teacher) -> None:
    both = student(config, teacher, "--teacher.view", "shared", "--teacher.cache", "folder")
    with pytest.raises(UserError, match="leave cache out"):
        Context.open(both, World())


def test_a_method_that_needs_none_gets_none(config, teacher, tmp_path) -> None:
    alone = load_config(config, ["--distill.name", "supervised"])
    train_student(World(), alone, tmp_path / "run")
    context = Context.open(alone, World())
    trainer = build_trainer(context, context.dataset("train"), RunDir(tmp_path / "other"), None)
    assert isinstance(trainer.source, NoTeacher)
    batch = next(iter(trainer.steps.loader))
    assert trainer.source(batch) == (batch, None)
