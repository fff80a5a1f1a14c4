"""Worlds without images: the same scans, tables without cameras, towns that do not depend on how many there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.datasets import build_dataset
from core.datasets.synthetic import WorldSpec, generate
from core.errors import UserError


def opened(root: Path, name: str = "nuscenes"):
    return build_dataset(
        Config({"dataset": {"name": name, "root": str(root)} | VERSION[name]}), "train"
    )


VERSION: dict[str, dict] = {"nuscenes": {"version": "v1.0-mini"}, "semantickitti": {}}


@pytest.mark.parametrize("name", ["nuscenes", "semantickitti"])
def test_scans_are_those_of_the_world_with_images(
    name: str, tmp_path: Path, tiny_spec: dict, request: pytest.FixtureRequest
) -> None:
    """More towns, no images: the first town is the same, byte for byte, and cameras are told to be missing."""
    with_images = request.getfixturevalue(f"tiny_{name.removeprefix('semantic')}")
    spec = WorldSpec(format=name, scenes=4, val_scenes=1, **tiny_spec | {"image_scale": 0})
    root = generate(tmp_path / "bare", spec)
    assert not list(root.rglob("*.jpg")) and not list(root.rglob("image_2"))
    ours, theirs = opened(root, name), opened(with_images, name)
    assert len(ours) == 6 and len(theirs) == 2
    for index in range(2):
        a, b = ours.load(index, cameras=False), theirs.load(index, cameras=False)
        assert np.array_equal(a.xyz, b.xyz) and np.array_equal(a.labels, b.labels)
        assert ours.files(index).points.read_bytes() == theirs.files(index).points.read_bytes()
    assert any(gap.needed_for == "cameras" for gap in ours.gaps())
    with pytest.raises(UserError, match=r"has no camera|does not exist"):
        ours.check_images()


def test_tables_list_no_camera(tmp_path: Path, tiny_spec: dict) -> None:
    spec = WorldSpec(scenes=1, val_scenes=0, **tiny_spec | {"image_scale": 0})
    root = generate(tmp_path, spec)
    channels = json.loads((root / "v1.0-mini" / "sample_data.json").read_text())
    assert {row["fileformat"] for row in channels} == {"pcd"}
    assert len(json.loads((root / "v1.0-mini" / "calibrated_sensor.json").read_text())) == 1
    dataset = opened(root)
    assert dataset.load(0).cameras == () and dataset.files(0).images == {}
    with pytest.raises(UserError, match=r"no camera\. Write the world with images.*--image-scale"):
        dataset.check_images()


def test_a_spec_says_what_it_said_before() -> None:
    """Worlds on disk are told by their spec; a new key would write all of them again."""
    assert set(asdict(WorldSpec())) == {
        "format",
        "seed",
        "scenes",
        "val_scenes",
        "keyframes",
        "sweeps_per_keyframe",
        "image_scale",
        "lidar_scale",
        "workers",
    }
    with pytest.raises(UserError, match="image_scale"):
        WorldSpec(image_scale=0.005)
