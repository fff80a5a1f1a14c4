"""Plain PyTorch: gather, multiply, add, offset by offset. Any device and dtype; the reference of the tests."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from core.sparse.maps import KernelMap, Pairs

__all__ = ["convolve"]


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap) -> Tensor:
    """See :func:`core.sparse.backends.convolve`."""
    y = _Convolution.apply(x, kernel, kmap)
    return y if bias is None else y + bias


def _groups(pairs: Pairs) -> list[tuple[int, Tensor, Tensor]]:
    """(offset, input rows, output rows) of the offsets that have pairs."""
    rows_in, rows_out = pairs.rows_in.long(), pairs.rows_out.long()
    groups = []
    for k, (begin, end) in enumerate(pairwise(pairs.ptr.tolist())):
        if begin < end:
            groups.append((k, rows_in[begin:end], rows_out[begin:end]))
    return groups


def _accumulator(rows: int, like: Tensor, channels: int) -> Tensor:
    dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    return torch.zeros(rows, channels, dtype=dtype, device=like.device)


class _Convolution(torch.autograd.Function):
    """Each output row occurs at most once per offset, so every addition order is fixed: results repeat bit for bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, kmap: KernelMap) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.kmap = kmap
        y = _accumulator(kmap.n_out, x, kernel.shape[2])
        for k, rows_in, rows_out in _groups(kmap.offsets):
            products = x.index_select(0, rows_in) @ kernel[k]
            y.index_add_(0, rows_out, products.to(y.dtype))
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        grad_x = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_x = _accumulator(len(x), x, x.shape[1])
        if ctx.needs_input_grad[1]:
            grad_kernel = torch.zeros_like(kernel)
        for k, rows_in, rows_out in _groups(ctx.kmap.offsets):
            g = grad.index_select(0, rows_out)
            if grad_x is not None:
                products = g @ kernel[k].T
                grad_x.index_add_(0, rows_in, products.to(grad_x.dtype))
            if grad_kernel is not None:
                grad_kernel[k] = x.index_select(0, rows_in).T @ g
        if grad_x is not None:
            grad_x = grad_x.to(x.dtype)
        return grad_x, grad_kernel, None
