"""What is looked at before a job begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.config import Config
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.errors import UserError


def opened(root: Path, **data: object) -> Context:
    tree = {
        "num_epochs": 1,
        "batch_size": 1,
        "workers_per_gpu": 0,
        "dataset": {"name": "semantickitti", "root": str(root), "split": {"train": ["00"]}},
        "data": {"voxel_size": 0.4, "images": True, "image_size": [32, 18], **data},
        "model": {"name": "minkunet", "cr": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    return Context.open(Config(tree), World())


def test_missing_images_stop_a_job_with_cameras_at_once(tiny_kitti: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_kitti, tmp_path / "root"))
    opened(root).dataset("train", training=True)
    for path in (root / "sequences/00/image_2").iterdir():
        path.unlink()
    message = r"image_2/000000\.png: .*does not exist.*data_odometry_color\.zip, the KITTI odometry"
    for training in (True, False):
        with pytest.raises(UserError, match=message):
            opened(root).dataset("train", training=training)
    opened(root, eval_images=False).dataset("train")
    opened(root, images=False).dataset("train", training=True)
    opened(root, on_bad_sample="skip").dataset("train", training=True)  # scan by scan, with a limit
