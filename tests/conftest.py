"""Tiny synthetic worlds, written once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_worlds import TINY, waymo_spec

from core.datasets.synthetic import WorldSpec, generate
from core.engine.run.stopping import StopSignals


@pytest.fixture(scope="session")
def tiny_nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nuScenes v1.0-mini layout: one training and both validation scenes, 2 keyframes each, 2 sweeps between."""
    return generate(
        tmp_path_factory.mktemp("tiny_nuscenes"), WorldSpec(format="nuscenes", scenes=3, **TINY)
    )


@pytest.fixture(scope="session")
def tiny_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SemanticKITTI layout: sequences 00 (training) and 08 (validation), 2 scans each."""
    return generate(
        tmp_path_factory.mktemp("tiny_kitti"), WorldSpec(format="semantickitti", scenes=2, **TINY)
    )


@pytest.fixture(scope="session")
def tiny_waymo_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Waymo's files of records: one training and one validation segment of 3 frames, the first and last labelled."""
    return generate(tmp_path_factory.mktemp("tiny_waymo_v1"), waymo_spec("waymo-v1"))


@pytest.fixture(scope="session")
def tiny_waymo_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same segments as Waymo's tables."""
    return generate(tmp_path_factory.mktemp("tiny_waymo_v2"), waymo_spec("waymo-v2"))


@pytest.fixture(scope="session")
def tiny_spec() -> dict:
    """The arguments both tiny worlds share."""
    return dict(TINY)


@pytest.fixture(autouse=True)
def signals_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run inside a test do not listen for signals to the tests' own process."""
    monkeypatch.setattr(StopSignals, "install", lambda _: None)
