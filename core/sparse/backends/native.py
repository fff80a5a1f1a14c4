"""The compiled CPU kernels (``csrc/``): output-stationary implicit GEMM, fp32 and native bf16. GPUs: see ``cuda``.

fp16, and bf16 on machines without native dot products, are computed in fp32 and rounded once at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.sparse.backends import cuda, torch_ref
from core.sparse.checks import (
    InvalidInput,
    check_ascending,
    check_range,
    check_tensor,
    describe,
)
from core.sparse.library import library, loaded, pointer
from core.sparse.maps import PROVEN, KernelMap, rows_per_tile

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
    volume, cin, cout = _check_conv(x, kernel, bias, n_out, transpose, residual)
    _check_tiles(ptr, rows_in, rows_out, (volume, len(x), n_out))
    dtype = _compute_dtype(x.dtype)
    xs, ws = x.to(dtype), kernel.to(dtype)
    if dtype == torch.bfloat16 and cin % 2:  # dot products take channels in twos
        xs = F.pad(xs, (0, 1))
        ws = F.pad(ws, (0, 1) if transpose else (0, 0, 0, 1))
        cin += 1
    xs, ws = xs.contiguous(), ws.contiguous()
    offset = None if bias is None else bias.float().contiguous()
    added = None if residual is None else residual.to(dtype).contiguous()
    y = torch.empty(n_out, cout, dtype=dtype)
    loaded().lidistill_conv(
        int(dtype == torch.bfloat16),
        pointer(xs, dtype, len(x), cin),
        pointer(ws, dtype, volume, *((cout, cin) if transpose else (cin, cout))),
        pointer(offset, torch.float32, cout),
        pointer(added, dtype, n_out, cout),
        pointer(y, dtype, n_out, cout),
        pointer(ptr, torch.int64, len(ptr)),
        pointer(rows_in, torch.int32, len(rows_in)),
        pointer(rows_out, torch.int32, len(rows_in)),
        len(xs),
        n_out,
        cin,
        cout,
        volume,
        int(mirror),
        int(transpose),
        int(relu),
        torch.get_num_threads(),
    )
    return y.to(x.dtype)


def _check_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    n_out: int,
    transpose: bool,
    residual: Tensor | None,
) -> tuple[int, int, int]:
    """(K, Cin, Cout) of this call, proven against every shape."""
    where = "lidistill::sparse_conv"
    if x.dtype not in _DTYPES:
        raise InvalidInput(f"features are {describe(x)}; expected one of {_DTYPES}", where=where)
    check_tensor("the kernel", kernel, None, (None, None, None), where)
    if 0 in kernel.shape or n_out < 0:
        raise InvalidInput(f"a kernel {list(kernel.shape)} for {n_out} output rows", where=where)
    volume, cin, cout = kernel.shape
    if transpose:
        cin, cout = cout, cin
    check_tensor("x", x, None, (None, cin), where)
    if bias is not None:
        check_tensor("the bias", bias, None, (cout,), where)
    if residual is not None:
        check_tensor("the residual", residual, None, (n_out, cout), where)
    return volume, cin, cout


def _check_tiles(
    ptr: Tensor, rows_in: Tensor, rows_out: Tensor, shape: tuple[int, int, int]
) -> None:
    """Refuse pairs that are not those of tiles of output rows; tiles of a :class:`KernelMap` are known."""
    if PROVEN.has(rows_in, "tiles", ptr, rows_out, *shape):
        return
    where = "lidistill::sparse_conv"
    volume, n_in, n_out = shape
    tile = rows_per_tile()
    groups = -(-n_out // tile) * volume
    pairs = len(rows_in)
    check_tensor("ptr", ptr, torch.int64, (groups + 1,), where)
    check_tensor("rows_in", rows_in, torch.int32, (pairs,), where)
    check_tensor("rows_out", rows_out, torch.int32, (pairs,), where)
    check_ascending("ptr", ptr, pairs, where)
    check_range("rows_in", rows_in, 0, n_in, where)
    check_range("rows_out", rows_out, 0, n_out, where)
    of_pair = torch.repeat_interleave(ptr.diff()).div(volume, rounding_mode="floor")
    if not torch.equal(rows_out.long().div(tile, rounding_mode="floor"), of_pair):
        raise InvalidInput(f"a pair's output row lies outside of its tile of {tile}", where=where)
    PROVEN.add(rows_in, "tiles", ptr, rows_out, *shape)


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
    _check_weight_grad(x, grad, ptr, rows_in, rows_out)
    dtype = _compute_dtype(x.dtype)
    xs, gs = x.to(dtype).contiguous(), grad.to(dtype).contiguous()
    volume, cin, cout = len(ptr) - 1, x.shape[1], grad.shape[1]
    out = torch.empty(volume, cin, cout)
    loaded().lidistill_weight_grad(
        int(dtype == torch.bfloat16),
        pointer(xs, dtype, len(x), cin),
        pointer(gs, dtype, len(grad), cout),
        pointer(out, torch.float32, volume, cin, cout),
        pointer(ptr, torch.int64, volume + 1),
        pointer(rows_in, torch.int32, len(rows_in)),
        pointer(rows_out, torch.int32, len(rows_in)),
        cin,
        cout,
        volume,
        torch.get_num_threads(),
    )
    return out


def _check_weight_grad(
    x: Tensor, grad: Tensor, ptr: Tensor, rows_in: Tensor, rows_out: Tensor
) -> None:
    """Refuse what does not fit together; pairs of a :class:`KernelMap` are known."""
    where = "lidistill::sparse_conv_weight_grad"
    check_tensor("x", x, None, (None, None), where)
    check_tensor("grad", grad, None, (None, None), where)
    if x.dtype not in _DTYPES or 0 in (x.shape[1], grad.shape[1]):
        raise InvalidInput(f"x is {describe(x)}, grad {describe(grad)}", where=where)
    shape = (len(ptr) - 1, len(x), len(grad))
    if PROVEN.has(rows_in, "offsets", ptr, rows_out, *shape):
        return
    check_tensor("ptr", ptr, torch.int64, (None,), where)
    check_tensor("rows_in", rows_in, torch.int32, (None,), where)
    check_tensor("rows_out", rows_out, torch.int32, (len(rows_in),), where)
    check_ascending("ptr", ptr, len(rows_in), where)
    check_range("rows_in", rows_in, 0, len(x), where)
    check_range("rows_out", rows_out, 0, len(grad), where)
    PROVEN.add(rows_in, "offsets", ptr, rows_out, *shape)


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
