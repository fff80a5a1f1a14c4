"""Convolutions of images that take less time or memory than torch's, at the same values.

What a batch norm returns is as large as what it is given, and cheap to compute again. So the backward passes below
remake it from the norm's input, which the norm keeps anyway, instead of keeping both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from core.fast import plain
from core.sparse.checks import InvalidInput
from core.sparse.points import GatherTable

__all__ = ["norm_relu_conv", "norm_relu_conv_at_points", "pointwise_conv"]

GROUP = 32  # channels gathered at a time: the gathered taps of all of them would outweigh the map
_WHERE = "norm, ReLU, convolution"
Gradients = tuple[Tensor | None, ...]


def pointwise_conv(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 1x1 kernel, as a matrix product over the pixels.

    torch's own convolution takes a path without oneDNN, and a copy into channels-first order, for small float32 kernels
    on one thread, which is what each of several processes per machine has.

    Args:
        x: [N, cin, H, W], best channels last in memory.
        kernel: [cout, cin, 1, 1].
        bias: [cout].

    Returns:
        [N, cout, H, W], channels last in memory.
    """
    pixels = x.permute(0, 2, 3, 1)
    return F.linear(pixels, kernel.flatten(1), bias).permute(0, 3, 1, 2)


def norm_relu_conv(x: Tensor, norm: nn.Module, conv: nn.Conv2d) -> Tensor:
    """Normalise, rectify and convolve; the normalised map is not kept for the backward pass.

    Args:
        x: [N, cin, H, W].
        norm: an nn.BatchNorm2d; the output of any other is kept.
        conv: odd square kernel, stride 1, padding that keeps the size, no bias.

    Returns:
        [N, cout, H, W].

    Raises:
        InvalidInput: ``x`` has other channels, or ``conv`` is of another kind.
    """
    _check(x, conv)
    if not _can_normalise_again(norm):
        return plain.norm_relu_conv(x, norm, conv)
    return _NormReluConv.apply(x, norm.weight, norm.bias, conv.weight, norm)


def norm_relu_conv_at_points(
    x: Tensor, norm: nn.Module, conv: nn.Conv2d, table: GatherTable
) -> Tensor:
    """Normalise and rectify every pixel, convolve at points only; neither map nor taps are kept.

    Interpolation and convolution are both linear, so interpolating the k * k shifted inputs first and multiplying once
    per point gives what interpolating the convolved map gives.

    Args:
        x: [N, cin, H, W].
        norm, conv: as for :func:`norm_relu_conv`.
        table: pixels -> interpolated tap at each (point, tap), R * k * k rows.

    Returns:
        [R, cout].

    Raises:
        InvalidInput: ``x`` has other channels or pixels, ``conv`` is of another kind, or the table's rows are no taps.
    """
    _check(x, conv)
    rows, taps = len(table.ptr) - 1, conv.kernel_size[0] * conv.kernel_size[1]
    if rows % taps:
        raise InvalidInput(f"a table of {rows} rows for {taps} taps at each point", where=_WHERE)
    if not _can_normalise_again(norm):
        return _ReluConvAtPoints.apply(_pixels(norm(x)), conv.weight, table)
    return _NormReluConvAtPoints.apply(x, norm.weight, norm.bias, conv.weight, norm, table)


def _check(x: Tensor, conv: nn.Conv2d) -> None:
    """Refuse what the passes below would compute as if it were something else."""
    height, width = conv.kernel_size
    plain_steps = {conv.stride, conv.dilation} == {(1, 1)} and conv.groups == 1
    padded = conv.padding == (height // 2, width // 2) and conv.padding_mode == "zeros"
    odd = height == width and height % 2 == 1
    if not (plain_steps and padded and odd) or conv.bias is not None:
        raise InvalidInput(
            f"{conv}; expected an odd square kernel, stride 1, padding that keeps the size, no bias",
            where=_WHERE,
        )
    if x.dim() != 4 or x.shape[1] != conv.in_channels:
        raise InvalidInput(f"x is {list(x.shape)}, but {conv} was given", where=_WHERE)


class _NormReluConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, norm: nn.BatchNorm2d
    ) -> Tensor:
        _remember(ctx, x, scale, shift, kernel, norm)
        return _convolve(norm(x).relu_(), kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        rectified, norm_backward = _normalise_again(ctx)
        rectified.relu_()
        needs_map, needs_kernel = any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[3]
        kernel = ctx.saved_tensors[3]
        grad_map, grad_kernel = _convolve_backward(grad, rectified, kernel, needs_map, needs_kernel)
        if grad_map is None:
            return None, None, None, grad_kernel, None
        _relu_backward(grad_map, rectified, out=rectified)
        del grad_map  # before the norm's backward pass needs room for as much
        return *norm_backward(rectified), grad_kernel, None


class _NormReluConvAtPoints(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        kernel: Tensor,
        norm: nn.BatchNorm2d,
        table: GatherTable,
    ) -> Tensor:
        _remember(ctx, x, scale, shift, kernel, norm)
        ctx.table = table
        return _convolve_at_points(_pixels(norm(x)), kernel, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        normal, norm_backward = _normalise_again(ctx)
        kernel = ctx.saved_tensors[3]
        pixels = _pixels(normal)
        grad_pixels, grad_kernel = _convolve_at_points_backward(grad, pixels, kernel, ctx.table)
        del normal, pixels  # before the norm's backward pass needs room for as much
        grad_map = _as_map(grad_pixels, like=ctx.saved_tensors[0])
        return *norm_backward(grad_map), grad_kernel, None, None


class _ReluConvAtPoints(torch.autograd.Function):
    """For a norm that cannot be computed again: its output is kept."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, kernel: Tensor, table: GatherTable) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(pixels, kernel)
        return _convolve_at_points(pixels, kernel, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        pixels, kernel = ctx.saved_tensors
        grad_pixels, grad_kernel = _convolve_at_points_backward(grad, pixels, kernel, ctx.table)
        return grad_pixels, grad_kernel, None


# --- the norm -----------------------------------------------------------------------------------------------------
def _can_normalise_again(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """There will be a backward pass, and nothing but the map is needed: no statistics of other processes."""
    return torch.is_grad_enabled() and type(norm) is nn.BatchNorm2d


def _remember(
    ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, norm: nn.BatchNorm2d
) -> None:
    """Keep what :func:`_normalise_again` needs, and the kernel."""
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    ctx.save_for_backward(x, scale, shift, kernel, *statistics)
    ctx.training, ctx.eps = norm.training, norm.eps


def _normalise_again(ctx: Any) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
    """Compute the norm's output once more.

    Returns:
        The output [N, C, H, W], and the norm's backward pass: gradient of the output -> those of x, scale and shift,
        None where ``ctx`` needs none. It does not hold the output, which the caller may overwrite.
    """
    x, scale, shift, _, mean, variance = ctx.saved_tensors
    inputs = (x.detach(), scale.detach(), shift.detach())
    wanted = []
    for tensor, needed in zip(inputs, ctx.needs_input_grad):
        if needed:
            wanted.append(tensor.requires_grad_())
    with torch.enable_grad():
        normal = F.batch_norm(
            inputs[0], mean, variance, inputs[1], inputs[2], ctx.training, 0.0, ctx.eps
        )
    edge = get_gradient_edge(normal) if wanted else None

    def backward(grad: Tensor) -> Gradients:
        if edge is None:
            return None, None, None
        found = iter(torch.autograd.grad([edge], wanted, [grad]))
        return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)

    return normal.detach(), backward


# --- convolutions of a map ----------------------------------------------------------------------------------------
def _convolve(rectified: Tensor, kernel: Tensor) -> Tensor:
    kernel = kernel.detach()  # else autocast keeps its copy, made here without a graph, for others
    if kernel.shape[2] == 1:
        return _as_map(_pixels(rectified) @ kernel.flatten(1).T, rectified)
    return F.conv2d(rectified, kernel, padding=kernel.shape[2] // 2)


def _convolve_backward(
    grad: Tensor, rectified: Tensor, kernel: Tensor, needs_map: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the map and the kernel; the forward pass may have run in the precision of ``grad``."""
    x, weight = rectified.to(grad.dtype), kernel.to(grad.dtype)
    grad_map, grad_kernel = None, None
    if kernel.shape[2] == 1:
        rows = _pixels(grad)
        if needs_map:
            grad_map = _as_map(rows @ weight.flatten(1), grad)
        if needs_kernel:
            grad_kernel = (rows.T @ _pixels(x)).view(weight.shape)
    else:
        padding = [kernel.shape[2] // 2] * 2
        grad_map, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1,
            [needs_map, needs_kernel, False],
        )  # fmt: skip
    return _as(grad_map, rectified.dtype), _as(grad_kernel, kernel.dtype)


# --- convolutions at points ---------------------------------------------------------------------------------------
def _convolve_at_points(x: Tensor, kernel: Tensor, table: GatherTable) -> Tensor:
    """``table @ relu(x)`` times the kernel, a group of channels at a time so that few taps exist at once."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    result = torch.zeros((), dtype=wide, device=x.device)
    for start in range(0, x.shape[1], GROUP):
        group = slice(start, start + GROUP)
        matrix = _matrix(kernel[:, group]).to(x.dtype)
        taps = table.apply(x[:, group].relu()).view(-1, len(matrix))
        result = result + (taps @ matrix).to(wide)
    return result.to(x.dtype)


def _convolve_at_points_backward(
    grad: Tensor, x: Tensor, kernel: Tensor, table: GatherTable
) -> tuple[Tensor, Tensor]:
    """Gradients of the pixels ``x`` [P, cin] before their ReLU, and of the kernel."""
    grad_x, grad_kernel = torch.empty_like(x), torch.empty_like(kernel)
    for start in range(0, x.shape[1], GROUP):
        group = slice(start, start + GROUP)
        rectified, part = x[:, group].relu(), kernel[:, group].permute(2, 3, 1, 0)
        matrix = _matrix(kernel[:, group]).to(x.dtype)
        taps = table.apply(rectified).view(-1, len(matrix))
        grad_kernel[:, group] = (taps.T @ grad).view(part.shape).permute(3, 2, 0, 1)
        del taps  # as large as the group's part of the map; so is its gradient
        grad_group = table.transposed.apply((grad @ matrix.T).view(-1, rectified.shape[1]))
        _relu_backward(grad_group, rectified, out=grad_x[:, group])
        del grad_group, rectified
    return grad_x, grad_kernel


# --- small parts --------------------------------------------------------------------------------------------------
def _relu_backward(grad: Tensor, rectified: Tensor, out: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(grad, rectified, 0, grad_input=out)


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N * H * W, C], without a copy where channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _as_map(pixels: Tensor, like: Tensor) -> Tensor:
    """[N * H * W, C] -> [N, C, H, W], as many and as large as ``like``."""
    count, _, height, width = like.shape
    return pixels.view(count, height, width, pixels.shape[1]).permute(0, 3, 1, 2)


def _matrix(kernel: Tensor) -> Tensor:
    """Kernel [cout, cin, k, k] as a matrix [k * k * cin, cout]."""
    return kernel.permute(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _as(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)
