"""Cylinder3D: published sizes, its layers against dense convolutions in float64, points, gradients, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dense_windows import as_dense_kernel, convolved, densified, touched
from made_samples import doubled, unlike_new
from torch import Tensor, nn

from core.config import Config
from core.contracts import Batch, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.errors import UserError
from core.models import build_model
from core.models.lidar.cylinder3d import Cylinder3D
from core.models.lidar.cylinder_blocks import STEPS, kernels_of
from core.models.lidar.cylinder_points import point_inputs
from core.sparse import Conv3d, InvalidInput, SparseTensor, Window, WindowCache

SIZES = (17, 12, 9)  # odd and even, so that poolings meet both borders
PARTITION = {"name": "cylinder", "bins": list(SIZES), "low": [0, -180, -2], "high": [8, 180, 2]}
SMALL = {"width": 2, "voxel_features": 3, "point_features": 5}
KERNELS = [(1, 3, 3), (3, 1, 3), (3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3)]


def make(num_classes: int = 20, partition: dict | None = None, **options: object) -> Cylinder3D:
    torch.manual_seed(0)
    tree = {
        "data": {"partition": partition or PARTITION},
        "model": {"name": "cylinder3d", **options},
    }
    return build_model(Config(tree=tree), num_classes)


def scan(seed: int = 0, points: int = 150) -> Scan:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((-9, -9, -2.5), (9, 9, 2.5), (points, 3)).astype(np.float32)
    made = Points(
        xyz=xyz,
        intensity=rng.random(points).astype(np.float32),
        label=rng.integers(0, 4, points).astype(np.uint8),
    )
    return Scan(f"scan{seed}", made)


def batch_of(*scans: Scan, **partition: object) -> Batch:
    data = DataConfig.model_validate(
        {"partition": {**PARTITION, **partition}, "augment": None, "label_vote": "majority"}
    )
    return collate([make_sample(one, i, data) for i, one in enumerate(scans)])


# --- published sizes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("width", "voxels", "points", "classes", "millions", "idle"),
    [
        (16, 16, 256, 20, 14.07, 1.57),
        (16, 16, 256, 26, 14.08, 1.57),
        (16, 16, 128, 17, 14.03, 1.57),
        (32, 32, 256, 20, 55.87, 6.27),
        (32, 16, 256, 20, 55.85, 6.27),
        (48, 32, 256, 20, 125.48, 14.10),
    ],
)
def test_parameter_counts(
    width: int, voxels: int, points: int, classes: int, millions: float, idle: float
) -> None:
    """Of the paper's kernels, and how many of them never act in the released weights."""
    options = {"width": width, "voxel_features": voxels, "point_features": points}
    counts = []
    for mode in ("paper", "released"):
        with torch.device("meta"):
            network = make(classes, asym_mode=mode, **options)
        counts.append(sum(parameter.numel() for parameter in network.parameters()) / 1e6)
    assert counts[0] == pytest.approx(millions, abs=0.005)
    assert counts[0] - counts[1] == pytest.approx(idle, abs=0.005)


def test_grid_of_each_level() -> None:
    levels = Window((480, 360, 32), STEPS).levels()
    assert list(levels.values()) == [
        (480, 360, 32),
        (240, 180, 16),
        (120, 90, 8),
        (60, 45, 8),
        (30, 23, 8),
    ]


# --- the engine on windows --------------------------------------------------------------------------------------------
def tensor(wrap: bool, channels: int = 3, seed: int = 0) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, *SIZES, generator=generator) < 0.06
    mask[:, :, 0, :3] = mask[:, :, -1, :3] = True  # both ends of azimuth
    coords = mask.nonzero().int()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    feats = torch.randn(len(coords), channels, generator=generator, dtype=torch.float64)
    cache = WindowCache(coords, window=Window(SIZES, STEPS, wrap))
    return SparseTensor.from_batch(feats, coords, cache)


def dense_of(x: SparseTensor) -> Tensor:
    sizes = x.cache.window.levels()[x.stride]
    return densified(x.feats, x.coords, sizes, 2, x.stride)


def mask_of(x: SparseTensor) -> Tensor:
    return dense_of(x.replace(torch.ones_like(x.feats[:, :1])))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("size", KERNELS)
def test_asymmetric_kernels_agree_with_dense_conv3d(size: tuple, wrap: bool) -> None:
    x = tensor(wrap)
    x.feats.requires_grad_(True)
    layer = Conv3d(3, 4, size).double()
    y = dense_of(layer(x))
    kernel = layer.kernel.detach().clone().requires_grad_(True)
    dense = convolved(dense_of(x), as_dense_kernel(kernel, size), (1, 1, 1), wrap) * mask_of(x)
    torch.testing.assert_close(y, dense)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    of_feats, of_kernel = torch.autograd.grad((y * weight).sum(), [x.feats, layer.kernel])
    expected = torch.autograd.grad((dense * weight).sum(), [x.feats, kernel])
    torch.testing.assert_close((of_feats, of_kernel), expected)


@pytest.mark.parametrize("wrap", [False, True])
def test_poolings_and_their_inverses_agree_with_dense_convolutions(wrap: bool) -> None:
    """All four levels: which voxels there are, what is in them, and the way back."""
    x = tensor(wrap)
    for step in STEPS:
        down, up = Conv3d(3, 3, 3, step).double(), Conv3d(3, 3, 3, step, transposed=True).double()
        mask = touched(mask_of(x), step, wrap)
        coarse = down(x)
        torch.testing.assert_close(mask_of(coarse), mask)
        weight = as_dense_kernel(down.kernel, (3, 3, 3))
        torch.testing.assert_close(
            dense_of(coarse), convolved(dense_of(x), weight, step, wrap) * mask
        )
        # The way back is the gradient of such a convolution, channels swapped.
        fine = dense_of(x).detach().requires_grad_(True)
        swapped = as_dense_kernel(up.kernel, (3, 3, 3)).transpose(0, 1)
        forward = convolved(fine, swapped, step, wrap)
        (back,) = torch.autograd.grad(forward, fine, dense_of(coarse))
        torch.testing.assert_close(dense_of(up(coarse)), back * mask_of(x))
        x = coarse


def test_levels_that_no_convolution_leads_to_are_refused() -> None:
    x = tensor(wrap=False)
    with pytest.raises(InvalidInput, match=r"no convolution leads to stride \(3, 3, 3\)"):
        Conv3d(3, 3, 3, 3).double()(x)
    with pytest.raises(InvalidInput, match="cannot close on itself"):
        WindowCache(x.coords, window=Window((9, 5000, 9), STEPS, wrap=True))


# --- points -----------------------------------------------------------------------------------------------------------
def test_values_of_points_by_hand() -> None:
    """The published grid; the second point lies 10 m beyond it, in the border cells, and keeps its own place."""
    xyz = np.array([[3.0, 4.0, 1.0], [0.0, 60.0, -1.0]], np.float32)
    points = Points(
        xyz=xyz, intensity=np.array([0.25, 0.5], np.float32), label=np.ones(2, np.uint8)
    )
    batch = batch_of(
        Scan("two", points),
        bins=[480, 360, 32],
        low=[0, -180, -4],
        high=[50, 180, 2],
        interval="bins - 1",
    )
    edges = (50 / 479, 2 * math.pi / 359, 6 / 31)
    expected = []
    for (x, y, z), intensity in zip(xyz.tolist(), (0.25, 0.5)):
        polar = (math.hypot(x, y), math.atan2(y, x), z)
        lows = (0.0, -math.pi, -4.0)
        offset = []
        for value, edge, low, high in zip(polar, edges, lows, (50.0, math.pi, 2.0)):
            index = math.floor((min(max(value, low), high) - low) / edge)
            offset.append(value - ((index + 0.5) * edge + low))
        expected.append([*offset, *polar, x, y, intensity])
    assert batch.cells.coords[:, 1].tolist() == [47, 479]
    found = point_inputs(batch, torch.arange(2))
    assert found.tolist() == pytest.approx(np.array(expected), abs=2e-5)
    assert found[1, 0] == pytest.approx(60 - 479.5 * 50 / 479, abs=1e-4)


def test_cells_take_the_maximum_of_their_points() -> None:
    batch = batch_of(scan(points=600))
    network = make(**SMALL).eval().point_network
    points, voxels = network(batch)
    for cell in range(0, len(voxels), 7):
        inside = points[batch.cells.of_point == cell]
        torch.testing.assert_close(network.voxels(inside.max(0).values), voxels[cell])


# --- the whole --------------------------------------------------------------------------------------------------------
def exact(**options: object) -> Cylinder3D:
    """Small, float64, in evaluation, with normalisations that are not the identity."""
    return unlike_new(make(4, **SMALL, **options).double().eval())


@pytest.mark.parametrize("options", [{}, {"asym_mode": "released"}, {"wrap": True}])
def test_two_scans_are_each_as_if_alone(options: dict) -> None:
    network = exact(point_head="mlp", **options)
    both = network(doubled(batch_of(scan(0), scan(1))))
    alone = [network(doubled(batch_of(scan(seed)))) for seed in (0, 1)]
    for field in ("logits", "point_logits", "point_features"):
        expected = torch.cat([getattr(one, field) for one in alone])
        torch.testing.assert_close(getattr(both, field), expected)


def test_kernels_of_the_modes_differ_and_act() -> None:
    """One set of weights for kernels of equal volume gives other logits with the neighbours of the released files."""
    assert set(kernels_of("released").down) == {(3, 1, 3)}
    batch = doubled(batch_of(scan()))
    paper, released = exact(), exact(asym_mode="released")
    fitting = {}
    for name, value in paper.state_dict().items():
        fitting[name] = value[:9] if value.dim() == 3 and ".refine.2." in name else value
    released.load_state_dict(fitting)
    assert (paper(batch).logits - released(batch).logits).abs().max() > 1e-3


def named_without_gradient(network: nn.Module) -> Iterator[str]:
    for name, parameter in network.named_parameters():
        if (
            parameter.grad is None
            or not parameter.grad.isfinite().all()
            or not parameter.grad.any()
        ):
            yield name


def test_every_parameter_learns() -> None:
    batch = batch_of(scan(0, 400), scan(1, 400))
    network = make(4, **SMALL, point_head="mlp").train()
    output = network(batch)
    (output.logits.square().mean() + output.point_logits.square().mean()).backward()
    # A batch norm takes away what is added before it.
    lost = set(named_without_gradient(network))
    assert all(name.endswith("bias") for name in lost), lost


def test_stages() -> None:
    batch = batch_of(scan())
    output = make(4, **SMALL)(batch)
    edges = [(2, 2, 2), (4, 4, 4), (8, 8, 4), (16, 16, 4)]
    back = [(8, 8, 4), (4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1)]
    assert [stage.edge for stage in output.stages] == edges + back
    assert [stage.channels for stage in output.stages] == [4, 8, 16, 32, 32, 16, 8, 4, 8]
    assert output.encoder == 4
    for stage in output.stages:
        assert stage.rows.min() >= 0  # each cell lies in a voxel of every level
    assert output.point_features.shape == (150, 5)
    assert output.point_logits is None


def test_networks_on_one_batch_share_their_maps() -> None:
    batch = batch_of(scan())
    make(4, **SMALL)(batch)
    maps = {kind: len(cache.maps) for kind, cache in batch.cells.tables.items()}
    make(4, **{**SMALL, "width": 4})(batch)
    assert {kind: len(cache.maps) for kind, cache in batch.cells.tables.items()} == maps


# --- what is refused --------------------------------------------------------------------------------------------------
def test_grids_that_do_not_fit_are_refused() -> None:
    closed = make(4, **SMALL, wrap=True)
    with pytest.raises(UserError, match="does not close on itself"):
        closed(batch_of(scan(), interval="bins - 1"))
    with pytest.raises(UserError, match="does not close on itself"):
        closed(batch_of(scan(), low=[0, -90, -2], high=[8, 90, 2]))
    endless = {"name": "cylinder", "cell": [0.5, 10, 0.5]}
    data = DataConfig.model_validate({"partition": endless, "augment": None})
    with pytest.raises(UserError, match="needs a grid with bounds"):
        make(4, **SMALL)(collate([make_sample(scan(), 0, data)]))
    data = DataConfig.model_validate({"partition": PARTITION, "features": ["intensity", "xyz"]})
    with pytest.raises(UserError, match="needs xyz first"):
        make(4, **SMALL)(collate([make_sample(scan(), 0, data)]))
