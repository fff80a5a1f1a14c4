"""Folded networks compute what the originals compute in evaluation mode."""

from __future__ import annotations

import copy

import pytest
import torch
from made_samples import doubled
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.config import Config
from core.models import build_model
from core.models.probe import random_batch
from core.sparse import (
    Conv3d,
    SparseBatchNorm,
    SparseReLU,
    SparseTensor,
    convolve,
    fold_batch_norm,
    kernel_map,
)
from core.sparse.backends import native

NETWORKS = {
    "minkunet": {"cr": 0.25},
    "spvcnn": {"cr": 0.25},
    "spvcnn_spformer": {"cr": 0.5},
    "sphereformer": {"layers": [16, 32, 48]},
}


def trained(name: str) -> nn.Module:
    """A network in training mode whose normalisations are far from the identity."""
    torch.manual_seed(0)
    network = build_model(Config({"model": {"name": name, **NETWORKS[name]}}), 9)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def relative_error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() - y.double()).abs().max() / y.double().abs().max())


@torch.no_grad()
@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_logits(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIDISTILL_SPARSE_BACKEND", backend)
    network, batch = trained(name), random_batch(500)
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    assert network.training and not folded.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    expected = network(batch)
    output = folded(batch)
    assert relative_error(output.logits, expected.logits) < 1e-4
    for ours, theirs in zip(output.stages, expected.stages, strict=True):
        assert relative_error(ours.feats, theirs.feats) < 1e-4
    assert norms(folded) == 0 if name != "sphereformer" else 0 < norms(folded) < norms(network)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_no_less_exact_in_bfloat16(name: str) -> None:
    network, batch = trained(name).eval(), random_batch(500)
    exact = network.double()(doubled(batch)).logits
    network.float()
    folded = fold_batch_norm(network)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = network(batch).logits, folded(batch).logits
    rms = [(logits.double() - exact).square().mean().sqrt() for logits in (ours, plain)]
    assert rms[0] < 1.25 * rms[1] + 1e-3


def tensor(channels: int, dtype: torch.dtype = torch.float32) -> SparseTensor:
    batch = random_batch(300)
    torch.manual_seed(1)
    return SparseTensor.from_batch(torch.randn(len(batch.coords), channels).to(dtype), batch.coords)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize("channels", [5, 32, 70])
def test_fused_residual_and_rectifier(dtype: torch.dtype, tolerance: float, channels: int) -> None:
    x = tensor(8, dtype)
    kmap = kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    kernel, bias = torch.randn(27, 8, channels).to(dtype), torch.randn(channels).to(dtype)
    residual = torch.randn(x.num_voxels, channels).to(dtype)
    doubles = [t.double() for t in (x.feats, kernel, bias, residual)]
    for added, exact in ((None, 0.0), (residual, doubles[3])):
        for relu in (False, True):
            reference = convolve(*doubles[:3], kmap, "torch") + exact
            reference = reference.clamp_min(0) if relu else reference
            fused = native.convolve_fused(x.feats, kernel, bias, kmap, added, relu)
            assert fused.dtype == dtype and relative_error(fused, reference) < tolerance
            kernel.requires_grad_()  # the same through the differentiable path
            y = convolve(x.feats, kernel, bias, kmap, residual=added, relu=relu)
            assert y.requires_grad and relative_error(y.detach(), reference) < 2 * tolerance
            kernel.requires_grad_(False)


def test_rectifier_keeps_nan() -> None:
    x = tensor(4)
    kmap = kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    x.feats[0] = torch.nan
    y = native.convolve_fused(x.feats, torch.ones(27, 4, 16), None, kmap, None, True)
    assert y[0].isnan().all()


def test_what_stays() -> None:
    torch.manual_seed(0)
    conv = Conv3d(4, 4)
    shared = nn.Sequential(
        nn.Sequential(conv, SparseBatchNorm(4)), nn.Sequential(conv, SparseBatchNorm(4))
    )
    hooked = nn.Sequential(Conv3d(4, 4), SparseBatchNorm(4), SparseReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    rectified = nn.Sequential(Conv3d(4, 4, relu=True), SparseBatchNorm(4))
    x = tensor(4)
    for network, left in ((shared, 2), (hooked, 1), (rectified, 1)):
        folded = fold_batch_norm(network)
        assert norms(folded) == left
        torch.testing.assert_close(folded(x).feats, network.eval()(x).feats)


def test_linear_layers_and_biases_are_folded() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 9), nn.Linear(9, 3, bias=False)
    network = nn.Sequential(first, nn.BatchNorm1d(9), nn.ReLU(), second, nn.BatchNorm1d(3))
    for _ in range(3):
        network(torch.randn(50, 6) * 2 + 1)
    folded, x = fold_batch_norm(network), torch.randn(20, 6)
    assert norms(folded) == 0 and not any(p.requires_grad for p in folded.parameters())
    torch.testing.assert_close(folded(x), network.eval()(x))


@torch.no_grad()
def test_a_norm_before_a_linear_layer_is_folded() -> None:
    layers = nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False)
    )
    for norm in (layers[0], layers[2]):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    folded = fold_batch_norm(layers)
    assert norms(folded) == 0
    x = torch.randn(7, 5)
    exact = layers.eval().double()(x.double())
    assert relative_error(folded(x), exact) < 1e-5
