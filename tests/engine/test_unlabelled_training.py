"""A training on labelled scans, the rest and further scenes: what it tells, and what it does not go on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_world import write_scan

from core.check_data.inspection import inspect_split
from core.config import Config, load_config
from core.data import DataConfig, SampleKey, ScanSamples
from core.data.labelled import absent_classes, missing_labels
from core.datasets import build_dataset
from core.engine.run.distributed import World
from core.engine.train.jobs import train_teacher
from core.errors import UserError

CONFIG = """
num_epochs: 1
batch_size: 2
workers_per_gpu: 0
amp: {{enabled: false}}
dataset:
  name: folder
  root: {root}
  scans: "*.bin"
  point_fields: 4
  label_files: "{{stem}}.label"
  label_dtype: uint32
  label_bits: 16
  labels: semantickitti
  split: {{train: [0, 3], val: [4, 5]}}
  labelled: {{fraction: 0.5}}
  unlabelled: [rest, scenes]
  unlabelled_scenes: {{root: {more}, split: {{}}}}
data: {{voxel_size: 0.5}}
model: {{name: minkunet, cr: 0.1}}
optimizer: {{name: adamw, lr: 0.01}}
eval: {{pictures: 0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Six scans, two of the four for training labelled; three more, whose intensities reach 255."""
    own, more = tmp_path / "own", tmp_path / "more"
    for folder, numbers in ((own, range(6)), (more, range(10, 13))):
        folder.mkdir()
        for number in numbers:
            write_scan(folder, number)
    for path in more.glob("*.bin"):
        values = np.fromfile(path, np.float32).reshape(-1, 4)
        values[:, 3] *= 255
        values.tofile(path)
    for path in more.glob("*.label"):
        path.write_bytes(b"nobody reads this")
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=own, more=more))
    return load_config(tmp_path / "config.yaml", [])


def test_what_a_training_tells_of_its_scans(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts, classes without a labelled point, another unit of intensity; a run goes on with the same scans alone."""
    train_teacher(World(), config, tmp_path / "run")
    told = capsys.readouterr().err
    assert "7 scans, 2 labelled, 2 rest, 3 scenes" in told
    absent = next(line for line in told.splitlines() if "no labelled scan has a point of" in line)
    assert "bicycle, " in absent and " car," not in absent and "building" not in absent
    assert "unlabelled_scenes: intensities reach 25" in told
    assert len((tmp_path / "run" / "labelled.txt").read_text().split()) == 2
    write_scan(tmp_path / "more", 13)
    with pytest.raises(UserError, match=r"dataset\.unlabelled'.*other unlabelled scans"):
        train_teacher(World(), config, tmp_path / "run")


def test_the_check_of_data_counts_labelled_points(config: Config) -> None:
    """Label files of other scenes are no fault, and nothing is counted of them or the rest."""
    report = inspect_split(config, "train")
    assert report.ok and report.scans == 7
    assert report.points is not None and sum(report.points.values()) == 2 * 699
    assert inspect_split(config, "train", quick=True).ok


def test_classes_of_the_labelled_scans(config: Config, tmp_path: Path) -> None:
    dataset = build_dataset(config, "train")
    assert missing_labels(dataset, "") is None
    names = set(dataset.labels.classes[1:])
    assert set(absent_classes(dataset)) == names - {"road", "car", "building"}
    for name in dataset.labelled_tokens:
        (tmp_path / "own" / f"{name}.label").write_bytes(b"short")
    assert "car" in absent_classes(dataset)


def test_a_damaged_scan_is_followed_by_one_of_its_kind(config: Config, tmp_path: Path) -> None:
    dataset = build_dataset(config, "train")
    labelled = np.flatnonzero(dataset.budget).tolist()
    first = dataset.files(labelled[0]).points
    shutil.copy(first, tmp_path / "kept")
    first.write_bytes(b"short")
    samples = ScanSamples(dataset, DataConfig(voxel_size=0.5, on_bad_sample="skip"), training=True)
    made = samples[SampleKey(0, labelled[0])]
    assert made.token == dataset.token(labelled[1]) and made.skipped
