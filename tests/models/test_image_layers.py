"""Layers of the image branch against torch's own, in float64: values, gradients, statistics, what is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from image_reference import gradients, naive_unit, unsettle
from torch.multiprocessing.reductions import StorageWeakRef

from core.models.image.layers import NormReluConv, Pointwise


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_pointwise_convolution(order: torch.memory_format) -> None:
    conv = Pointwise(6, 4).double()
    x = (
        torch.randn(2, 6, 5, 7, dtype=torch.float64)
        .contiguous(memory_format=order)
        .requires_grad_()
    )
    expected = F.conv2d(x, conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)
    inputs = [x, conv.weight, conv.bias]
    torch.testing.assert_close(gradients(conv(x), inputs), gradients(expected, inputs))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_forgetful_unit(kernel: int, training: bool, order: torch.memory_format) -> None:
    unit = NormReluConv(6, 4, kernel).double()
    unsettle(unit)
    unit.train(training)
    assert list(dict(unit.named_parameters())) == ["0.weight", "0.bias", "2.weight"]
    x = (
        torch.randn(2, 6, 5, 7, dtype=torch.float64)
        .contiguous(memory_format=order)
        .requires_grad_()
    )
    mean, var = unit[0].running_mean.clone(), unit[0].running_var.clone()
    expected, found = naive_unit(x, unit), unit(x)
    torch.testing.assert_close(found, expected)
    inputs = [x, *unit.parameters()]
    wanted = gradients(expected, inputs)
    for _ in range(2):  # remade for each backward pass
        weight = torch.randn(
            found.shape, generator=torch.Generator().manual_seed(9), dtype=found.dtype
        )
        again = torch.autograd.grad((found * weight).sum(), inputs, retain_graph=True)
        torch.testing.assert_close(list(again), wanted)
    if training:  # one update, whatever the backward pass computes again
        mean, var = (
            mean.lerp(x.mean((0, 2, 3)), 0.1),
            var.lerp(x.transpose(0, 1).flatten(1).var(1), 0.1),
        )
    torch.testing.assert_close(
        [unit[0].running_mean, unit[0].running_var], [mean.detach(), var.detach()]
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_unit_does_not_keep_what_its_norm_returns(kernel: int) -> None:
    unit, normal = NormReluConv(6, 4, kernel), []
    unit[0].register_forward_hook(
        lambda _, inputs, output: normal.append(StorageWeakRef(output.untyped_storage()))
    )
    result = unit(torch.randn(2, 6, 8, 8, requires_grad=True))
    assert normal[0].expired() and result.grad_fn is not None
