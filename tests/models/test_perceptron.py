"""Layers computed twice against the plain ones: the same numbers, gradients and running statistics, less memory."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from core.models.layers import PointBatchNorm
from core.models.lidar.cylinder_points import perceptron
from core.sparse.fold import fold_batch_norm

WIDTHS = (5, 16, 32, 8)


def pair(seed: int = 0) -> tuple[nn.Module, nn.Sequential]:
    """The network, and a sequence of its plain layers with the same weights."""
    torch.manual_seed(seed)
    network = perceptron(WIDTHS)
    for module in network:
        if isinstance(module, PointBatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network, nn.Sequential(*deepcopy(network))


def points(rows: int) -> Tensor:
    return torch.randn(rows, WIDTHS[0], generator=torch.Generator().manual_seed(rows))


def trained(network: nn.Module, x: Tensor, amp: bool) -> list[Tensor]:
    """Output, gradients of the input and of all weights, running statistics after two steps."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = network(x)
        (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = [value.grad for value in (x, *network.parameters()) if value.grad is not None]
    assert len(grads) == 1 + len(list(network.parameters()))
    return [y, *grads, *network.buffers()]


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 500])
def test_a_training_sees_the_same_numbers(rows: int, amp: bool) -> None:
    network, plain = pair()
    ours, theirs = trained(network, points(rows), amp), trained(plain, points(rows), amp)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_differences_in_float64() -> None:
    network, _ = pair()
    network.double()
    x = points(7).double().requires_grad_()
    weights = dict(network.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(weights, values)), x)

    assert torch.autograd.gradcheck(run, (x, *weights.values()))


@pytest.mark.parametrize("training", [False, True])
def test_without_gradients_the_layers_are_the_plain_ones(training: bool) -> None:
    network, plain = pair()
    with torch.no_grad():
        ours, theirs = network.train(training)(points(40)), plain.train(training)(points(40))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for one, other in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_normalisations_fold_into_it() -> None:
    network, plain = pair()
    network(points(300))
    plain(points(300))
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, PointBatchNorm) for module in folded.modules())
    torch.testing.assert_close(folded(points(9)), plain.eval()(points(9)), rtol=1e-5, atol=1e-5)


def test_activations_are_not_kept() -> None:
    rows = 100
    network, plain = pair()

    def kept(module: nn.Module) -> int:
        """Values of the points' tensors that wait for the backward pass."""
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if len(tensor) == rows:
                storages[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = module(points(rows))
        assert y.requires_grad
        return sum(storages.values())

    hidden = sum(WIDTHS[1:-1])
    read = 2 * WIDTHS[0]  # by the first normalisation and the first linear layer
    assert kept(network) == rows * (read + hidden)
    assert kept(plain) == rows * (read + 2 * hidden)
    assert all(cin != cout for cin, cout in pairwise(WIDTHS))
