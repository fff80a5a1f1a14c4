"""2DPASS's LiDAR network: published sizes, its grids, and all of it against dense convolutions in float64."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from camera_scene import camera_batch, double
from made_samples import reordered, unlike_new
from torch import Tensor, nn

from core.config import Config
from core.contracts import Batch
from core.errors import UserError
from core.models import build_model
from core.models.lidar.twodpass import PointGrid, TwoDPass, distinct_places
from core.models.probe import random_batch
from core.sparse import fold_batch_norm, gather_sum, kernel_offsets

LARGE = {"hidden": 256, "scales": [2, 4, 8, 16, 16, 16]}
NUSCENES = {"high": [50.0, 50.0, 3.0], "shape": [1000, 1000, 70]}
REAL = (
    Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
    / "semantickitti/sequences/08/velodyne/000000.bin"
)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}  # the weights of means are kept in fp32
BOX = {
    "low": [0.0, 0.0, 0.0],
    "high": [1.6, 1.6, 1.2],
    "shape": [16, 16, 12],
}  # half of camera_scene's points


def make(num_classes: int = 20, **options: object) -> TwoDPass:
    torch.manual_seed(0)
    return build_model(Config(tree={"model": {"name": "twodpass", **options}}), num_classes)


def make_exact(**options: object) -> TwoDPass:
    """Small, float64, in eval mode, with normalisations that are not the identity."""
    model = make(5, **{"hidden": 6, "scales": [2, 3, 4], **BOX, **options}).double().eval()
    unlike_new(model)
    for parameter in model.parameters():
        parameter.data *= (
            3.0 if parameter.dim() > 1 else 1.0
        )  # so that outputs differ from point to point
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("num_classes", "options", "mlp", "block", "head", "total"),
    [
        (20, {}, 4_864, 473_280, 35_476, 1_933_460),
        (20, LARGE, 68_608, 7_557_888, 199_316, 45_615_252),
        (17, LARGE | NUSCENES, 68_608, 7_557_888, 198_929, 45_614_865),
        (17, LARGE | NUSCENES | {"hidden": 128}, 17_920, 1_890_688, 100_625, 11_462_673),
    ],
)
def test_parameter_counts(
    num_classes: int, options: dict, mlp: int, block: int, head: int, total: int
) -> None:
    with torch.device("meta"):
        model = make(num_classes, **options)
    assert count(model.voxel_mlp) == mlp
    assert {count(encoder) for encoder in model.encoders} == {block}
    assert count(model.head) == head
    assert count(model) == total


@pytest.mark.parametrize(
    ("options", "grids", "heights"),
    [
        ({}, [(1000, 60), (500, 30), (250, 15), (125, 8), (63, 4)], [0.1, 0.2, 0.4, 0.75, 1.5]),
        (
            NUSCENES,
            [(1000, 70), (500, 35), (250, 18), (125, 9), (63, 5)],
            [0.1, 0.2, 0.3889, 0.7778, 1.4],
        ),
    ],
)
def test_cell_sizes(options: dict, grids: list, heights: list) -> None:
    """The published grids: sides are rounded up, so the scales are no exact multiples."""
    model = make(hidden=2, **options)
    assert [(int(x), int(z)) for x, _, z in model.counts] == grids
    cells = model.extent / model.counts
    assert cells[:, 2].tolist() == pytest.approx(heights, abs=5e-5)
    assert cells[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.5873], abs=5e-5)


def test_cells_of_points() -> None:
    model = make(hidden=2)
    points = torch.tensor([[-49.95, 49.99, -3.95], [-50.05, 50.05, 2.05], [74.0, -74.0, 0.0]])
    # Truncation would put -50.05 into cell 0; the grid goes on below.
    assert model.cells(points, 0).tolist() == [[0, 999, 0], [-1, 1000, 60], [1240, -240, 40]]


def test_shapes_of_the_published_small_model() -> None:
    batch = random_batch(300)
    output = make()(batch)
    points = len(batch.coords)
    assert output.logits.shape == (points, 20)
    assert [stage.channels for stage in output.stages] == [64] * 4
    sizes = [len(stage.feats) for stage in output.stages]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]  # grids 1, 2, 4, 8
    for i, stage in enumerate(output.stages):
        assert stage.edge == (2 << i,) * 3
        rows = stage.rows
        assert rows.shape == (points,) and set(rows.tolist()) == set(range(len(stage.feats)))


def test_grid_means_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-6, 6, (200, 4), generator=generator)
    cells[:, 0] = torch.arange(200) // 100
    coarse_cells = torch.cat([cells[:, :1], torch.div(cells[:, 1:], 5, rounding_mode="floor")], 1)
    fine, coarse = PointGrid(cells), PointGrid(coarse_cells)
    points = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    assert fine.coords.tolist() == torch.unique(cells, dim=0).tolist()  # ordered by (b, x, y, z)
    assert torch.equal(fine.coords[fine.rows].long(), cells)
    of_fine = gather_sum(points, fine.pool)
    for row, cell in enumerate(fine.coords[:20]):
        inside = (cells == cell).all(1)
        torch.testing.assert_close(of_fine[row], points[inside].mean(0), **CLOSE)
    of_points = gather_sum(of_fine, fine.spread)
    torch.testing.assert_close(of_points, of_fine[fine.rows])
    torch.testing.assert_close(
        gather_sum(of_points, coarse.pool), gather_sum(of_fine, coarse.pool_from(fine))
    )
    pool, back = fine.halves
    halved = torch.cat(
        [fine.coords[:, :1], torch.div(fine.coords[:, 1:], 2, rounding_mode="floor")], 1
    )
    context = gather_sum(gather_sum(of_fine, pool), back)
    for row, cell in enumerate(halved[:20]):
        together = (halved == cell).all(1)
        torch.testing.assert_close(context[row], of_fine[together].mean(0), **CLOSE)


def test_points_that_share_all_cells_share_a_place() -> None:
    #     point:        0  1  2  3  4  5
    rows = torch.tensor([[1, 0, 1, 1, 0, 2], [0, 0, 0, 1, 0, 3], [5, 5, 5, 5, 4, 5]])
    places, place = distinct_places(list(rows))
    assert sorted(places.tolist()) in ([0, 1, 3, 4, 5], [1, 2, 3, 4, 5])  # 0 and 2 are alike
    assert place[0] == place[2] and len(set(place.tolist())) == 5
    assert torch.equal(rows[:, places[place]], rows)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 3, (500,), generator=generator) for _ in range(4)]
    places, place = distinct_places(rows)
    table = torch.stack(rows, 1)
    assert len(places) == len(torch.unique(table, dim=0)) and torch.equal(
        table[places[place]], table
    )
    assert [len(part) for part in distinct_places([torch.zeros(0, dtype=torch.int64)] * 2)] == [
        0,
        0,
    ]


# --- the whole network, spelt out -----------------------------------------------------------------------------------
def mean_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    total = values.new_zeros(groups, values.shape[1]).index_add_(0, group, values)
    return total / torch.bincount(group, minlength=groups)[:, None]


def dense_conv(kernel: Tensor, x: Tensor, coords: Tensor) -> Tensor:
    """A 3x3x3 convolution on a dense grid, read at the occupied cells."""
    low = coords.min(0).values - 1
    low[0] += 1
    at = coords - low
    size = (at.max(0).values + 2).tolist()
    grid = x.new_zeros(size[0], x.shape[1], *size[1:])
    b, i, j, k = at.unbind(1)
    grid[b, :, i, j, k] = x
    weight = x.new_zeros(kernel.shape[2], kernel.shape[1], 3, 3, 3)
    for offset, matrix in zip(kernel_offsets((3, 3, 3)), kernel):
        weight[(slice(None), slice(None), *(offset + 1).tolist())] = matrix.T
    return nn.functional.conv3d(grid, weight, padding=1)[b, :, i, j, k]


def reference(model: TwoDPass, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    def norm(layer: nn.BatchNorm1d, x: Tensor) -> Tensor:
        return (x - layer.running_mean) / (
            layer.running_var + layer.eps
        ).sqrt() * layer.weight + layer.bias

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    def residual(block: nn.Module, x: Tensor, coords: Tensor) -> Tensor:
        conv1, bn1, _, conv2, bn2 = block.net
        main = leaky(norm(bn1, dense_conv(conv1.kernel, x, coords)))
        main = norm(bn2, dense_conv(conv2.kernel, main, coords))
        return leaky(main + norm(block.shortcut[1], x @ block.shortcut[0].kernel))

    low, high, shape = (torch.tensor(BOX[key]).double() for key in ("low", "high", "shape"))
    points, scan = batch.feats[:, :3], batch.coords[:, :1].long()

    def group(scale: int) -> tuple[Tensor, Tensor]:
        cells = torch.floor(torch.ceil(shape / scale) * (points - low) / (high - low)).long()
        return torch.unique(torch.cat([scan, cells], 1), dim=0, return_inverse=True)

    coords, rows = group(1)
    corner = coords[rows, 1:] * (high - low) / shape + low
    inputs = torch.cat(
        [batch.feats, points - mean_by(points, rows, len(coords))[rows], points - corner], 1
    )
    x = mean_by(model.voxel_mlp(inputs), rows, len(coords))
    heads, features = [], []
    for scale, encoder in zip(model.scales, model.encoders):
        v = x
        for block in encoder.voxels:
            v = residual(block, v, coords)
        features.append(v)
        u = x + v
        halved = torch.cat([coords[:, :1], torch.div(coords[:, 1:], 2, rounding_mode="floor")], 1)
        cells, parent = torch.unique(halved, dim=0, return_inverse=True)
        linear1, _, bn1, linear2, _, bn2, linear3, _ = encoder.context
        context = norm(bn1, leaky(linear1(mean_by(u, parent, len(cells)))))
        context = leaky(linear3(norm(bn2, leaky(linear2(context)))))[parent]
        both = torch.cat([leaky(encoder.identity[0](u)), context], 1)[rows]  # to the points
        merged = encoder.merge[2](leaky(encoder.merge[0](both)))
        v = v[rows]
        coords, rows = group(scale)
        p = mean_by(merged, rows, len(coords))
        x = p + mean_by(v, rows, len(coords))
        heads.append(p[rows])
    return model.head(torch.cat(heads, 1)), features


@torch.no_grad()
def test_whole_network_against_dense_convolutions() -> None:
    """Scales 2, 3, 4 do not nest, and half of the points lie beyond the box."""
    model, batch = make_exact(), double(camera_batch(0, 1))
    assert (batch.feats[:, :3] > torch.tensor(BOX["high"])).any(1).double().mean() > 0.4
    output, (logits, features) = model(batch), reference(model, batch)
    assert logits.std(0).min() > 1e-3
    torch.testing.assert_close(output.logits, logits, **CLOSE)
    for stage, expected in zip(output.stages, features):
        torch.testing.assert_close(stage.feats, expected, **CLOSE)


@torch.no_grad()
def test_company_and_order_do_not_matter() -> None:
    model, batch = make_exact(), double(camera_batch(0, 1))
    alone = torch.cat([model(double(camera_batch(seed))).logits for seed in (0, 1)])
    torch.testing.assert_close(model(batch).logits, alone, **CLOSE)
    order = torch.randperm(len(batch.coords), generator=torch.Generator().manual_seed(2))
    shuffled = reordered(batch, order)
    torch.testing.assert_close(model(shuffled).logits, alone[order], **CLOSE)


@torch.no_grad()
def test_points_beyond_the_box_are_points_like_others() -> None:
    """A scan moved by two boxes, cells and all, is the same scan but for where it is."""
    model, batch = make_exact(scales=[2, 4]), double(camera_batch(0))
    model.voxel_mlp[0].weight[:, :3] = 0  # forget the place itself
    shift = model.extent * torch.tensor([2, -2, 2])
    moved = replace(batch, points={**batch.points, "xyz": batch.points["xyz"] + shift})
    torch.testing.assert_close(model(moved).logits, model(batch).logits, **CLOSE)


@torch.no_grad()
def test_folded_network_is_the_same() -> None:
    model, batch = make_exact(), double(camera_batch(0))
    torch.testing.assert_close(fold_batch_norm(model)(batch).logits, model(batch).logits, **CLOSE)


@pytest.mark.parametrize("voxels", [1, 2])
def test_hardly_any_points(voxels: int) -> None:
    model = make(5, hidden=8)
    logits = model(camera_batch(0, voxels=voxels)).logits
    logits.sum().backward()
    assert len(logits) >= 1 and logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "key"),
    [({"scales": [2, 0]}, "scales"), ({"low": [0, 0, 2.0]}, "low"), ({"hiden_size": 64}, "hidden")],
)
def test_faulty_options(options: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        make(**options)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_file(), reason="no real scans; set LIDISTILL_REALDATA")
def test_occupied_cells_of_a_real_scan() -> None:
    """The numbers a user of the published code printed for this scan, cut to the box."""
    points = torch.from_numpy(np.fromfile(REAL, "<f4").reshape(-1, 4))
    model = make(hidden=2)
    inside = ((points[:, :3] > model.low) & (points[:, :3] < model.low + model.extent)).all(1)
    points = points[inside]
    assert (len(inside), len(points)) == (123_389, 119_549)
    scan = torch.zeros(len(points), 1, dtype=torch.int64)
    grids = [PointGrid(torch.cat([scan, model.cells(points[:, :3], i)], 1)) for i in range(5)]
    assert [len(grid) for grid in grids] == [64_811, 38_399, 18_400, 7_757, 2_881]
