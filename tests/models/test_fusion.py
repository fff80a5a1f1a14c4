"""Fusion of points and images against loops over scans, cameras, scales and pixels, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from camera_scene import camera_batch
from made_samples import with_cameras_in_order, with_visible
from torch import Tensor, nn

from core.contracts import Batch
from core.engine.run.checkpoint import load_weights
from core.models.fusion.c2l import C2L, PixelHead
from core.models.fusion.l2c import L2C, draw_points, grid_sizes
from core.models.fusion.learner import learner
from core.models.image.sampling import PixelLinks, sample_image
from core.models.layers import PointBatchNorm

SIZE = (9, 14)
SCALES = (1, 2, 4, 8)


def rows_of(batch: Batch, scan: int, camera: int) -> Tensor:
    return (batch.visible[camera] & (batch.coords[:, 0] == scan)).nonzero()[:, 0]


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- points drawn into images ---------------------------------------------------------------------------------------
def drawn_by_loops(
    p: Tensor, batch: Batch, size: tuple[int, int], scales: tuple[int, ...]
) -> Tensor:
    """Section 4.8, step 4, one cell at a time."""
    maps = []
    for scan in range(len(batch)):
        for camera in range(batch.images.shape[1]):
            total = torch.zeros(1, p.shape[1], *size, dtype=p.dtype)
            for scale in scales:
                height, width = (round(length / scale + 0.01) for length in size)
                cells: dict[tuple[int, int], list[int]] = {}
                for row in rows_of(batch, scan, camera).tolist():
                    u, v = batch.pixels[camera, row].tolist()
                    cell = int((v + 1) / 2 * (height - 1)), int((u + 1) / 2 * (width - 1))
                    cells.setdefault(cell, []).append(row)
                dense = torch.zeros(1, p.shape[1], height, width, dtype=p.dtype)
                for (y, x), members in cells.items():
                    dense[0, :, y, x] = p[members].mean(0)
                total = total + F.interpolate(dense, size, mode="bilinear", align_corners=True)
            maps.append(total / len(scales))
    return torch.cat(maps)


@pytest.mark.parametrize("scales", [(1,), (1, 2), SCALES])
def test_drawing_equals_loops(scales: tuple[int, ...]) -> None:
    batch = camera_batch(0, 1)
    batch.visible[1, batch.coords[:, 0] == 0] = False  # a camera without a point
    p = features(len(batch.coords), 5).requires_grad_()
    q = p.detach().clone().requires_grad_()
    found, expected = (
        draw_points(p, PixelLinks.of(batch, "last"), SIZE, scales),
        drawn_by_loops(q, batch, SIZE, scales),
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert found[1].abs().max() == 0 and found[0].abs().max() > 0
    weight = features(*found.shape, seed=1)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-7)


def test_grid_sizes_round_half_up() -> None:
    """round(H / c + 0.01): 45 rows give 23 at scale 2, where Python's round(22.5) is 22; a grid is never empty."""
    assert grid_sizes((45, 80), (1, 2, 4, 8)) == [(45, 80), (23, 40), (11, 20), (6, 10)]
    assert grid_sizes((3, 3), (8,)) == [(1, 1)]


# --- images read at points ------------------------------------------------------------------------------------------
def read_by_loops(maps: Tensor, batch: Batch, overlap: str) -> Tensor:
    cameras = batch.images.shape[1]
    total = torch.zeros(len(batch.coords), maps.shape[1], dtype=maps.dtype)
    times = torch.zeros(len(batch.coords), 1, dtype=maps.dtype)
    for scan in range(len(batch)):
        for camera in range(cameras):
            rows = rows_of(batch, scan, camera)
            image = maps[scan * cameras + camera][None]
            grid = batch.pixels[camera, rows][None, None].to(maps.dtype)
            values = F.grid_sample(
                image, grid, mode="bilinear", padding_mode="zeros", align_corners=True
            )[0, :, 0].T
            if overlap == "last":
                total, times = total.index_copy(0, rows, values), times.index_fill(0, rows, 1)
            else:
                total, times = (
                    total.index_add(0, rows, values),
                    times.index_add(0, rows, torch.ones_like(values[:, :1])),
                )
    return total / times.clamp(min=1)


@pytest.mark.parametrize("overlap", ["last", "mean"])
def test_sampling_equals_grid_sample(overlap: str) -> None:
    batch = camera_batch(0, 1)
    assert (batch.visible.sum(0) > 1).any() and (~batch.visible.any(0)).any()
    a = features(6, 5, *SIZE).requires_grad_()
    b = a.detach().clone().requires_grad_()
    links = PixelLinks.of(batch, overlap)
    found, expected = sample_image(a, links), read_by_loops(b, batch, overlap)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)  # weights are f32
    assert (
        torch.equal(links.in_sight, batch.visible.any(0))
        and found[~links.in_sight].abs().max() == 0
    )
    weight = features(*found.shape, seed=1)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=2e-5)


def test_pixels_on_the_outermost_centres() -> None:
    batch = camera_batch(0, cameras=1)
    batch = with_visible(batch, torch.ones_like(batch.visible))
    batch.cameras.pixels[0, :4] = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    maps = features(1, 3, *SIZE)
    found = sample_image(maps, PixelLinks.of(batch, "last"))[:4]
    torch.testing.assert_close(
        found, torch.stack([maps[0, :, y, x] for y in (0, -1) for x in (0, -1)])
    )
    drawn = draw_points(features(len(batch.coords), 2), PixelLinks.of(batch, "last"), SIZE, (1,))
    assert drawn.isfinite().all()


def test_order_of_cameras() -> None:
    """Shuffled cameras see the same: always with "mean", and with "last" where no two overlap."""
    batch, order = camera_batch(0, 1), torch.tensor([2, 0, 1])
    maps = features(2, 3, 5, *SIZE)

    def read(batch: Batch, overlap: str) -> tuple[Tensor, Tensor]:
        shuffled = with_cameras_in_order(batch, order)
        linked = (PixelLinks.of(b, overlap) for b in (batch, shuffled))
        return tuple(
            sample_image(m.flatten(0, 1), links) for m, links in zip((maps, maps[:, order]), linked)
        )

    torch.testing.assert_close(*read(batch, "mean"), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(*read(batch, "last"))
    first = batch.visible & (batch.visible.cumsum(0) == 1)
    torch.testing.assert_close(*read(with_visible(batch, first), "last"))


# --- blocks ---------------------------------------------------------------------------------------------------------
def unsettle(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        for tensor, low in (
            (norm.running_mean, -0.3),
            (norm.running_var, 0.5),
            (norm.weight, 0.5),
            (norm.bias, -0.3),
        ):
            tensor.data.uniform_(low, low + 0.8, generator=generator)
    return module.double().eval()


def norm(x: Tensor, bn: nn.Module) -> Tensor:
    return (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    return x @ layer.weight.flatten(1).T + layer.bias


@torch.no_grad()
def test_camera_to_lidar_formula() -> None:
    block = unsettle(C2L(6, 8))
    p, f, a = features(5, 8), features(5, 6, seed=1), block.ai_layer
    gate = (linear(norm(f, a.norm).relu(), a.fc1) + linear(p, a.fc2)).tanh()
    gate = linear(gate, a.fc3).sigmoid()
    g = norm(linear(f, a.conv1[0]), a.conv1[1]).relu()
    expected = norm(linear(torch.cat([p, gate * g], 1), block.conv1), block.bn1).relu()
    assert gate.shape == (5, 1) and a.fc1.out_features == 2
    torch.testing.assert_close(block(p, f), expected)


@torch.no_grad()
def test_lidar_to_camera_formula() -> None:
    block = unsettle(L2C(8, 6))
    f, m, a = features(2, 8, 3, 4), features(2, 6, 3, 4, seed=1), block.l2c_ai_layer
    last = lambda x: x.permute(0, 2, 3, 1)  # noqa: E731
    gate = linear((linear(last(f), a.fc1) + linear(last(m), a.fc2)).tanh(), a.fc3).sigmoid()
    g = norm(linear(last(m), a.conv1[0]), a.conv1[1]).relu()
    expected = norm(linear(torch.cat([last(f), gate * g], 3), block.conv1), block.bn1).permute(
        0, 3, 1, 2
    )
    activated, raw = block(f, m)
    torch.testing.assert_close(raw, expected)
    torch.testing.assert_close(activated, expected.relu())


def test_block_sizes_at_the_published_width() -> None:
    """0.29, 0.33 and 0.18 M at cr 1, 0.98, 0.42 and 0.26 M at cr 2, layer by layer."""
    for cr, rounded in ((1, (0.29, 0.33, 0.18)), (2, (0.98, 0.42, 0.26))):
        c2l = l2c = learn = 0
        found = [0, 0, 0]
        for ic, pc in zip((64, 128, 256, 128), (32 * cr, 64 * cr, 128 * cr, 256 * cr)):
            r = pc // 4
            gate = 2 * ic + (ic + 1) * r + (pc + 1) * r + r + 1
            c2l += gate + (ic + 1) * pc + 2 * pc + (2 * pc + 1) * pc + 2 * pc
            r = ic // 4
            gate = (ic + 1) * r + (pc + 1) * r + r + 1
            l2c += gate + (pc + 1) * ic + 2 * ic + (2 * ic + 1) * ic + 2 * ic
            learn += (pc + 1) * ic + 2 * ic + (ic + 1) * ic + 2 * ic
            for i, block in enumerate((C2L(ic, pc), L2C(ic, pc), learner(pc, ic))):
                found[i] += sum(q.numel() for q in block.parameters())
        assert found == [c2l, l2c, learn]
        assert [round(n / 1e6, 2) for n in found] == list(rounded)


def test_pixel_head_has_no_bias_but_takes_on_that_of_older_weights() -> None:
    head = PixelHead(6, 4).double()
    f = features(7, 6)
    assert [name for name, _ in head.named_parameters()] == [
        "norm.weight",
        "norm.bias",
        "linear.weight",
    ]
    mean, var = f.mean(0), f.var(0, unbiased=False)
    normal = (f - mean) / (var + head.norm.eps).sqrt()
    expected = normal.relu() @ head.linear.weight.T
    torch.testing.assert_close(head(f), expected)
    assert head(f[:0]).shape == (0, 4)
    old = head.state_dict() | {"linear.bias": torch.tensor([1.0, -2, 3, 0]).double()}
    load_weights(head, old, "test")
    torch.testing.assert_close(head(f), expected + old["linear.bias"])


def test_batch_norm_of_one_point_and_of_none() -> None:
    bn = PointBatchNorm(3).train()
    for count in (0, 1):
        assert bn(torch.ones(count, 3)).isfinite().all() and bn.num_batches_tracked == 0
    x = torch.randn(50, 3)
    torch.testing.assert_close(bn(x), nn.BatchNorm1d(3)(x))
