"""Columns that close to a circle: torch's circular padding, at any width, with its gradients."""

import pytest
import torch
import torch.nn.functional as F

from core.fast.ring import closed_ring


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 4, 1, 6), (1, 1, 3, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_ring_is_circular_padding(shape, memory_format):
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    x.requires_grad_()
    expected = F.pad(x, (1, 1, 0, 0), mode="circular")
    found = closed_ring(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(expected)
    kept = upstream.clone()
    (wanted,) = torch.autograd.grad(expected, x, upstream)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-15)
    assert torch.equal(upstream, kept)


def test_the_number_type_stays():
    assert closed_ring(torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)).dtype is torch.bfloat16
