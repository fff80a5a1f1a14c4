"""The compiled GPU kernels (``csrc/cuda/``): output-stationary implicit GEMM on tensor cores.

fp16 and bf16 are multiplied as they are and added in fp32; fp32 is exact unless PyTorch's own switch allows TF32
(``torch.backends.cuda.matmul.fp32_precision``). No atomic additions: results are the same bits in every run. Nothing
here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.sparse.library import has_cuda_kernels, launch
from core.sparse.maps import KernelMap

__all__ = ["convolve", "convolve_fused", "serves"]

_CODES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}
_TF32 = 1
_TILE = 64  # channels per block of the weights' gradient, as in csrc/cuda/weight_grad.cuh
_BLOCKS = 2048  # that many blocks fill every GPU of today a few times over
_OPERATORS = torch.library.Library("lidistill", "FRAGMENT")
_OPERATORS.define(
    "table_conv(Tensor x, Tensor kernel, Tensor? bias, Tensor rows, Tensor table, Tensor present, "
    "Tensor? residual=None, bool relu=False) -> Tensor"
)
_OPERATORS.define(
    "table_conv_weight_grad(Tensor x, Tensor grad, Tensor rows_in, Tensor rows_out, Tensor count) -> Tensor"
)


def serves(x: Tensor) -> bool:
    """Tell whether these kernels can convolve ``x`` (they are loaded at the first CUDA tensor)."""
    return x.dtype in _CODES and has_cuda_kernels(x.device)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap) -> Tensor:
    """See :func:`core.sparse.backends.convolve`."""
    return _Convolution.apply(x, kernel, bias, kmap)


def convolve_fused(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    kmap: KernelMap,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """Convolve, add ``residual`` and rectify on the way to memory; without gradient."""
    return _forward(x, kernel, bias, kmap, residual, relu)


def _forward(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    kmap: KernelMap,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if len(x) != kmap.n_in:
        raise ValueError(f"{len(x)} rows of features for a map of {kmap.n_in}")
    t = kmap.row_tiles
    return torch.ops.lidistill.table_conv(
        x, kernel, bias, t.rows, t.table, t.present, residual, relu
    )


def _code(dtype: torch.dtype) -> int:
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return _TF32
    return _CODES[dtype]


def _aligned(x: Tensor) -> Tensor:
    """``x`` with its last axis filled up with zeros to whole vectors of 16 bytes, contiguous, at such an address."""
    missing = -x.shape[-1] % (16 // x.element_size())
    x = F.pad(x, (0, missing)) if missing else x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


@torch.library.impl(_OPERATORS, "table_conv", "CUDA")
def _table_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    table: Tensor,
    present: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """``y[rows[i]] = bias + sum_k x[table[k, i]] @ kernel[k]``, [n_out, Cout]; the fields of ``RowTiles``."""
    volume, cin, cout = kernel.shape
    if x.shape[1] != cin or len(table) != volume:
        raise ValueError(
            f"kernel {tuple(kernel.shape)} for {x.shape[1]} channels and {len(table)} offsets"
        )
    xs, kernel = _aligned(x), kernel.to(x.dtype)
    if xs.shape[1] > cin:
        kernel = F.pad(kernel, (0, 0, 0, xs.shape[1] - cin))
    ws = _aligned(kernel)
    offset = None if bias is None else bias.float().contiguous()
    y = x.new_empty(len(rows), cout)
    added = None if residual is None else residual.to(x.dtype).contiguous()
    if added is not None and added.shape != y.shape:
        raise ValueError(f"cannot add {tuple(added.shape)} to {tuple(y.shape)}")
    launch(
        "lidistill_cuda_conv",
        x.device,
        _code(x.dtype),
        xs,
        ws,
        offset,
        added,
        y,
        rows,
        table,
        present,
        len(rows),
        xs.shape[1],
        ws.shape[2],
        cout,
        volume,
        int(relu),
    )
    return y


@torch.library.register_fake("lidistill::table_conv", lib=_OPERATORS)
def _fake_table_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    table: Tensor,
    present: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    return x.new_empty(rows.shape[0], kernel.shape[2])


@torch.library.impl(_OPERATORS, "table_conv_weight_grad", "CUDA")
def _table_conv_weight_grad(
    x: Tensor, grad: Tensor, rows_in: Tensor, rows_out: Tensor, count: Tensor
) -> Tensor:
    """``out[k] = sum over pairs of offset k of outer(x[in], grad[out])``, fp32 [K, Cin, Cout]; see ``PackedPairs``."""
    volume, longest = rows_in.shape
    cin, cout = x.shape[1], grad.shape[1]
    xs, gs = _aligned(x), _aligned(grad.to(x.dtype))
    tiles_in, tiles_out = -(-cin // _TILE), -(-cout // _TILE)
    splits, chunk = _split(longest, volume * tiles_in * tiles_out)
    partial = x.new_empty(splits, volume, cin, cout, dtype=torch.float32)
    out = torch.empty_like(partial[0])
    launch(
        "lidistill_cuda_weight_grad",
        x.device,
        _code(x.dtype),
        xs,
        gs,
        partial,
        out,
        rows_in,
        rows_out,
        count,
        longest,
        chunk,
        splits,
        xs.shape[1],
        gs.shape[1],
        cin,
        cout,
        volume,
    )
    return out


@torch.library.register_fake("lidistill::table_conv_weight_grad", lib=_OPERATORS)
def _fake_table_conv_weight_grad(
    x: Tensor, grad: Tensor, rows_in: Tensor, rows_out: Tensor, count: Tensor
) -> Tensor:
    return x.new_empty(rows_in.shape[0], x.shape[1], grad.shape[1], dtype=torch.float32)


def _split(pairs: int, tiles: int) -> tuple[int, int]:
    """(chunks per offset, pairs per chunk), from sizes alone, so that sums are made alike in every run."""
    wanted = 1
    if pairs:
        wanted = min(max(1, _BLOCKS // tiles), -(-pairs // 512))
    chunk = max(32, -(-pairs // wanted // 32) * 32)
    chunks = max(1, -(-pairs // chunk))
    return chunks, chunk


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, kmap: KernelMap
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.kmap = kmap
        return _forward(x, kernel, bias, kmap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        kmap: KernelMap = ctx.kmap
        grad_x = grad_kernel = grad_bias = None
        if ctx.needs_input_grad[0]:
            # A convolution with each kernel[k].T; of a symmetric map over the same table.
            t = kmap.row_tiles if kmap.symmetric else kmap.transposed.row_tiles
            mirrored = kernel.flip(0) if kmap.symmetric else kernel
            turned = mirrored.transpose(1, 2).contiguous()
            grad_x = torch.ops.lidistill.table_conv(grad, turned, None, t.rows, t.table, t.present)
        if ctx.needs_input_grad[1]:
            p = kmap.packed_pairs
            grad_kernel = torch.ops.lidistill.table_conv_weight_grad(
                x, grad, p.rows_in, p.rows_out, p.count
            )
            grad_kernel = grad_kernel.to(kernel.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.float().sum(0).to(grad.dtype)
        return grad_x, grad_kernel, grad_bias, None
