"""SR-UNet and VoxelNet: published sizes, initial weights and momenta; VoxelNet against torch's dense convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_fakes import make_scan
from dense_windows import as_dense_kernel, densified
from made_samples import doubled, unlike_new
from torch import Tensor, nn

from core.contracts import Batch
from core.data import DataConfig, collate, make_sample
from core.data.partitions.grid import Grid
from core.errors import UserError
from core.models.lidar.blocks import Residual
from core.models.lidar.srunet import SRUNet
from core.models.lidar.voxelnet import VoxelNet

BOXES = {"low": [-4.8, -4.8, -5.0], "high": [4.8, 4.8, 3.0], "size": [0.2, 0.2, 0.2]}


def test_published_sizes() -> None:
    with torch.device("meta"):
        unet = SRUNet(SRUNet.Config(name="srunet", in_channel=1), 64)
        backbone = VoxelNet(VoxelNet.Config(name="voxelnet"), 64)
    assert sum(p.numel() for p in unet.parameters()) == 37_849_184
    head = sum(p.numel() for p in backbone.final.parameters())
    assert head == 8_192
    assert sum(p.numel() for p in backbone.parameters()) - head == 711_872
    assert sum(p.numel() for p in unet.downs[3][1:].parameters()) == pytest.approx(20.4e6, rel=5e-3)


def test_weights_begin_as_minkowskis() -> None:
    torch.manual_seed(0)
    unet = SRUNet(SRUNet.Config(name="srunet", in_channel=1), 64)
    bounds = {
        "stem.net.0.kernel": 1 / np.sqrt(1 * 27),
        "downs.1.0.net.0.kernel": 1 / np.sqrt(32 * 8),
        "downs.3.2.net.3.kernel": 1 / np.sqrt(256 * 27),
        "ups.1.0.net.0.kernel": 1 / np.sqrt(128 * 8),  # transposed: of its outputs
        "final.weight": 1 / np.sqrt(96),
        "final.bias": 1 / np.sqrt(96),
    }
    weights = unet.state_dict()
    for name, bound in bounds.items():
        largest = float(weights[name].abs().max())
        assert 0.9 * bound < largest <= bound, name


def test_momenta_reach_all_norms_but_those_within_residual_blocks() -> None:
    unet = SRUNet(SRUNet.Config(name="srunet", cr=0.125, bn_momentum=0.05), 4)
    inside = set()
    for block in unet.modules():
        if isinstance(block, Residual):
            inside |= {norm for norm in block.net if isinstance(norm, nn.BatchNorm1d)}
    norms = {norm for norm in unet.modules() if isinstance(norm, nn.BatchNorm1d)}
    assert len(inside) == 2 * (2 + 3 + 4 + 6 + 8)
    inner = {norm.momentum for norm in inside}
    outer = {norm.momentum for norm in norms - inside}
    assert outer == {0.05} and inner == {0.1}


# --- VoxelNet, spelt densely ------------------------------------------------------------------------------------------
def batch_of(points: int = 250, scans: int = 2, **keys: object) -> Batch:
    data = DataConfig.model_validate(
        {"partition": {"name": "grid", **BOXES, **keys}, "augment": None}
    )
    samples = []
    for i in range(scans):
        rng = np.random.default_rng(i)
        xyz = rng.uniform((-5, -5, -5.2), (5, 5, 3.2), (points, 3))
        xyz[: points // 2] = rng.normal((1, 1, -1), 0.4, (points // 2, 3))  # crowded
        samples.append(make_sample(make_scan(xyz, token=f"s{i}"), i, data))
    return doubled(collate(samples))


def dense_layer(layer: nn.Sequential, x: Tensor, mask: Tensor, pad: tuple[int, int, int]) -> tuple:
    """Convolution, norm and rectifier; strided ones light every cell whose window holds one."""
    conv, norm, _ = layer
    weight = as_dense_kernel(conv.kernel, conv.kernel_size)
    y = F.conv3d(x, weight, stride=conv.stride, padding=pad)
    if conv.stride != (1, 1, 1):
        ones = torch.ones_like(weight[:1, :1])
        mask = (F.conv3d(mask, ones, stride=conv.stride, padding=pad) > 0).to(mask)
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return torch.relu(y) * mask, mask


def dense(network: VoxelNet, batch: Batch, boxes: tuple[int, int, int]) -> Tensor:
    """[B, C, X, Y], the map from above."""
    inside = batch.cells.of_point >= 0
    cell = batch.cells.of_point[inside]
    means = torch.zeros(len(batch.cells), 4, dtype=torch.float64)
    means.index_add_(0, cell, batch.point_feats[inside])
    means /= torch.bincount(cell)[:, None]
    x = densified(means, batch.coords, boxes, len(batch), (1, 1, 1))
    ones = torch.ones(len(means), 1, dtype=torch.float64)
    mask = densified(ones, batch.coords, boxes, len(batch), (1, 1, 1))
    for layer in (network.conv_input, *network.conv1):
        x, mask = dense_layer(layer, x, mask, (1, 1, 1))
    for i, down in enumerate(network.downs):
        for j, layer in enumerate(down):
            pad = (1, 1, 0) if i == 2 and j == 0 else (1, 1, 1)
            x, mask = dense_layer(layer, x, mask, pad)
    assert x.shape[2:] == (boxes[0] // 8, boxes[1] // 8, 4)
    x, mask = dense_layer(network.conv_out, x, mask, (0, 0, 0))
    view = torch.einsum("bcxyz,co->boxy", x, network.final.kernel) * mask[:, :, :, :, 0]
    return F.normalize(view, dim=1) if network.config.normalize else view


@pytest.mark.parametrize("normalize", [False, True])
def test_voxelnet_is_its_dense_twin(normalize: bool) -> None:
    torch.manual_seed(0)
    batch = batch_of()
    config = VoxelNet.Config(name="voxelnet", max_points=1000, normalize=normalize)
    network = unlike_new(VoxelNet(config, 6)).double().eval()
    with torch.no_grad():
        output = network(batch)
        view = dense(network, batch, (48, 48, 40))
    sides = view.shape[2] - 1
    bounds = batch.point_offsets.tolist()
    for i in range(len(batch)):
        xy = batch.points["xyz"][bounds[i] : bounds[i + 1], :2]
        at = 2 * ((xy + 4.8) / 1.6) / sides - 1
        grid = at.flip(1).view(1, 1, -1, 2)  # columns of the map run along y
        read = F.grid_sample(view[i : i + 1], grid, padding_mode="border", align_corners=True)
        inside = batch.cells.of_point[bounds[i] : bounds[i + 1]] >= 0
        found = output.point_logits[bounds[i] : bounds[i + 1]]
        expected = read[0, :, 0].T * inside[:, None]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert 100 < inside.sum() < len(inside) and found[inside].abs().mean() > 1e-3
    torch.testing.assert_close(output.logits, output.point_logits[batch.cells.point])


def test_a_box_is_the_mean_of_its_first_points() -> None:
    xyz = torch.tensor([[0.05, 0.05, 0.05]]).repeat(5, 1)
    scan = make_scan(xyz.numpy())  # intensities 0 to 4
    data = DataConfig.model_validate({"partition": {"name": "grid", **BOXES}, "augment": None})
    batch = collate([make_sample(scan, 0, data)])
    seen = []
    network = VoxelNet(VoxelNet.Config(name="voxelnet", max_points=3), 2).eval()
    network.conv_input.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].feats))
    network(batch)
    torch.testing.assert_close(seen[0], torch.tensor([[0.05, 0.05, 0.05, 1.0]]))


def test_a_grid_of_another_height_is_refused() -> None:
    batch = batch_of(scans=1, high=[4.8, 4.8, 7.0])
    with pytest.raises(UserError, match="60 boxes along z"):
        VoxelNet(VoxelNet.Config(name="voxelnet"), 2)(batch)


# --- the grid ---------------------------------------------------------------------------------------------------------
def test_slidrs_grid() -> None:
    grid = Grid(name="grid", radius=51.2)
    assert grid.boxes == (1024, 1024, 40)
    xyz = np.array(
        [[-51.15, 0, -4.9], [0.05, 0.05, 2.99], [0, 0, 3.0], [45, 45, 0], [np.nan, 0, 0]],
        np.float32,
    )
    coords, inside = grid.index(xyz, None)
    assert inside.tolist() == [True, True, False, False, False]
    assert coords[:2].tolist() == [[0, 512, 0], [512, 512, 39]]
    centres = grid.centres(coords[:2], None)
    assert (np.abs(centres - xyz[:2]) <= [0.051, 0.051, 0.101]).all()


@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_turning_a_scan_loses_no_point_of_the_disc(angle: float) -> None:
    grid = Grid(name="grid", radius=51.2)
    xyz = (
        np.random.default_rng(0).uniform((-52, -52, -4), (52, 52, 2), (2000, 3)).astype(np.float32)
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    turned = np.concatenate([xyz[:, :2] @ turn.T, xyz[:, 2:]], 1)
    reach = np.hypot(xyz[:, 0], xyz[:, 1])
    clear = np.abs(reach - 51.2) > 1e-3  # of rounding
    assert (grid.index(xyz, None)[1] == grid.index(turned, None)[1])[clear].all()
    assert (grid.index(xyz, None)[1] == (reach <= 51.2))[clear].all()


@pytest.mark.parametrize(
    "keys",
    [{"size": [0.3, 0.1, 0.2]}, {"size": [0, 1, 1]}, {"low": [60, 0, 0]}, {"size": [1e-5] * 3}],
)
def test_grids_that_are_none(keys: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"whole number|positive|smaller|more than"):
        Grid(name="grid", **keys)
