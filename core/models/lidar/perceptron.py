"""Layers at the points that are computed once more in the backward pass in place of being kept for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.models.layers import PointBatchNorm

__all__ = ["Perceptron", "norm_relu_linear"]


class Perceptron(nn.Sequential):
    """Layers [norm, linear, (norm, ReLU, linear), ...] whose activations are not kept for the backward pass.

    It keeps what each normalisation reads, half of what the layers themselves keep, and gives the same numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[P, C] -> [P, C']."""
        if not self.training:  # normalisations may be part of the linear layers then
            return super().forward(x)
        norm, first, *others = self
        x = first(norm(x))
        for norm, linear in zip(others[::3], others[2::3], strict=True):
            assert isinstance(norm, PointBatchNorm) and isinstance(linear, nn.Linear)
            x = norm_relu_linear(x, norm, linear)
        return x


def norm_relu_linear(x: Tensor, norm: PointBatchNorm, linear: nn.Linear) -> Tensor:
    """``linear(relu(norm(x)))``, [P, C] -> [P, C'], of which a training on one process keeps ``x`` alone."""
    learns = norm.training and torch.is_grad_enabled()
    if not learns or norm.sync or len(x) < 2:  # no second exchange between processes
        return linear(norm(x).relu_())
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    made: Tensor = _NormReluLinear.apply(
        x, norm.weight, norm.bias, linear.weight, linear.bias, norm, norm.momentum
    )
    return made


class _NormReluLinear(torch.autograd.Function):
    """The three layers in training; changes the running statistics of the normalisation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: PointBatchNorm,
        momentum: float,
    ) -> Tensor:
        y, mean, inverse = torch.native_batch_norm(
            x, scale, shift, norm.running_mean, norm.running_var, True, momentum, norm.eps
        )
        ctx.eps = norm.eps
        ctx.save_for_backward(x, scale, shift, weight, mean, inverse)
        return nn.functional.linear(y.relu_(), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, mean, inverse = ctx.saved_tensors
        y, _, _ = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, ctx.eps)
        y.relu_()
        grad_weight = (grad.t() @ y.to(grad.dtype)).to(weight.dtype)
        grad_bias = grad.sum(0).to(weight.dtype)
        grad_y = (grad @ weight.to(grad.dtype)).to(x.dtype)
        grad_y = torch.ops.aten.threshold_backward(grad_y, y, 0)
        grads = torch.ops.aten.native_batch_norm_backward(
            grad_y, x, scale, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        return *grads, grad_weight, grad_bias, None, None
