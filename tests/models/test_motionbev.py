"""MotionBEV: published sizes, learnt upsampling, a circle that closes, logits of cells, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_samples import unlike_new
from torch import Tensor

from core.config import Config
from core.contracts import Batch, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.errors import UserError
from core.models import build_model
from core.models.lidar.motionbev import MotionBEV
from core.models.lidar.polar_blocks import DropBlock, DySample, PolarBlock, PolarConv, UpBlock

BINS = [32, 48, 4]
PARTITION = {"name": "cylinder", "bins": BINS, "low": [0, -180, -2], "high": [16, 180, 2]}
SMALL = {"width": 8, "heights": 4, "point_features": 12}
COLUMN = {"file": "{token}.npz", "channels": 8, "motion": {}}


def make(classes: int = 4, partition: dict | None = None, **options: Any) -> MotionBEV:
    torch.manual_seed(0)
    tree = {
        "dataset": {"columns": {"motion": COLUMN}},
        "data": {
            "features": ["xyz", "intensity", "motion"],
            "partition": partition or PARTITION,
        },
        "model": {"name": "motionbev", **options},
    }
    return build_model(Config(tree=tree), classes)


def scan(seed: int = 0, points: int = 400) -> Scan:
    rng = np.random.default_rng(seed)
    made = Points(
        xyz=rng.uniform((-18, -18, -2.5), (18, 18, 2.5), (points, 3)).astype(np.float32),
        intensity=rng.random(points).astype(np.float32),
        label=rng.integers(0, 4, points).astype(np.uint8),
        motion=np.where(rng.random((points, 8)) < 0.1, 1.5, 0).astype(np.float32),
    )
    return Scan(f"scan{seed}", made)


def batch_of(*scans: Scan, **partition: Any) -> Batch:
    data = DataConfig.model_validate(
        {
            "features": ["xyz", "intensity", "motion"],
            "partition": {**PARTITION, **partition},
            "augment": None,
        }
    )
    return collate([make_sample(one, i, data) for i, one in enumerate(scans)])


# --- published sizes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("classes", "unused", "parameters"),
    [(4, True, 4_031_366), (4, False, 4_025_854), (2, True, 4_029_254)],
)
def test_published_parameters(classes, unused, parameters):
    network = make(classes, unused_attention=unused)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(2, 4_362_406), (4, 4_364_518)])
def test_published_parameters_with_transposed_convolutions(classes, parameters):
    network = make(classes, unused_attention=True, upsampling="transposed")
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(p.numel() for up in network.ups for p in up.up.parameters()) == 348_640


def test_published_parts():
    network = make(unused_attention=True)
    counts = {
        "points": 44_242,
        "compression": 8_224,
        "appearance": 2_363_776,
        "motion": 295_216,
        "gates": 303_332,
        "ups": 1_012_352,
        "head": 4_224,
    }
    for name, count in counts.items():
        assert sum(p.numel() for p in getattr(network, name).parameters()) == count
    assert sum(p.numel() for up in network.ups for p in up.up.parameters()) == 15_488


def test_published_levels():
    network = make(width=8).eval()
    with torch.no_grad():
        maps = network.stages(torch.zeros(1, 8, 480, 360), torch.zeros(1, 8, 480, 360))
    sizes = [(480, 360), (240, 180), (120, 90), (60, 45), (30, 22)]
    assert [tuple(x.shape[2:]) for x in maps] == sizes + sizes[3::-1]
    assert [x.shape[1] // 8 for x in maps] == [1, 2, 4, 8, 8, 4, 2, 1, 1]


# --- upsampling -----------------------------------------------------------------------------------------------------
def without_offsets(layer: DySample) -> DySample:
    torch.nn.init.zeros_(layer.offset.weight)
    return layer


def test_upsampling_starts_bilinear():
    x = torch.randn(2, 8, 5, 6)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        without_offsets(DySample(8, "published"))(x), expected, atol=1e-6, rtol=0
    )
    around = F.interpolate(torch.cat([x] * 3, 3), scale_factor=2, mode="bilinear")[..., 12:24]
    found = without_offsets(DySample(8, "closed"))(x)
    torch.testing.assert_close(found, around, atol=1e-6, rtol=0)
    assert DySample(8, "closed").offset.weight.abs().max() < 0.01


def test_upsampling_reads_where_its_layer_says():
    layer = without_offsets(DySample(4, "published"))
    with torch.no_grad():
        layer.offset.bias.view(2, 4, 4)[0, 1] = (
            4.0  # group 1: a quarter of it, one pixel to the right
        )
    x = torch.randn(1, 4, 3, 7)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    moved = layer(x)
    torch.testing.assert_close(moved[:, [0, 2, 3]], expected[:, [0, 2, 3]], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, 1, :, :11], expected[:, 1, :, 2:13], atol=1e-6, rtol=0)


# --- the circle -----------------------------------------------------------------------------------------------------
def turned(x: Tensor, columns: int) -> Tensor:
    return x.roll(columns, 3)


@pytest.mark.parametrize("columns", [1, 5])
def test_blocks_turn_with_their_input(columns):
    x, skip = torch.randn(1, 8, 4, 6), torch.randn(1, 4, 8, 12)
    for block in (PolarConv(8, 3), PolarBlock(8, 3).eval()):
        torch.testing.assert_close(block(turned(x, columns)), turned(block(x), columns))
    up = unlike_new(UpBlock(8, 4, 4, "closed", 0.5)).eval()
    found = up(turned(x, columns), turned(skip, 2 * columns))
    torch.testing.assert_close(found, turned(up(x, skip), 2 * columns), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("seam", "closes"), [("closed", True), ("published", False)])
def test_the_network_turns_with_its_input(seam, closes):
    network = unlike_new(make(seam=seam, **SMALL)).eval()
    x, motion = torch.randn(1, 8, 32, 48), torch.randn(1, 8, 32, 48)
    with torch.no_grad():
        straight = turned(network.stages(x, motion)[-1], 16)  # a pixel of the coarsest level
        found = network.stages(turned(x, 16), turned(motion, 16))[-1]
    assert (found - straight).abs().max().item() < 1e-4 * straight.abs().max().item() or not closes
    if not closes:
        assert not torch.allclose(found, straight, rtol=1e-3)


# --- from points to logits --------------------------------------------------------------------------------------------
def test_logits_are_those_of_a_convolution_at_the_cells():
    network = unlike_new(make(**SMALL)).eval()
    batch = batch_of(scan(0), scan(1))
    with torch.no_grad():
        output = network(batch)
        weight = network.head.weight[:, :, None, None]
        whole = F.conv2d(output.stages[-1].image, weight, network.head.bias)
    dense = whole.view(2, 4, 4, 32, 48)  # scan, height, class, range, azimuth
    b, r, a, z = batch.coords.long().unbind(1)
    torch.testing.assert_close(output.logits, dense[b, z, :, r, a])
    assert output.point_features.shape == (800, 12)
    assert output.encoder == 5 and len(output.stages) == 9
    for stage in output.stages:
        assert stage.at_cells().shape == (len(batch.cells), stage.channels)
        torch.testing.assert_close(stage.feats[stage.rows], stage.at_cells())


def test_scans_do_not_see_each_other_and_points_come_in_any_order():
    network = unlike_new(make(**SMALL)).eval()
    first, second = scan(0), scan(1)
    order = np.random.default_rng(0).permutation(len(first.points))
    with torch.no_grad():
        alone = network(batch_of(first))
        both = network(batch_of(second, Scan("shuffled", first.points.take(order))))
    alone_rows = alone.logits[batch_of(first).point_to_voxel][order]
    joined = batch_of(second, Scan("shuffled", first.points.take(order)))
    found = both.logits[joined.point_to_voxel][len(second.points) :]
    torch.testing.assert_close(found, alone_rows, atol=1e-4, rtol=1e-4)


def test_motion_reaches_the_logits_through_its_branch_alone():
    network = unlike_new(make(**SMALL)).eval()
    moving = scan(0)
    still = moving.having(motion=np.zeros_like(moving.points["motion"]))
    with torch.no_grad():
        one, other = network(batch_of(moving)), network(batch_of(still))
    assert not torch.allclose(one.logits, other.logits)
    torch.testing.assert_close(one.point_features, other.point_features)
    assert network.points[0].num_features == 9


def test_dropblock_drops_squares_for_all_channels():
    torch.manual_seed(0)
    block = DropBlock(0.5)
    x = torch.ones(4, 3, 60, 60)
    dropped = block(x)
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    gone = dropped[:, 0] == 0
    assert 0.3 < gone.float().mean() < 0.5  # 1 - (1 - 0.5 / 49)^49 = 0.40, less at the borders
    assert abs(dropped.mean().item() - 1) < 1e-4
    hole = gone[:, 3:-3, 3:-3].float()
    opened = F.max_pool2d(-F.max_pool2d(-gone.float(), 7, 1, 3), 7, 1, 3)[:, 3:-3, 3:-3]
    assert torch.equal(opened, hole)  # each hole is made of squares of seven pixels
    assert torch.equal(block.eval()(x), x)


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "partition", "message"),
    [
        ({"heights": 8}, {}, "4 cells along height, and the network was built for 8"),
        ({}, {"bins": [8, 48, 4]}, "8 x 48 cells"),
        ({}, {"interval": "bins - 1"}, "azimuth does not close.*model.seam: published"),
        ({}, {"high": [16, 90, 2]}, "azimuth does not close"),
    ],
)
def test_wrong_grids(options, partition, message):
    network = make(**{**SMALL, **options})
    with pytest.raises(UserError, match=message):
        network(batch_of(scan(), **partition))


def test_the_published_grid_is_taken_with_its_seam():
    network = make(seam="published", **SMALL).eval()
    assert network(batch_of(scan(), interval="bins - 1")).logits.isfinite().all()


def test_motion_is_needed():
    tree = {"data": {"partition": PARTITION}, "model": {"name": "motionbev"}}
    with pytest.raises(UserError, match=r"of which the last 8 are motion.*features"):
        build_model(Config(tree=tree), 4)
