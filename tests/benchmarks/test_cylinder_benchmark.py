"""What the benchmark of Cylinder3D counts and compares: multiply-accumulates by hand, losses on both kinds of cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.convolutions import convolution_calls
from benchmarks.cylinder3d.kernels import count_macs, kernel_name, measure_kernels
from benchmarks.cylinder3d.scene import CLASSES, WIDTHS, cylinder_batch, network_of
from benchmarks.cylinder3d.steps import LOSSES, train
from core.contracts import Batch
from core.data.partitions.cylinder import Cylinder

POINTS = 150
BINS = np.array([480, 360, 32])


@pytest.fixture(scope="module")
def batch() -> Batch:
    points = np.random.default_rng(0).uniform((-4, -4, -2, 0), (4, 4, 1, 1), (POINTS, 4))
    return cylinder_batch(points.astype(np.float32))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return network_of("0.5x").eval()


def pairs_of(places: set, reach: tuple[int, int, int]) -> int:
    """Pairs of occupied cells within a box about each other."""
    found = 0
    for x, y, z in places:
        for other in places:
            near = zip((x, y, z), other, reach)
            found += all(abs(a - b) <= most for a, b, most in near)
    return found


def test_pairs_and_macs_by_hand(network: nn.Module, batch: Batch) -> None:
    places = {tuple(row) for row in batch.coords[:, 1:].tolist()}
    width = WIDTHS["0.5x"]
    calls = convolution_calls(network, batch)
    assert len(calls) == sum(type(m).__name__ == "Conv3d" for m in network.modules())
    first = calls[0]
    assert kernel_name(first) == "1x3x3"
    assert first.macs == pairs_of(places, (0, 1, 1)) * width * width
    last = calls[-1]
    assert kernel_name(last) == "3x3x3"
    assert last.macs == pairs_of(places, (1, 1, 1)) * 4 * width * CLASSES


def test_macs_are_those_of_all_layers(network: nn.Module, batch: Batch) -> None:
    macs = count_macs(network, batch)
    assert macs["convolutions"] == sum(call.macs for call in convolution_calls(network, batch))
    points = 9 * 64 + 64 * 128 + 128 * 256 + 256 * 256
    assert macs["linear"] == POINTS * points + len(batch.cells) * 256 * WIDTHS["0.5x"]


def test_kernels_hold_every_convolution_once(network: nn.Module, batch: Batch) -> None:
    works = measure_kernels(network, batch, "fp32", 1)
    assert sum(work.count for work in works.values()) == len(convolution_calls(network, batch))
    gflop = sum(work.gflop for work in works.values())
    assert gflop == pytest.approx(2e-9 * count_macs(network, batch)["convolutions"])
    assert set(works) >= {"1x3x3", "3x1x3", "3x1x1", "3x3x3, stride 2", "3x3x3, transposed"}


def small(batch: Batch) -> Batch:
    """The same cells in a grid whose dense tensors are small."""
    grid = Cylinder(name="cylinder", bins=(8, 8, 8))
    places = torch.unique(batch.coords[:, 1:] % 8, dim=0)
    coords = torch.cat([places.new_zeros(len(places), 1), places], 1)
    labels = torch.arange(len(coords)) % 5  # some are ignored
    return replace(batch, cells=replace(batch.cells, partition=grid, coords=coords, labels=labels))


def test_losses_and_gradients_of_both_kinds_of_cells_agree(batch: Batch) -> None:
    dense = small(batch)
    generator = torch.Generator().manual_seed(0)
    values, grads = [], []
    for loss in LOSSES.values():
        logits = torch.randn(len(dense.cells), CLASSES, generator=generator.manual_seed(0))
        logits.requires_grad_()
        value = loss(logits, dense)
        value.backward()
        values.append(value.detach())
        grads.append(logits.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_a_step_changes_every_weight(batch: Batch) -> None:
    network = network_of("0.5x").train()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    train(network, torch.optim.SGD(network.parameters(), lr=0.1), batch, "fp32")
    for name, value in network.named_parameters():
        if not name.endswith("bias"):  # those before a norm have no gradient but rounding
            assert not torch.equal(value, before[name]), name
