"""A few small random scans on disk, and a configuration that trains on them in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CONFIG = """
num_epochs: 3
batch_size: 2
workers_per_gpu: 0
dataset:
  name: folder
  root: {root}
  scans: "*.bin"
  labels: "{{stem}}.label"
  point_fields: 4
  label_dtype: uint32
  label_space: semantickitti
  split: {{train: [0, 7], val: [8, 10]}}
data: {{voxel_size: 0.4}}
model: {{name: spvcnn, cr: 0.25}}
optimizer: {{name: adamw, lr: 0.003}}
scheduler: {{name: cosine_warmup, warmup_steps: 2}}
train: {{save_every: 1, grad_clip: 10.0}}
eval: {{pictures: 0}}
"""


def write_scan(folder: Path, index: int, points: int = 700) -> None:
    """Ground (road), a box (car) and a wall (building), each with its own label."""
    rng = np.random.default_rng(index)
    third = points // 3
    ground = np.c_[rng.uniform(-20, 20, (third, 2)), rng.normal(-1.7, 0.02, third)]
    car = np.array([5.0, 2.0 + index % 3, -1.0]) + rng.uniform(-1, 1, (third, 3))
    wall = np.c_[rng.uniform(-20, 20, third), np.full(third, 10.0), rng.uniform(-1.7, 3, third)]
    xyz = np.concatenate([ground, car, wall])
    scan = np.c_[xyz, rng.uniform(0, 1, len(xyz))].astype(np.float32)
    labels = np.repeat(np.array([40, 10, 50], np.uint32), third)
    scan.tofile(folder / f"{index:03d}.bin")
    labels.tofile(folder / f"{index:03d}.label")


def write_world(folder: Path, scans: int = 11) -> Path:
    """Scans and ``config.yaml``; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(scans):
        write_scan(folder, index)
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(root=folder))
    return path
