"""MotionBEV for inference: the values of the network it was made of, against the latter in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from made_samples import doubled, unlike_new
from test_motionbev import PARTITION, batch_of, make, scan
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.models.lidar.motionbev import MotionBEV
from core.sparse import fold_batch_norm

ODD = {"bins": [35, 50, 4]}  # poolings leave a row and a column over


def network_of(**options: object) -> MotionBEV:
    partition = {**PARTITION, **ODD}
    network = make(partition=partition, width=8, heights=4, point_features=12, **options)
    return unlike_new(network).eval()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("upsampling", ["dysample", "transposed"])
@pytest.mark.parametrize("seam", ["closed", "published"])
def test_the_same_logits_and_stages(seam: str, upsampling: str) -> None:
    network = network_of(seam=seam, upsampling=upsampling)
    batch = batch_of(scan(1), scan(2, points=700), **ODD)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    exact = network.double()(doubled(batch))
    found = folded(batch)
    assert error(found.logits, exact.logits) < 1e-5
    for ours, theirs in zip(found.stages, exact.stages, strict=True):
        assert ours.edge == theirs.edge
        assert error(ours.at_cells(), theirs.at_cells()) < 1e-5


def test_no_less_exact_in_bfloat16() -> None:
    network, batch = network_of(), batch_of(scan(1), scan(2), **ODD)
    folded = fold_batch_norm(network)
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = network(batch).logits, folded(batch).logits
    assert found.dtype is torch.bfloat16
    exact = network.double()(doubled(batch)).logits
    assert error(found, exact) < 1.2 * error(plain, exact)


def test_float64_stays_float64() -> None:
    network = network_of().double()
    batch = doubled(batch_of(scan(1), **ODD))
    found = fold_batch_norm(network)(batch).logits
    assert found.dtype is torch.float64
    assert error(found, network(batch).logits) < 1e-9


def test_the_network_is_not_changed() -> None:
    network, batch = network_of(), batch_of(scan(1), **ODD)
    before = network(batch)
    fold_batch_norm(network)(batch)
    after = network(batch)
    assert torch.equal(before.logits, after.logits)
    assert after.point_features is not None


def test_layers_with_hooks_stay() -> None:
    network, batch = network_of(), batch_of(scan(1), **ODD)
    seen: list[nn.Module] = []
    network.gates[1].gate[3].register_forward_hook(lambda module, *_: seen.append(module))
    folded = fold_batch_norm(network)
    assert isinstance(folded, MotionBEV)
    assert error(folded(batch).logits, network.double()(doubled(batch)).logits) < 1e-5
    assert len(seen) == 2


def test_a_scan_beyond_the_grid_is_labelled() -> None:
    network = network_of()
    batch = batch_of(scan(3, points=1), **ODD)
    found = fold_batch_norm(network)(batch).logits
    assert error(found, network.double()(doubled(batch)).logits) < 1e-5
