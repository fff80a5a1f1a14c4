"""MambaMOS: published sizes, its blocks against loops in float64, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_fakes import make_scan
from pydantic import ValidationError
from torch import Tensor

from core.contracts import Batch
from core.data import DataConfig, collate, make_sample
from core.models.lidar.curves import curve_codes
from core.models.lidar.mamba_blocks import Curve, MotionSSM, Sequences
from core.models.lidar.mambamos import MambaMOS, _Level
from core.sparse import SparseTensor, local_pool

SHALLOW = {"encoder_depths": (1, 1, 1, 2, 1), "decoder_depths": (1, 1, 1, 1)}
NARROW = {"encoder_channels": (16, 32, 64, 128, 256), "decoder_channels": (32, 32, 64, 128)}
TINY = {
    "encoder_depths": (1, 2, 1),
    "encoder_channels": (8, 8, 8),
    "decoder_depths": (1, 1),
    "decoder_channels": (8, 8),
    "drop_path_rate": 0.0,
    "dropout": 0.0,
}


def built(**options: object) -> MambaMOS:
    torch.manual_seed(0)
    return MambaMOS(MambaMOS.Config(name="mambamos", **options), 4)


# --- sizes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 49_204_647),  # as published
        (SHALLOW | NARROW, 5_568_327),  # 5.57 M
        (NARROW, 12_442_967),  # 12.4 M
        (SHALLOW, 22_021_895),  # 22.0 M
    ],
)
def test_parameters(options: dict[str, object], count: int) -> None:
    with torch.device("meta"):
        network = built(**options)
    assert sum(p.numel() for p in network.parameters()) == count
    if not options:
        assert sum(p.numel() for p in network.embedding.parameters()) == 3_619


@pytest.mark.parametrize(
    "wrong",
    [{"encoder_channels": (8, 8)}, {"decoder_depths": (1,)}, {"decoder_channels": (8,) * 5}],
)
def test_levels_have_a_depth_and_a_width_each(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"values|width"):
        MambaMOS.Config(name="mambamos", **wrong)


# --- sequences ----------------------------------------------------------------------------------------------------
def test_a_convolution_ends_with_its_sequence() -> None:
    torch.manual_seed(0)
    group = torch.randint(0, 5, (40,))
    order = torch.argsort(group, stable=True)[torch.arange(40)]
    layer = torch.nn.Conv1d(3, 4, 5, padding=2).double()
    values = torch.randn(40, 3, dtype=torch.float64)
    sequences = Sequences(order, group)
    found = sequences.convolve(layer, values)
    for number in range(5):
        rows = order[group[order] == number]
        alone = layer(values[rows].T[None])[0].T
        torch.testing.assert_close(found[rows], alone)
    assert torch.equal(sequences.by_row(sequences.ordered(values)), values)
    assert int(sequences.first.sum()) == len(group.unique())


def loops(block: MotionSSM, x: Tensor, code: Tensor, sample: Tensor, sweep: Tensor) -> Tensor:
    """The definition, sample by sample and step by step."""
    width, states = block.log_decay.shape
    projected = (
        F.layer_norm(x, x.shape[1:], block.norm.weight, block.norm.bias) @ block.in_proj.weight.T
    )
    a, z = projected[:, :width], projected[:, width:]
    out = torch.zeros_like(x)
    for number in sample.unique():
        rows = (sample == number).nonzero()[:, 0]
        rows = rows[code[rows].argsort()]
        own = torch.zeros(len(rows), width, dtype=x.dtype)
        for scan in sweep[rows].unique():
            part = (sweep[rows] == scan).nonzero()[:, 0]
            own[part] = F.silu(along(a[rows][part], block.conv_single))
        mixed = along(a[rows], block.conv_whole)
        h = F.silu(torch.sigmoid(mixed) * own + mixed)
        state = torch.zeros(width, states, dtype=x.dtype)
        for place, row in enumerate(rows):
            low, b, c = (block.x_proj.weight @ h[place]).split([block.rank, states, states])
            dt = F.softplus(block.dt_proj.weight @ low + block.dt_proj.bias)[:, None]
            state = torch.exp(-dt * block.log_decay.exp()) * state + dt * h[place][:, None] * b
            y = (state * c).sum(1) + block.skip * h[place]
            out[row] = block.out_proj.weight @ (y * F.silu(z[row]))
    return out


def along(values: Tensor, layer: torch.nn.Conv1d) -> Tensor:
    """A depthwise convolution of 5 taps about each place, zeros beyond the ends."""
    padded = F.pad(values, (0, 0, 2, 2))
    taps = [padded[k : k + len(values)] * layer.weight[:, 0, k] for k in range(5)]
    return sum(taps) + layer.bias


def test_the_state_space_model_is_its_definition() -> None:
    torch.manual_seed(0)
    block = MotionSSM(20).double()
    count = 60
    code = torch.randperm(count)
    sample, sweep = (code >= 35).long(), torch.randint(0, 3, (count,))
    x = torch.randn(count, 20, dtype=torch.float64)
    with torch.no_grad():
        block.skip.uniform_()
        block.norm.bias.normal_()
        found = block(x, Curve(code, sample, sweep))
        torch.testing.assert_close(found, loops(block, x, code, sample, sweep))


def test_first_steps_lie_where_mambas_do() -> None:
    torch.manual_seed(0)
    block = MotionSSM(64)
    dt = F.softplus(block.dt_proj.bias.detach())
    assert float(dt.min()) > 0.99e-3 and float(dt.max()) < 0.101
    torch.testing.assert_close(block.log_decay.exp()[5], torch.arange(1.0, 17))
    assert float(block.dt_proj.weight.detach().abs().max()) <= 1 / math.sqrt(block.rank)


# --- levels -------------------------------------------------------------------------------------------------------
def merged(seed: int, count: int = 250) -> object:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-6, -6, -1), (6, 6, 1), (count, 3))
    lag = np.where(np.arange(count) < count // 2, 0.0, 0.1)
    return make_scan(points, labels=np.ones(count), time_lag=lag, token=f"s{seed}")


def batch_of(*scans: object) -> Batch:
    view = DataConfig(voxel_size=0.5, augment=None)
    return collate([make_sample(scan, number, view) for number, scan in enumerate(scans)])


def test_a_coarse_level_is_in_the_order_of_its_voxels() -> None:
    batch = batch_of(merged(0), merged(1))
    x = SparseTensor.of(batch.cells, batch.feats)
    sweep = batch.at_cells("sweep").long()
    fine = _Level(curve_codes(x.coords), x.coords, sweep, shuffled=False)
    pooled = local_pool(x, 2, 2, "max")
    coarse = fine.pooled(pooled)
    corners = curve_codes(pooled.coords)
    for number in range(4):
        order = coarse.curve(number).whole.order
        assert torch.equal(order, corners[number].argsort())
    for row, cell in enumerate(pooled.coords.tolist()):
        inside = ((x.coords[:, 1:] // 2 * 2 == torch.tensor(cell[1:])).all(1)) & (
            x.coords[:, 0] == cell[0]
        )
        rows = inside.nonzero()[:, 0]
        first = rows[fine.curve(0).rank[rows].argmin()]
        assert coarse.sweep[row] == sweep[first]
        assert (coarse.parent[rows] == row).all()


# --- the network --------------------------------------------------------------------------------------------------
def test_a_scan_is_answered_the_same_alone_and_in_a_batch() -> None:
    network = built(**TINY).eval()
    with torch.no_grad():
        alone = [network(batch_of(merged(seed))).logits for seed in (0, 1)]
        joined = network(batch_of(merged(0), merged(1))).logits
        again = network(batch_of(merged(0), merged(1))).logits
    torch.testing.assert_close(joined, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert torch.equal(joined, again)


def test_the_number_of_a_scan_is_read() -> None:
    network = built(**TINY).eval()
    batch = batch_of(merged(0))
    with torch.no_grad():
        before = network(batch).logits
        batch.points["sweep"].zero_()
        after = network(batch).logits
    assert (before - after).abs().max() > 1e-4


def test_curves_change_places_in_training_alone() -> None:
    network = built(**TINY)
    batch = batch_of(merged(0))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = 0.0
        drawn = [network.train()(batch).logits for _ in range(6)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_every_parameter_learns() -> None:
    network = built(**TINY)
    network(batch_of(merged(0), merged(1))).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
