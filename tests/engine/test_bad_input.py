"""Each way a run can be fed wrongly: one clear paragraph, exit code 2, nothing saved is lost."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_world import write_world
from launched import BIN, ENV

from core.config import load_config
from core.engine.run.distributed import World
from core.engine.run.store import CheckpointStore
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.train.jobs import train_teacher
from core.errors import UserError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path) -> Path:
    return write_world(tmp_path / "scans")


def run(config: Path, folder: Path, *overrides: str) -> None:
    train_teacher(World(), load_config(config, ["--num_epochs", "1", *overrides]), folder)


def damage(config: Path, name: str, data: bytes) -> None:
    (config.parent / name).write_bytes(data)


DAMAGES = {
    "truncated .bin": ("003.bin", b"\0" * 1003, "003.bin"),
    "label count": ("003.label", np.zeros(7, np.uint32).tobytes(), "7"),
    "unknown label id": ("003.label", np.full(699, 777, np.uint32).tobytes(), "777"),
    "NaN coordinates": ("003.bin", np.full((699, 4), np.nan, np.float32).tobytes(), "003.bin"),
    "empty scan": ("003.bin", b"", "003.bin"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_scan_stops_the_run_and_names_the_file(config, tmp_path, kind):
    name, data, word = DAMAGES[kind]
    damage(config, name, data)
    with pytest.raises(UserError) as error:
        run(config, tmp_path / "run")
    assert word in str(error.value) and "003" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_skip_policy_counts_and_lists(config, tmp_path, kind):
    name, data, _ = DAMAGES[kind]
    damage(config, name, data)
    run(config, tmp_path / "run", "--data.on_bad_sample", "skip")
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert len(skipped) == 1 and "003" in skipped[0]


def test_command_prints_one_paragraph_and_exits_with_2(config, tmp_path):
    text = config.read_text().replace("num_epochs", "num_epoch")
    config.write_text(text)
    result = subprocess.run(
        [sys.executable, "train_teacher.py", str(config), "--run-dir", str(tmp_path / "run")],
        cwd=REPO, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    assert "did you mean 'num_epochs'" in result.stderr and str(config) in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_bad_scan_of_a_silent_rank_is_shown(config, tmp_path):
    damage(
        config, "009.bin", b"\0" * 5
    )  # of the three scans of the val split, the one that rank 1 reads first
    job = [
        sys.executable,
        "train_teacher.py",
        str(config),
        "--run-dir",
        str(tmp_path),
        "--num_epochs",
        "1",
    ]
    result = subprocess.run(
        [BIN / "torchpack", "dist-run", "-np", "2", *job, "--batch_size", "1"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        env=ENV,
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "[rank 1]" in result.stdout and "009.bin" in result.stdout


def test_checkpoint_of_another_model(config, tmp_path):
    run(config, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "max-iou-val-vox.pt"
    with pytest.raises(UserError, match=r"another model: .*vox_downs.*model.cr|config.yaml"):
        evaluate_checkpoint(
            World(), load_config(config, ["--model.cr", "0.5"]), best, tmp_path / "other"
        )
    labels = tmp_path / "labels.yaml"
    labels.write_text("classes: [ignore, road, car, wall]\nmap: {0: 0, 40: 1, 10: 2, 50: 3}\n")
    with pytest.raises(UserError, match="other classes"):
        evaluate_checkpoint(
            World(),
            load_config(config, ["--dataset.label_space", str(labels)]),
            best,
            tmp_path / "other",
        )


def test_other_configuration_in_the_same_run_folder(config, tmp_path):
    run(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"optimizer.lr was 0.003 and is 0.1"):
        run(config, tmp_path / "run", "--optimizer.lr", "0.1")


def test_nan_loss_stops_and_writes_the_tokens(config, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        run(
            config,
            tmp_path / "run",
            "--optimizer.lr",
            "1e30",
            "--optimizer.name",
            "sgd",
            "--train.grad_clip",
            "1e30",
        )
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert len(record["tokens_by_rank"][0]) == 2
    step = max(
        e["step"] for e in CheckpointStore(tmp_path / "run" / "checkpoints").manifest().values()
    )
    assert step < record["step"]


def test_full_disk_keeps_what_was_saved(config, tmp_path):
    run(config, tmp_path / "run")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    before = store.manifest()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(UserError, match="Free some disk space"):
            store.save({"model": {"w": torch.zeros(500_000)}, "global_step": 99})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.manifest() == before and store.newest() is not None
    assert not list(store.folder.glob(".*")) and not list(store.folder.glob("step-00000099*"))


def test_missing_checkpoint(config, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        evaluate_checkpoint(World(), load_config(config), tmp_path / "none.pt", tmp_path)
