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

from core.sparse.checks import InvalidInput, check_range, check_tensor, describe
from core.sparse.device_maps import GROUP
from core.sparse.library import array, has_cuda_kernels, launch
from core.sparse.maps import PROVEN, KernelMap

__all__ = ["convolve", "convolve_fused", "serves"]

_CODES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}
_TF32 = 1
_WHERE = "sparse convolution (GPU)"
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
        raise InvalidInput(f"{len(x)} rows of features for a map of {kmap.n_in}", where=_WHERE)
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
    volume, cin, cout = _check_conv(x, kernel, bias, rows, table, residual)
    n_in, n_out = len(x), len(rows)
    _check_row_tiles(rows, table, present, (volume, n_in, n_out))
    xs, kernel = _aligned(x), kernel.to(x.dtype)
    wide = xs.shape[1]
    if wide > cin:
        kernel = F.pad(kernel, (0, 0, 0, wide - cin))
    ws = _aligned(kernel)
    pitch = ws.shape[2]
    offset = None if bias is None else array(bias.float().contiguous(), torch.float32, cout)
    y = x.new_empty(n_out, cout)
    added = (
        None if residual is None else array(residual.to(x.dtype).contiguous(), x.dtype, n_out, cout)
    )
    launch(
        "lidistill_cuda_conv",
        x.device,
        _code(x.dtype),
        array(xs, x.dtype, n_in, wide),
        array(ws, x.dtype, volume, wide, pitch),
        offset,
        added,
        y,
        array(rows, torch.int32, n_out),
        array(table, torch.int32, volume, n_out),
        array(present, torch.uint8, volume, -(-n_out // GROUP)),
        n_out,
        wide,
        pitch,
        cout,
        volume,
        int(relu),
    )
    return y


def _check_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    table: Tensor,
    residual: Tensor | None,
) -> tuple[int, int, int]:
    """(K, Cin, Cout) of this call, proven against every shape."""
    check_tensor("the kernel", kernel, None, (None, None, None), _WHERE)
    volume, cin, cout = kernel.shape
    if x.dim() != 2 or x.shape[1] != cin or len(table) != volume or 0 in kernel.shape:
        raise InvalidInput(
            f"kernel {tuple(kernel.shape)} for {x.shape[-1]} channels and {len(table)} offsets",
            where=_WHERE,
        )
    if x.dtype not in _CODES:
        raise InvalidInput(f"x is {describe(x)}; expected one of {list(_CODES)}", where=_WHERE)
    if bias is not None:
        check_tensor("the bias", bias, None, (cout,), _WHERE)
    if residual is not None and residual.shape != (len(rows), cout):
        raise InvalidInput(
            f"cannot add {tuple(residual.shape)} to {(len(rows), cout)}", where=_WHERE
        )
    return volume, cin, cout


def _check_row_tiles(
    rows: Tensor, table: Tensor, present: Tensor, shape: tuple[int, int, int]
) -> None:
    """Refuse what are no ``RowTiles``; those of a :class:`KernelMap` are known, others make the host wait once."""
    if PROVEN.has(table, "row tiles", rows, present, *shape):
        return
    volume, n_in, n_out = shape
    check_tensor("rows", rows, torch.int32, (n_out,), _WHERE)
    check_tensor("table", table, torch.int32, (volume, n_out), _WHERE)
    check_tensor("present", present, torch.uint8, (volume, -(-n_out // GROUP)), _WHERE)
    check_range("table", table, -1, n_in, _WHERE)
    if not torch.equal(rows.sort()[0], torch.arange(n_out, dtype=torch.int32, device=rows.device)):
        raise InvalidInput(f"rows do not name each of {n_out} output rows once", where=_WHERE)
    PROVEN.add(table, "row tiles", rows, present, *shape)


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
    check_tensor("rows_in", rows_in, torch.int32, (None, None), _WHERE)
    check_tensor("x", x, None, (None, None), _WHERE)
    check_tensor("grad", grad, None, (None, None), _WHERE)
    volume, longest = rows_in.shape
    cin, cout = x.shape[1], grad.shape[1]
    if x.dtype not in _CODES or 0 in (volume, cin, cout):
        raise InvalidInput(f"x is {describe(x)}, grad {describe(grad)}", where=_WHERE)
    _check_packed_pairs(rows_in, rows_out, count, (volume, len(x), len(grad)))
    xs, gs = _aligned(x), _aligned(grad.to(x.dtype))
    tiles_in, tiles_out = -(-cin // _TILE), -(-cout // _TILE)
    splits, chunk = _split(longest, volume * tiles_in * tiles_out)
    partial = x.new_empty(splits, volume, cin, cout, dtype=torch.float32)
    out = torch.empty_like(partial[0])
    launch(
        "lidistill_cuda_weight_grad",
        x.device,
        _code(x.dtype),
        array(xs, x.dtype, len(x), xs.shape[1]),
        array(gs, x.dtype, len(grad), gs.shape[1]),
        partial,
        out,
        array(rows_in, torch.int32, volume, longest),
        array(rows_out, torch.int32, volume, longest),
        array(count, torch.int32, volume),
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


def _check_packed_pairs(
    rows_in: Tensor, rows_out: Tensor, count: Tensor, shape: tuple[int, int, int]
) -> None:
    """Refuse what are no ``PackedPairs``; those of a :class:`KernelMap` are known, others make the host wait once."""
    if PROVEN.has(rows_in, "packed pairs", rows_out, count, *shape):
        return
    volume, n_in, n_out = shape
    longest = rows_in.shape[1]
    check_tensor("rows_out", rows_out, torch.int32, (volume, longest), _WHERE)
    check_tensor("count", count, torch.int32, (volume,), _WHERE)
    check_range("count", count, 0, longest + 1, _WHERE)
    front = (
        torch.arange(longest, device=count.device) < count[:, None]
    )  # what lies behind is not read
    check_range("rows_in", rows_in[front], 0, n_in, _WHERE)
    check_range("rows_out", rows_out[front], 0, n_out, _WHERE)
    PROVEN.add(rows_in, "packed pairs", rows_out, count, *shape)


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
