"""What a person may write into ``model:``, and scans of one point, for every network of the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.config import Config
from core.contracts import Batch, Points, Scan
from core.data import collate, make_sample
from core.errors import UserError
from core.models import LIDAR_MODELS, MODELS, build_model
from core.models.probe import inputs_of
from core.sparse import fold_batch_norm

SMALL: dict[str, dict[str, Any]] = {
    "minkunet": {"cr": 0.125},
    "spvcnn": {"cr": 0.125},
    "spvcnn_spformer": {"cr": 0.5},
    "sphereformer": {"layers": [16, 32]},
    "twodpass": {"hidden": 16},
    "cylinder3d": {"width": 2, "voxel_features": 4, "point_features": 8},
    "srunet": {"cr": 0.125},
    "voxelnet": {},
    "cenet": {"width": 4},
    "motionbev": {"width": 8, "heights": 4, "motion_channels": 1},
    "mambamos": {
        "encoder_depths": [1, 1],
        "encoder_channels": [8, 8],
        "decoder_depths": [1],
        "decoder_channels": [8],
    },
    "lidar_camera": {"lidar": {"name": "spvcnn", "cr": 0.125}, "image": {"decoder_channels": 8}},
}
CELLS: dict[str, dict[str, Any]] = {
    "cylinder3d": {"partition": {"name": "cylinder"}},
    "cenet": {"partition": {"name": "range_image", "height": 16, "width": 32}},
    "voxelnet": {"partition": {"name": "grid"}},
    "motionbev": {"partition": {"name": "cylinder", "bins": [32, 32, 4]}},
}
LIDAR = [
    {"lidar": {"name": "spvcnn_spformer", "cr": 0.25}},
    {"lidar": {"name": "minkunet", "cr": 0}},
]
IMAGE = [
    {"image": {"decoder_channels": 10**9}},
    {"image": {"spp_grids": [0]}},
    {"image": {"spp_grids": []}},
]
ABSURD: dict[str, list[dict[str, Any]]] = {
    "minkunet": [{"cr": value} for value in (0, -1, 0.01, 1e9, float("nan"), float("inf"))],
    "spvcnn": [{"cr": value} for value in (0, -1, 0.01, 1e9)] + [{"dropout": 1.0}, {"dropout": -0.1}],
    "spvcnn_spformer": [
        {"cr": 0.25}, {"cr": 0.7}, {"cr": 0.01}, {"window_size": 0}, {"window_size_sphere": [0, 2, 120]},
        {"window_size_scale": [2.0, -1]}, {"a": 0}, {"drop_path_rate": 1},
    ],
    "sphereformer": [
        {"layers": []}, {"layers": [0]}, {"layers": [24]}, {"layers": [-16, 16]}, {"layers": [16] * 40},
        {"layers": [1 << 40]}, {"block_reps": 0}, {"block_reps": 10**9}, {"window_size": -0.3},
    ],
    "twodpass": [
        {"hidden": 0}, {"hidden": 10**9}, {"scales": []}, {"scales": [0]}, {"scales": [2] * 99}, {"shape": [0, 9, 9]},
        {"shape": [10**9, 9, 9]}, {"low": [60, -50, -4]},
    ],
    "cylinder3d": [
        {"width": 0}, {"width": 10**9}, {"voxel_features": 0}, {"voxel_features": 10**9}, {"point_features": -1},
    ],
    "srunet": [{"cr": value} for value in (0, 0.01, 1e9)] + [{"kernel_size": 4}, {"bn_momentum": 0}],
    "voxelnet": [{"max_points": 0}, {"normalize": 3}],
    "cenet": [
        {"width": 0}, {"width": 7}, {"width": 10**9}, {"std": [1, 1, 0, 1, 1]}, {"knn": {"search": 4}},
        {"knn": {"search": 10**9 + 1}}, {"knn": {"neighbours": 0}}, {"knn": {"sigma": 0}}, {"knn": {"cutoff": -1}},
    ],
    "motionbev": [
        {"width": 0}, {"width": 12}, {"width": 10**9}, {"heights": 0}, {"heights": 10**9}, {"point_features": 0},
        {"dropblock": 1}, {"dropout": -0.1}, {"motion_channels": 0}, {"seam": "open"},
    ],
    "mambamos": [
        {"encoder_depths": [2]}, {"encoder_depths": [2, 2, 2, 6, 0]}, {"encoder_channels": [8] * 4},
        {"encoder_channels": [10**9] * 5}, {"decoder_channels": [0] * 4}, {"drop_path_rate": 1}, {"dropout": -1},
    ],
    "lidar_camera": LIDAR + IMAGE,
}  # fmt: skip


def config_of(name: str, options: dict[str, Any]) -> Config:
    data = CELLS.get(name, {"voxel_size": 0.2})
    return Config({"data": data, "model": {"name": name, **options}}, source="job.yaml")


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, cases in ABSURD.items() for options in cases],
    ids=str,
)
def test_numbers_that_fit_no_network_name_their_key(name, options):
    assert set(ABSURD) == set(MODELS), "a network without absurd numbers"
    with pytest.raises(UserError) as caught:
        build_model(config_of(name, options), 5)
    (key,) = options
    message = str(caught.value)
    assert f"model.{key}" in message or ("section 'model'" in message and key in message)
    assert "job.yaml" in message


def test_a_width_that_attention_cannot_share_says_which_it_can():
    with pytest.raises(UserError, match=r"model\.cr.*multiples of 16.*\[8, 16, 32, 64\]"):
        build_model(config_of("spvcnn_spformer", {"cr": 0.25}), 5)


def test_windows_smaller_than_can_be_counted_are_said():
    torch.manual_seed(0)
    network = build_model(config_of("spvcnn_spformer", {"cr": 0.5, "window_size": 1e-9}), 5)
    with pytest.raises(UserError, match=r"model\.window_size.*too small for scans that reach"):
        network(batch_of(network, np.random.default_rng(0).normal(0, 20, (50, 3))))


def batch_of(network: nn.Module, *scans: np.ndarray) -> Batch:
    """Scans in the cells that the network reads."""
    samples = []
    for index, xyz in enumerate(scans):
        intensity = np.full(len(xyz), 0.5, np.float32)
        label = np.ones(len(xyz), np.uint8)
        points = Points(np.asarray(xyz, np.float32), intensity=intensity, label=label)
        samples.append(make_sample(Scan(f"s{index}", points), index, inputs_of(network).data))
    return collate(samples)


@pytest.mark.parametrize(
    "scans", [([[3.0, 2, -1]],), ([[3.0, 2, -1]] * 3,), ([[3.0, 2, -1]], [[9.0, 0, 0]])]
)
@pytest.mark.parametrize("name", list(SMALL))
def test_scans_of_one_voxel_train_and_predict(name, scans):
    """One point, one voxel of three points, two scans of one voxel: a step in training, and a pass in evaluation."""
    assert set(SMALL) == set(MODELS) and set(LIDAR_MODELS) < set(SMALL)
    torch.manual_seed(0)
    network = build_model(config_of(name, SMALL[name]), 5)
    batch = batch_of(network, *map(np.array, scans))
    logits = network.train()(batch).logits
    logits.float().logsumexp(1).sum().backward()
    assert torch.isfinite(logits).all() and len(logits) == len(scans)
    for parameter in network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    with torch.no_grad():
        plain, folded = network.eval()(batch).logits, fold_batch_norm(network)(batch).logits
    assert torch.isfinite(plain).all()
    torch.testing.assert_close(plain, folded, rtol=1e-3, atol=1e-3)
