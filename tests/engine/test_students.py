"""Stage 2 on a tiny world: the teacher is checked, kept out of the student, remembered; runs resume and scale."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from launched import BIN, ENV, REPO

import core.engine.train.trainer
from core.config import Config, load_config
from core.contracts import Pair
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import build_trainer, train_student, train_teacher
from core.engine.train.sources import Stored
from core.engine.train.teacher import load_teacher
from core.errors import UserError

TEACHER = """
num_epochs: 1
batch_size: 2
workers_per_gpu: 0
dataset:
  name: nuscenes
  root: {root}
  version: v1.0-mini
  multisweeps: {{num_sweeps: 1, only_past: true}}
data: {{voxel_size: 0.4}}
model: {{name: spvcnn, cr: 0.25, dropout: 0.0}}
scheduler: {{warmup_steps: 0}}
eval: {{pictures: 0}}
"""

STUDENT = """
num_epochs: 3
batch_size: 2
workers_per_gpu: 0
dataset:
  name: nuscenes
  root: {root}
  version: v1.0-mini
  multisweeps: {{num_sweeps: 1, only_past: true}}
data: {{voxel_size: 0.4, sweeps: false, images: true, image_size: [32, 18], train_cameras: 3}}
model:
  name: lidar_camera
  lidar: {{name: spvcnn, cr: 0.25, dropout: 0.0}}
  image: {{encoder: resnet18, stem_stride: 2}}
distill: {{name: u2mkd}}
teacher_pretrain: {teacher}
optimizer: {{name: sgd, lr: 0.002, momentum: 0.0}}
scheduler: {{warmup_steps: 0}}
train: {{save_every: 1}}
eval: {{every: 4, pictures: 0}}
"""


def command(script: str, config: Path, run: Path, processes: int = 1, *overrides: str) -> list[str]:
    train = [sys.executable, str(REPO / script), str(config), "--run-dir", str(run), *overrides]
    return (
        train
        if processes == 1
        else [str(BIN / "torchpack"), "dist-run", "-np", str(processes), *train]
    )


def run_command(*arguments: object) -> None:
    result = subprocess.run(
        command(*arguments), env=ENV, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def folder(tiny_nuscenes: Path, tmp_path_factory) -> Path:
    """A trained teacher in ``teacher`` and the student's configuration in ``student.yaml``."""
    folder = tmp_path_factory.mktemp("stage2")
    (folder / "teacher.yaml").write_text(TEACHER.format(root=tiny_nuscenes))
    (folder / "student.yaml").write_text(
        STUDENT.format(root=tiny_nuscenes, teacher=folder / "teacher")
    )
    run_command("train_teacher.py", folder / "teacher.yaml", folder / "teacher")
    return folder


@pytest.fixture
def config(folder: Path) -> Config:
    return load_config(folder / "student.yaml")


def losses(run: Path) -> list[tuple[int, float]]:
    lines = (
        (run / "scalars.jsonl").read_text().splitlines() if (run / "scalars.jsonl").exists() else []
    )
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [(r["global_step"], r["loss/total"]) for r in records if "loss/total" in r]


def trainer_of(config: Config, path: Path):
    context = Context.open(config, World())
    train_set = context.dataset("train")
    return build_trainer(
        context, train_set, RunDir(path), load_teacher(config, train_set.labels, World().device)
    )


# --- the teacher ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher_pretrain=null"], "key 'teacher_pretrain' is missing"),
        (
            ["teacher_pretrain=nowhere/run"],
            "no such file or folder.*|nowhere/run, key 'teacher_pretrain'",
        ),
        (
            ["teacher.model.cr=2.0"],
            "key 'teacher.model.cr' is 2.0, but the teacher was trained with 0.25",
        ),
        (["teacher.model.name=minkunet"], "key 'teacher.model.name' is 'minkunet'"),
        (
            ["teacher.data.voxel_size=0.1"],
            r"key 'teacher.data.voxel_size' asks for .*0\.1.*, but .*0\.4",
        ),
        (["teacher.dat.voxel_size=0.1"], "did you mean 'data'"),
        (["distill.w_kll=1"], "did you mean 'w_kl'"),
        (["distill.name=u2mk"], "Did you mean 'u2mkd'"),
        (["teacher.cache=cache"], "augmented anew in every epoch"),
    ],
)
def test_what_is_wrong_with_the_teacher_is_said_with_its_key(
    folder, tmp_path, overrides, message
) -> None:
    config = load_config(folder / "student.yaml", overrides)
    with pytest.raises(UserError, match=message):
        train_student(World(), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_teacher_of_other_classes_is_refused(folder, config, tmp_path) -> None:
    state = read_checkpoint(folder / "teacher" / "checkpoints" / "last.pt")
    state["identity"] |= {"fingerprint": "other", "classes": ["ignore", "road", "tree"]}
    torch.save(state, tmp_path / "other.pt")
    config.merge({"teacher_pretrain": str(tmp_path / "other.pt")}, "test")
    with pytest.raises(UserError, match=r"key 'teacher_pretrain'.*2 other classes"):
        train_student(World(), config, tmp_path / "run")


def test_a_students_configuration_needs_its_own_command(config, tmp_path) -> None:
    with pytest.raises(UserError, match=r"student's configuration.*train_student.py"):
        train_teacher(World(), config, tmp_path)


def test_teacher_stays_out_of_training_and_checkpoint(config, tmp_path) -> None:
    trainer = trainer_of(config, tmp_path)
    teacher = trainer.source.teacher
    assert not teacher.network.training and not any(
        p.requires_grad for p in teacher.network.parameters()
    )
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.method.parameters()}
    assert trained.isdisjoint(id(p) for p in teacher.network.parameters())
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    pair = next(iter(trainer.steps.loader))
    trainer.network.train()
    sum(trainer.losses(pair).values()).backward()
    assert all(
        torch.equal(before[key], value) for key, value in teacher.network.state_dict().items()
    )
    state = trainer._state_dict()
    assert state["model"].keys() == trainer.method.student.state_dict().keys()
    assert all(key.startswith("adapt_layer.") for key in state["training_only"])
    assert len(state["identity"]["teacher"]["sha256"]) == 64


def test_run_of_before_the_pixel_classifier_lost_its_bias_goes_on(config, tmp_path) -> None:
    """Its optimiser counts one parameter more, between the classifier's weight and what follows."""
    new = trainer_of(config, tmp_path)
    names = [name for name, _ in new.method.named_parameters()]
    bias = "classifier_pix.linear.bias"
    assert f"student.{bias}" not in names
    started = new.method.deployed_state() | {bias: torch.arange(17.0)}
    (tmp_path / "checkpoints").mkdir()
    RunDir(tmp_path).checkpoints.save({"model": started, "global_step": 1})
    old = trainer_of(config, tmp_path)
    place = names.index("student.classifier_pix.linear.weight") + 1
    names.insert(place, f"student.{bias}")
    assert [name for name, _ in old.method.named_parameters()] == names
    assert sum(len(group["params"]) for group in old.optimizer.param_groups) == len(names)
    load_weights(old.method.deployed, started, "test")
    assert torch.equal(old.method.deployed.classifier_pix.linear.bias.data, torch.arange(17.0))


def test_student_without_teacher_terms_needs_no_teacher(folder, tmp_path) -> None:
    config = load_config(
        folder / "student.yaml", ["distill.w_kl=0", "distill.w_feat=0", "teacher_pretrain=null"]
    )
    context = Context.open(config, World())
    trainer = build_trainer(context, context.dataset("train"), RunDir(tmp_path), None)
    batch = next(iter(trainer.steps.loader))
    named = trainer.losses(batch)
    assert "kl" not in named and "pixel_ce" in named and "align3" in named


# --- the cache ------------------------------------------------------------------------------------------------------
def test_cache_says_what_the_teacher_says(folder, tmp_path) -> None:
    still = ["teacher.data.augment=null", f"teacher.cache={tmp_path / 'cache'}"]
    live = trainer_of(load_config(folder / "student.yaml", still[:1]), tmp_path / "a")
    kept = trainer_of(load_config(folder / "student.yaml", still), tmp_path / "b")
    assert isinstance(kept.source, Stored)
    results = []
    for trainer in (live, kept):
        batch = next(iter(trainer.steps.loader))
        torch.manual_seed(0)
        results.append({k: float(v.detach()) for k, v in trainer.losses(batch).items()})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=2e-3), name  # fp16 on disk
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    stamp = files[0].stat().st_mtime_ns
    files[1].unlink()
    trainer_of(
        load_config(folder / "student.yaml", still), tmp_path / "c"
    )  # asks about the missing scan alone
    assert files[1].is_file() and files[0].stat().st_mtime_ns == stamp


def test_damaged_cache_is_named(folder, tmp_path) -> None:
    still = ["teacher.data.augment=null", f"teacher.cache={tmp_path / 'cache'}"]
    trainer = trainer_of(load_config(folder / "student.yaml", still), tmp_path / "a")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"\.safetensors: .*cannot be read"):
        trainer.losses(next(iter(trainer.steps.loader)))


# --- processes and restarts -----------------------------------------------------------------------------------------
def test_two_processes_equal_one(folder, tmp_path) -> None:
    run_command(
        "train_student.py", folder / "student.yaml", tmp_path / "one", 1, "--num_epochs", "1"
    )
    run_command(
        "train_student.py",
        folder / "student.yaml",
        tmp_path / "two",
        2,
        "--num_epochs",
        "1",
        "--batch_size=1",
    )
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 1 and abs(one[0][1] - two[0][1]) < 1e-5


def gradients_of(world: World, folder: Path, batch_size: int) -> dict[str, torch.Tensor]:
    """Of one step in float64: the maps of a tiny image hold so few pixels that fp32 says little about gradients."""
    config = load_config(
        folder / "student.yaml", [f"batch_size={batch_size}", "train.sync_bn=true"]
    )
    context = Context.open(config, world)
    train_set = context.dataset("train")
    trainer = build_trainer(
        context, train_set, RunDir(folder), load_teacher(config, train_set.labels, world.device)
    )
    trainer.network.double()
    trainer.source.network.double()
    pair = next(iter(trainer.steps.loader))
    pair = Pair(
        *(
            b._apply(lambda t: t.double() if t.is_floating_point() else t)
            for b in (pair.student, pair.teacher)
        )
    )
    torch.stack(list(trainer.losses(pair).values())).sum().backward()
    return {name: parameter.grad for name, parameter in trainer.method.named_parameters()}


def _rank(rank: int, address: str, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    # Its buckets are fp32; gradients are averaged by hand below.
    core.engine.train.trainer.DistributedDataParallel = lambda model: model
    gradients = gradients_of(World(rank, 2, rank, 2, "torchrun", address), folder, 1)
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    torch.save({name: gradient / 2 for name, gradient in gradients.items()}, out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_gradients_of_two_processes_are_those_of_one(folder, tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(_rank, (address, folder, tmp_path), nprocs=2, start_method="fork")
    alone = gradients_of(World(), folder, 2)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert shared.keys() == alone.keys()
        for name, gradient in alone.items():
            size = gradient.abs().max().clamp_min(1e-3)
            assert float((shared[name] - gradient).abs().max() / size) < 1e-4, name


def test_killed_run_ends_bit_identical_and_with_its_own_teacher(folder, tmp_path) -> None:
    config, straight, broken = folder / "student.yaml", tmp_path / "straight", tmp_path / "broken"
    run_command("train_student.py", config, straight)
    job = subprocess.Popen(
        command("train_student.py", config, broken),
        env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    after, deadline = random.Random(7).randint(1, 2), time.monotonic() + 120
    while len(losses(broken)) < after:
        assert job.poll() is None and time.monotonic() < deadline, (
            "the run ended before it could be killed"
        )
        time.sleep(0.005)
    psutil.Process(job.pid).send_signal(signal.SIGKILL)
    job.wait(60)
    teacher = folder / "teacher" / "checkpoints"
    state = read_checkpoint(teacher / "last.pt")
    torch.save(state | {"local_step": 0}, tmp_path / "another.pt")
    other = load_config(config, [f"teacher_pretrain={tmp_path / 'another.pt'}"])
    with pytest.raises(UserError, match="started with another teacher"):
        train_student(World(), other, broken)
    run_command("train_student.py", config, broken)
    assert losses(straight) == losses(broken)
    manifests = [
        json.loads((run / "checkpoints" / "manifest.json").read_text())
        for run in (straight, broken)
    ]
    assert manifests[0] == manifests[1]
