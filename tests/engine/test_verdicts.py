"""A count that is shown is part of the verdict: parts of official splits, and splits in which nothing has a class."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_world import write_world

from core.config import Config, load_config
from core.data.config import DataConfig
from core.data.instances.build import training_scans
from core.data.labelled import find_unlabelled
from core.datasets import build_dataset
from core.datasets.base import MANIFEST
from core.datasets.official import check_complete, shortfall
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.robustness import evaluate_robustness
from core.engine.score.submission import submit_checkpoint
from core.engine.train.jobs import train_teacher
from core.errors import UserError


# --- official splits ------------------------------------------------------------------------------------------------
@pytest.fixture
def real(tiny_kitti: Path, tmp_path: Path) -> Path:
    """A root that looks like a part of the real SemanticKITTI: two scans of sequence 00 and of 08."""
    root = tmp_path / "kitti"
    shutil.copytree(tiny_kitti, root)
    (root / MANIFEST).unlink()
    return root


def job(root: Path, **dataset: object) -> Config:
    tree = {"dataset": {"name": "semantickitti", "root": str(root), **dataset}}
    tree |= {"num_epochs": 1, "batch_size": 1, "model": {"name": "minkunet", "cr": 0.1}}
    return Config(tree, source="job.yaml")


def test_a_part_of_an_official_split_stops_every_job(real: Path, tmp_path: Path) -> None:
    train = (
        r"train has 2 of the official 19,130 scans \(no scan of sequences 01, 02, 03, 04, 05, 06, 07, 09, 10\)"
        r".*check_data CONFIG.*dataset\.partial: true"
    )
    val = "val has 2 of the official 4,071 scans"
    with pytest.raises(UserError, match=train):
        train_teacher(World(), job(real), tmp_path / "run")
    with pytest.raises(UserError, match=train):
        training_scans(job(real))
    context = Context.open(job(real), World())
    with pytest.raises(UserError, match=val):
        context.dataset("val")
    assert not (tmp_path / "run").exists()


def test_what_needs_no_flag(real: Path, tiny_kitti: Path, tmp_path: Path) -> None:
    check_complete(build_dataset(job(real, partial=True), "train"))
    own = {"split": {"train": ["00"], "val": ["08"]}}
    frames = {"frames": {"train": {"00": [0, 1]}, "val": {"08": [0, 0]}}}
    for keys in (own, frames):
        for split in ("train", "val"):
            scans = build_dataset(job(real, **keys), split)
            assert scans.expected is None and shortfall(scans) is None
    made_up = build_dataset(job(tiny_kitti), "train")
    assert made_up.made_up and made_up.expected is None and made_up.complete
    assert not made_up.is_official and made_up.left_out() == []
    assert made_up.sequences == ("00",)


def test_a_split_named_by_hand_that_is_whole_is_official(real: Path, monkeypatch) -> None:
    from core.datasets.semantickitti import reader

    monkeypatch.setitem(reader._OFFICIAL_COUNTS, "val", 2)
    scans = build_dataset(job(real, split={"val": ["08"]}), "val")
    assert scans.expected == 2 and scans.is_official


# --- nothing labelled -----------------------------------------------------------------------------------------------
def unlabel(config: Path, scans: range, raw: int = 0) -> None:
    for index in scans:
        np.full(699, raw, np.uint32).tofile(config.parent / f"{index:03d}.label")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_world(tmp_path / "scans")


def train(config: Path, folder: Path, *overrides: str) -> None:
    train_teacher(World(), load_config(config, ["--num_epochs", "1", *overrides]), folder)


def test_a_training_split_without_a_class_stops_before_the_first_step(config, tmp_path) -> None:
    unlabel(config, range(8), raw=1)  # "outlier", which is ignored
    found = r"train split: 0 of 5,592 points of 8 scans have a class .*'semantickitti' \(raw ids found: 1\)"
    with pytest.raises(UserError, match=found):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_labelled_point_is_enough(config) -> None:
    unlabel(config, range(8))
    dataset = build_dataset(load_config(config), "train")
    assert find_unlabelled(dataset, DataConfig()) is not None
    labels = np.zeros(699, np.uint32)
    labels[600] = 50  # of the wall
    labels.tofile(config.parent / "005.label")
    assert find_unlabelled(dataset, DataConfig()) is None
    box = DataConfig(point_range=(-5.0, -5.0, -3.0, 5.0, 5.0, 3.0))
    outside = find_unlabelled(dataset, box)
    assert outside is not None and "outside data.point_range" in str(outside.error())


def test_a_validation_split_without_a_class_gives_weights_and_no_score(config, tmp_path) -> None:
    unlabel(config, range(8, 11))
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"val split: 0 of 2,097 .* has no score; .*last\.pt"):
        train(config, run)
    names = {path.name for path in (run / "checkpoints").glob("*.pt")}
    assert "last.pt" in names and not names & {"best.pt", "max-iou-val-vox.pt"}
    for line in (run / "scalars.jsonl").read_text().splitlines():
        assert all(math.isfinite(value) for value in json.loads(line).values())
    assert not (run / "report.html").exists() and not list(run.glob("evaluation-*"))
    checkpoint, loaded = run / "checkpoints/last.pt", load_config(config)
    with pytest.raises(UserError, match="val split: 0 of 2,097 points of 3 scans"):
        evaluate_checkpoint(World(), loaded, checkpoint, run)
    with pytest.raises(UserError, match="val split: 0 of 2,097 points of 3 scans"):
        evaluate_robustness(World(), loaded, checkpoint, run, profile="robo3d")
    assert not list(run.glob("evaluation-*")) and not list(run.glob("robustness-*/*.json"))


def test_a_submission_needs_the_whole_split(real: Path, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ["--model.name", "minkunet", "--model.cr", "0.1", "--data.voxel_size", "0.4"]
    train(config, run, *overrides)
    whole = job(real)
    with pytest.raises(UserError, match="val has 2 of the official 4,071 scans"):
        submit_checkpoint(World(), whole, run, tmp_path / "out", split="val")
    assert not (tmp_path / "out").exists()
