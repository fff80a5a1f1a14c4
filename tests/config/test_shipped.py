"""The configurations of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from core.config import load_config
from core.data import DataConfig
from core.datasets import dataset_class
from core.engine.run.experiment import Experiment
from core.models import build_model

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs" / "recipes"


def runnable(path: Path) -> bool:
    """A file that a command takes: neither what others share nor a recipe."""
    return path.name != "default.yaml" and RECIPES not in path.parents


CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "configs").rglob("*.yaml")
    if runnable(path)
)


def test_there_are_configurations() -> None:
    assert "configs/synthetic/minkunet_demo.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_configuration_is_valid(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    experiment = Experiment.from_config(config)
    reader = dataset_class(config)
    dataset = config.parse(reader.Config, "dataset")
    config.parse(DataConfig, "data")
    with torch.device("meta"):  # structure without memory: the real widths, at once
        model = build_model(config, reader.label_space(dataset).num_classes, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 0
    assert experiment.scheduler.warmup_steps >= 0


ABSOLUTE = re.compile(
    r"""["'\s=:(]((?:/(?:home|Users|root|mnt|media|work|scratch|workspace|tmp)/|[A-Z]:\\)[\w.-]+)"""
)


def test_absolute_path_pattern() -> None:
    assert ABSOLUTE.search("root: " + "/ho" + "me/me/data") and ABSOLUTE.search(
        '"' + "/t" + 'mp/x"'
    )
    assert not ABSOLUTE.search("export ROOT=/your/folder  a/work/b  https://host/home/x")


def test_no_absolute_paths_in_configurations_or_code() -> None:
    files = [
        p
        for folder in ("core", "configs", "csrc", "benchmarks", "tests")
        for p in (ROOT / folder).rglob("*")
    ]
    files += [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "Makefile"]
    kinds = {".py", ".yaml", ".cpp", ".cu", ".h", ".hpp", ".toml", ""}
    files = [p for p in files if p.is_file() and p.suffix in kinds and "_lib" not in p.parts]
    found = [
        f"{p.relative_to(ROOT)}: {m.group(1)}"
        for p in files
        for m in ABSOLUTE.finditer(p.read_text())
    ]
    assert len(files) > 50 and found == []
