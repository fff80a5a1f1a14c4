"""The example of one's own data, copied elsewhere: it checks, trains and predicts as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folder_world import write_scan

from core.check_data import inspect_split
from core.config import load_config
from core.engine.run.distributed import World
from core.engine.score.prediction import predict_checkpoint
from core.engine.train.jobs import train_teacher

EXAMPLE = Path(__file__).parents[2] / "configs" / "folder" / "example.yaml"


def test_the_example_works_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / "my scans"
    scans.mkdir()
    for index in range(12):
        write_scan(scans, index, points=120)
    monkeypatch.setenv("SCANS_ROOT", str(scans))
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "elsewhere" / "my.yaml"
    job.parent.mkdir()
    job.write_text(EXAMPLE.read_text())
    options = ["--num_epochs", "1", "--model.cr", "0.05", "--dataset.split.train", "[0, 1]"]
    config = load_config(job, [*options, "--workers_per_gpu", "0"])
    for split in ("train", "val"):
        report = inspect_split(config, split)
        assert report.ok and report.histogram is not None and report.histogram["car"] == 80
    train_teacher(World(), config, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    predict_checkpoint(World(), config, checkpoint, str(scans / "003.bin"), tmp_path / "out")
    assert np.fromfile(tmp_path / "out" / "003.label", "<u4").shape == (120,)
    assert "1 scans predicted" in capsys.readouterr().out
