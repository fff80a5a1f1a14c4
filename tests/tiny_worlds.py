"""What the tiny worlds of ``conftest.py`` are made of."""

from __future__ import annotations

from core.datasets.synthetic import WorldSpec

TINY = {"seed": 3, "keyframes": 2, "image_scale": 0.06, "lidar_scale": 0.15, "workers": 1}


def waymo_spec(name: str) -> WorldSpec:
    """The world of ``tiny_waymo_v1`` and ``tiny_waymo_v2``: range images of 64 x 132, images of 96 x 64 and 96 x 44."""
    small = TINY | {"scenes": 2, "val_scenes": 1, "image_scale": 0.05, "lidar_scale": 0.05}
    return WorldSpec(format=name, sweeps_per_keyframe=1, **small)
