"""Heavy teachers of what moves, from their shipped configurations: training, logits on disk, a student of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.config import Config, load_config
from core.data import DataConfig, collate, make_sample
from core.data.motion_job import prepare_motion
from core.datasets import build_dataset
from core.datasets.synthetic import WorldSpec, generate
from core.engine.run.distributed import World
from core.engine.run.trained import read_network
from core.engine.score.teacher_logits import write_teacher_logits
from core.engine.train.jobs import train_student, train_teacher
from core.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "synthetic_kitti"
SHORT = (  # two steps of two scans
    *("--num_epochs", "1", "--workers_per_gpu", "0", "--amp.enabled", "false", "--eval.every", "9"),
    *("--scheduler.warmup_steps", "0", "--eval.pictures", "0"),
)
SMALL = ("--data.partition.bins", "[32, 48, 4]", "--model.heights", "4", "--model.width", "8")
NARROW = (
    *("--model.encoder_depths", "[1, 1, 1]", "--model.encoder_channels", "[8, 8, 8]"),
    *("--model.decoder_depths", "[1, 1]", "--model.decoder_channels", "[8, 8]"),
)
TEACHERS = {
    "motionbev_wide": (*SMALL, "--model.width", "16"),
    "moving_mambamos": (*NARROW, "--data.voxel_size", "0.5"),
    "moving_minkunet": ("--model.cr", "0.1", "--data.voxel_size", "0.5"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of nine scans, of which the last four train, and the motion maps of all nine."""
    root = tmp_path_factory.mktemp("moving")
    spec = WorldSpec(
        format="semantickitti", seed=3, scenes=2, keyframes=9, image_scale=0, lidar_scale=0.05,
        workers=1,
    )  # fmt: skip
    generate(root, spec)
    whole = '{train: {"00": [0, 8]}, val: {"08": [7, 8]}}'
    prepare_motion(configured("motionbev", root, "--dataset.frames", whole), ["train", "val"])
    return root


def configured(name: str, root: Path, *overrides: str) -> Config:
    frames = '{train: {"00": [5, 8]}, val: {"08": [7, 8]}}'
    given = ["--dataset.root", str(root), "--dataset.frames", frames, *SHORT, *overrides]
    return load_config(CONFIGS / f"{name}.yaml", given)


def scalars(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "scalars.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_trained_asked_and_learnt_from(name: str, root: Path, tmp_path: Path) -> None:
    train_teacher(World(), configured(name, root, *TEACHERS[name]), tmp_path / "teacher")
    where = ("--dataset.columns.teacher.file", f"logits_{name}/{{token}}.npz")
    student = configured("motionbev_stored", root, *SMALL, *where)
    writer = write_teacher_logits(World(), student, tmp_path / "teacher")
    scans = build_dataset(student, "train")
    assert len(scans) == 4 and writer.missing() == []
    for index in range(len(scans)):
        rows = scans.load(index).points["teacher"]
        assert rows.shape == (scans.num_points(index), 4)
        np.testing.assert_allclose(np.exp(rows).sum(1), 1, atol=5e-3)
    train_student(World(), student, tmp_path / "student")
    steps = [record for record in scalars(tmp_path / "student") if "loss/nontarget" in record]
    assert steps and all(record["loss/nontarget"] > 0 for record in steps)
    assert all(np.isfinite(record["loss/total"]) for record in steps)


def test_the_student_that_waits_for_nothing_learns_from_what_waited(root: Path) -> None:
    student = build_dataset(configured("motionbev_past", root), "train")
    scan = student.load(0)
    assert scan.points["motion"][:, 1:].any() and not scan.points["past"][:, 1:].any()


@pytest.fixture(scope="module")
def merged(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("merged") / "teacher"
    train_teacher(World(), configured("moving_minkunet", root, *TEACHERS["moving_minkunet"]), run)
    return run


def test_rows_are_those_of_the_current_scan(merged: Path, root: Path, tmp_path: Path) -> None:
    """Each row says what the network says of the voxel around that point, found by its place and not by its number."""
    out = ("--dataset.columns.teacher.file", str(tmp_path / "logits" / "{token}.npz"))
    write_teacher_logits(World(), configured("motionbev_stored", root, *out), merged)
    found = read_network(merged, "merged")
    scans = build_dataset(found.config, "train")
    index = scans.index_of("00/000008")
    scan = scans.read(index)
    assert scan.points["sweep"].max() == 3, "frames 5 to 7 of the split lie before"
    network = build_model(found.config, scans.labels.num_classes)
    network.load_state_dict(torch.load(merged / "checkpoints/last.pt", weights_only=True)["model"])
    view = found.config.parse(DataConfig, "data").model_copy(update={"augment": None})
    batch = collate([make_sample(scan, index, view)])
    with torch.no_grad():
        logs = network.eval()(batch).logits.log_softmax(1)
    of_place = {}
    lowest = np.rint(scan.xyz / np.float32(0.5)).astype(int).min(0)
    for cell, row in zip(batch.coords[:, 1:].tolist(), logs):
        of_place[tuple(cell)] = row.numpy()
    stored = np.load(tmp_path / "logits" / "00" / "000008.npz")["logits"]
    recorded = np.fromfile(root / "sequences/00/velodyne/000008.bin", "<f4").reshape(-1, 4)
    assert len(stored) == len(recorded)
    for point, row in list(zip(recorded[:, :3], stored))[::37]:
        place = np.rint(point / np.float32(0.5)).astype(int) - lowest
        np.testing.assert_allclose(row, of_place[tuple(place.tolist())], atol=3e-3, rtol=3e-3)


def test_rows_follow_the_points_of_the_file(merged: Path, root: Path, tmp_path: Path) -> None:
    """Another order of the current scan's points is another order of its logits; past scans keep theirs."""
    other = shutil.copytree(root, tmp_path / "world")
    path = other / "sequences/00/velodyne/000008.bin"
    points = np.fromfile(path, "<f4").reshape(-1, 4)
    order = np.random.default_rng(0).permutation(len(points))
    points[order].tofile(path)
    rows = []
    for name, place in (("plain", root), ("shuffled", other)):
        out = ("--dataset.columns.teacher.file", str(tmp_path / name / "{token}.npz"))
        write_teacher_logits(World(), configured("motionbev_stored", place, *out), merged)
        rows.append(np.load(tmp_path / name / "00" / "000008.npz")["logits"].astype(np.float32))
    np.testing.assert_allclose(rows[1], rows[0][order], atol=5e-3, rtol=5e-3)


def test_only_the_current_scan_has_labels(merged: Path, root: Path) -> None:
    scans = build_dataset(configured("moving_minkunet", root), "train")
    scan = scans.load(3)
    past = scan.points["sweep"] > 0
    assert past.any() and not scan.labels[past].any() and scan.labels[~past].any()
    view = configured("moving_minkunet", root).parse(DataConfig, "data")
    batch = collate([make_sample(scan, 3, view.model_copy(update={"augment": None}))])
    current = torch.zeros(len(batch.cells), dtype=torch.bool)
    current[batch.cells.of_point[batch.keyframe]] = True
    assert not batch.labels[~current].any()
