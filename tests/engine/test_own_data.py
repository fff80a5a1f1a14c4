"""The example of one's own data, copied elsewhere, is a whole job as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folder_world import write_scan

from core.check_data.inspection import inspect_split
from core.config import load_config
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.experiment import check_config
from core.models import build_model

EXAMPLE = Path(__file__).parents[2] / "configs" / "folder" / "example.yaml"


def test_the_example_works_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    config = load_config(job, ["--model.cr", "0.05", "--workers_per_gpu", "0"])
    check_config(config)
    for split, count in (("train", 10), ("val", 2)):
        report = inspect_split(config, split)
        assert report.ok and report.points is not None and report.points["car"] == 40 * count
    context = Context.open(config, World())
    loader = context.loader(context.dataset("train"), training=True)
    loader.set_epoch(0, 0)
    batch = next(iter(loader))
    torch.manual_seed(0)
    network = build_model(config, context.dataset("train").labels.num_classes)
    assert torch.isfinite(network(batch).logits).all() and len(batch.tokens) == 2
