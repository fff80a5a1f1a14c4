"""spconv's GPU kernels over our kernel maps' coordinates, as an optional backend (``requirements-gpu.txt``).

Its CPU wheel races with more than one OpenMP thread and cannot run backward, so CPU tensors are refused unless exactly
one thread runs and no gradient is wanted (benchmarks do so to compare).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.sparse.maps import KernelMap

__all__ = ["convolve"]


def _ops() -> Any:
    try:
        from spconv.pytorch import ops
    except ImportError as error:
        raise UserError(
            "the spconv backend was asked for, but the package is not installed",
            where="sparse backend",
            cure="pip install -r requirements-gpu.txt, or unset LIDISTILL_SPARSE_BACKEND",
        ) from error
    return ops


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap) -> Tensor:
    """See :func:`core.sparse.backends.convolve`.

    Raises:
        UserError: spconv is missing, or its CPU kernels were asked for where they are wrong.
    """
    if x.device.type == "cpu" and (
        torch.get_num_threads() > 1 or x.requires_grad or kernel.requires_grad
    ):
        raise UserError(
            "spconv's CPU kernels give wrong values with more than one thread and have no backward",
            where="sparse backend",
            cure="Use the native backend on CPU (unset LIDISTILL_SPARSE_BACKEND)",
        )
    y = _Convolution.apply(x, kernel, kmap)
    return y if bias is None else y + bias


def _indice_pairs(kmap: KernelMap) -> tuple[Tensor, Tensor]:
    """spconv's layout: int32 [2, K, max pairs] padded with -1, and int32 [K] counts."""
    pairs = kmap.offsets
    counts = pairs.ptr.diff()
    longest = max(1, int(counts.max()))
    out = torch.full((2, kmap.volume, longest), -1, dtype=torch.int32, device=pairs.rows_in.device)
    offsets = torch.arange(kmap.volume, device=counts.device)
    group = torch.repeat_interleave(offsets, counts)
    at = torch.arange(len(group), device=counts.device) - pairs.ptr[:-1][group]
    out[0, group, at] = pairs.rows_in
    out[1, group, at] = pairs.rows_out
    return out, counts.int()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, kmap: KernelMap) -> Tensor:
        pairs, counts = _indice_pairs(kmap)
        filters = kernel.permute(2, 0, 1).contiguous()  # [Cout, K, Cin]
        ctx.save_for_backward(x, filters, pairs, counts)
        return _ops().indice_conv(x.contiguous(), filters, pairs, counts, kmap.n_out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, filters, pairs, counts = ctx.saved_tensors
        grad_x, grad_filters = _ops().indice_conv_backward(
            x, filters, grad.contiguous(), pairs, counts
        )
        return grad_x, grad_filters.permute(1, 2, 0), None
