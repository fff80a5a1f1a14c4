"""The compiled CPU kernels (``csrc/``): output-stationary implicit GEMM, fp32 and native bf16. GPUs: see ``cuda``.

fp16, and bf16 on machines without native dot products, are computed in fp32 and rounded once at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.sparse.backends import cuda, torch_ref
from core.sparse.library import library, loaded, pointer
from core.sparse.maps import KernelMap

__all__ = ["convolve", "convolve_fused"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Not torch.library.custom_op: its wrapper imports torch._dynamo at the first call, seconds in every process.
_OPERATORS = torch.library.Library("lidistill", "DEF")
_OPERATORS.define(
    "sparse_conv(Tensor x, Tensor kernel, Tensor? bias, Tensor ptr, Tensor rows_in, Tensor rows_out, SymInt n_out, "
    "bool mirror, bool transpose, Tensor? residual=None, bool relu=False) -> Tensor"
)
_OPERATORS.define(
    "sparse_conv_weight_grad(Tensor x, Tensor grad, Tensor ptr, Tensor rows_in, Tensor rows_out) -> Tensor"
)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap) -> Tensor:
    """See :func:`core.sparse.backends.convolve`."""
    if cuda.serves(x):
        return cuda.convolve(x, kernel, bias, kmap)
    if not _serves(x):
        return torch_ref.convolve(x, kernel, bias, kmap)
    return _Convolution.apply(x, kernel, bias, kmap)


def _serves(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _DTYPES and library() is not None


def convolve_fused(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    kmap: KernelMap,
    residual: Tensor | None,
    relu: bool,
) -> Tensor | None:
    """Convolve, then add and rectify while results are still in cache, without gradient.

    Returns:
        None where the compiled kernels do not serve.
    """
    if cuda.serves(x):
        return cuda.convolve_fused(x, kernel, bias, kmap, residual, relu)
    if not _serves(x):
        return None
    t = kmap.tiles
    pairs = (t.ptr, t.rows_in, t.rows_out, kmap.n_out)
    return torch.ops.lidistill.sparse_conv(x, kernel, bias, *pairs, False, False, residual, relu)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.bfloat16 and loaded().lidistill_has_bf16():
        return dtype
    return torch.float32


@torch.library.impl(_OPERATORS, "sparse_conv", "CPU")
def _sparse_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ptr: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    n_out: int,
    mirror: bool,
    transpose: bool,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Forward (or, with ``transpose``, multiplication by each ``kernel[k].T``) over pairs grouped by tile."""
    dtype = _compute_dtype(x.dtype)
    cin = x.shape[1]
    xs, ws = x.to(dtype), kernel.to(dtype)
    if dtype == torch.bfloat16 and cin % 2:  # dot products take channels in twos
        xs = F.pad(xs, (0, 1))
        ws = F.pad(ws, (0, 1) if transpose else (0, 0, 0, 1))
    xs, ws = xs.contiguous(), ws.contiguous()
    offset = None if bias is None else bias.float().contiguous()
    cout = kernel.shape[1] if transpose else kernel.shape[2]
    added = None if residual is None else residual.to(dtype).contiguous()
    assert added is None or added.shape == (n_out, cout)
    y = torch.empty(n_out, cout, dtype=dtype)
    loaded().lidistill_conv(
        int(dtype == torch.bfloat16),
        pointer(xs),
        pointer(ws),
        pointer(offset),
        pointer(added),
        pointer(y),
        pointer(ptr),
        pointer(rows_in),
        pointer(rows_out),
        len(xs),
        n_out,
        xs.shape[1],
        cout,
        kernel.shape[0],
        int(mirror),
        int(transpose),
        int(relu),
        torch.get_num_threads(),
    )
    return y.to(x.dtype)


@torch.library.register_fake("lidistill::sparse_conv", lib=_OPERATORS)
def _fake_sparse_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ptr: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    n_out: int,
    mirror: bool,
    transpose: bool,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    return x.new_empty(n_out, kernel.shape[1] if transpose else kernel.shape[2])


@torch.library.impl(_OPERATORS, "sparse_conv_weight_grad", "CPU")
def _sparse_conv_weight_grad(
    x: Tensor, grad: Tensor, ptr: Tensor, rows_in: Tensor, rows_out: Tensor
) -> Tensor:
    """``out[k] = sum over pairs of offset k of outer(x[in], grad[out])``, fp32 [K, Cin, Cout]."""
    dtype = _compute_dtype(x.dtype)
    xs, gs = x.to(dtype).contiguous(), grad.to(dtype).contiguous()
    out = torch.empty(len(ptr) - 1, x.shape[1], grad.shape[1])
    loaded().lidistill_weight_grad(
        int(dtype == torch.bfloat16),
        pointer(xs),
        pointer(gs),
        pointer(out),
        pointer(ptr),
        pointer(rows_in),
        pointer(rows_out),
        x.shape[1],
        grad.shape[1],
        len(ptr) - 1,
        torch.get_num_threads(),
    )
    return out


@torch.library.register_fake("lidistill::sparse_conv_weight_grad", lib=_OPERATORS)
def _fake_sparse_conv_weight_grad(
    x: Tensor, grad: Tensor, ptr: Tensor, rows_in: Tensor, rows_out: Tensor
) -> Tensor:
    return x.new_empty(ptr.shape[0] - 1, x.shape[1], grad.shape[1], dtype=torch.float32)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.kmap = kmap
        t = kmap.tiles
        return torch.ops.lidistill.sparse_conv(
            x, kernel, bias, t.ptr, t.rows_in, t.rows_out, kmap.n_out, False, False
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        kmap: KernelMap = ctx.kmap
        grad = grad.contiguous()
        grad_x = grad_kernel = grad_bias = None
        if ctx.needs_input_grad[0]:
            t = kmap.tiles if kmap.symmetric else kmap.transposed.tiles
            grad_x = torch.ops.lidistill.sparse_conv(
                grad, kernel, None, t.ptr, t.rows_in, t.rows_out, kmap.n_in, kmap.symmetric, True
            )
        if ctx.needs_input_grad[1]:
            p = kmap.offsets
            grad_kernel = torch.ops.lidistill.sparse_conv_weight_grad(
                x, grad, p.ptr, p.rows_in, p.rows_out
            )
            grad_kernel = grad_kernel.to(kernel.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.float().sum(0).to(grad.dtype)
        return grad_x, grad_kernel, grad_bias, None
