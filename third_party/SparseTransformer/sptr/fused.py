"""One operator for a whole branch of window attention; the query-key pairs are never stored.

On the CPU, fp32, bf16 and fp16 run on compiled kernels (fp32 arithmetic, no copies in fp32): memory is O(tokens),
results do not depend on the number of threads. On CUDA devices ``sptr.cuda`` serves the same operators. Other devices
and float64 run on the unfused operators. A kernel for another device registers itself for ``sptr::window_attention``
and ``sptr::window_attention_backward`` and is taken up by ``_is_native``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sptr import cuda
from sptr.checks import (
    check_features,
    check_gradient,
    check_inputs,
    check_one_device,
    check_table,
    check_values,
)
from sptr.inputs import GradientTypes, Inputs, InputTypes, c_arrays, padded_tables
from sptr.library import AttentionArgs, library, pointer
from sptr.operators import operator_window_attention
from sptr.windows import WindowIndex

__all__ = ["fused_window_attention"]

_Tables: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # numbered as Storage in csrc/attention.h
_PAD = 16  # the kernels read table rows in whole vectors
_SLICE = 2**20  # numbers of a half-precision tensor held in fp32 at a time
# Not torch.library.custom_op: its wrapper imports torch._dynamo at the first call, seconds in every process.
_OPERATORS = torch.library.Library("sptr", "DEF")
_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor table_q, Tensor table_k, Tensor table_v, Tensor order, Tensor ptr, "
    "Tensor positions, int levels, bool radial"
)
_OPERATORS.define(f"window_attention({_INPUTS}) -> (Tensor, Tensor)")
_OPERATORS.define(
    f"window_attention_backward({_INPUTS}, Tensor lse, Tensor delta, Tensor grad) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_OPERATORS.define("row_dots(Tensor a, Tensor b) -> Tensor")


def fused_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: WindowIndex,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
) -> Tensor:
    """Softmax attention of every token over its window, with contextual relative position.

    With r the relative index of a pair (:func:`sptr.windows.relative_index`) and a the axis,
    ``logit_ij = q_i.k_j + sum_a q_i.Tq[r_a, a] + sum_a k_j.Tk[r_a, a]`` and
    ``out_i = sum_j softmax_j(logit_ij) (v_j + sum_a Tv[r_a, a])`` (SphereFormer, Lai et al., CVPR 2023, section 3.2).
    The query is expected to carry the scale d^-0.5 already.

    Args:
        query, key, value: [N, h, d] of one floating type, any h, d <= 64.
        index: windows and positions of the N tokens.
        query_table, key_table, value_table: [L, 3, h, d] with L >= ``index.table_length``, any floating type, or None.

    Returns:
        [N, h, d] in the type of ``query``. Gradients flow to the features and the tables.

    Raises:
        ValueError: shapes, types or devices do not fit together.
    """
    tables = (query_table, key_table, value_table)
    _check(query, key, value, index, tables)
    radial, levels, length = index.kind == "radial", index.levels, index.table_length
    if not _is_native(query, length, levels, radial):
        return operator_window_attention(query, key, value, index, *tables)
    positions = index.positions
    if all(table is None for table in tables):
        radial, levels, length = False, 1, 1
        positions = torch.zeros_like(positions)
    out, _ = torch.ops.sptr.window_attention(
        query,
        key,
        value,
        *_present(tables, query, length),
        index.order,
        index.ptr,
        positions,
        levels,
        radial,
    )
    return out


def _present(tables: _Tables, query: Tensor, length: int) -> list[Tensor]:
    """The first ``length`` rows of each table, [length, 3, h, d]; zeros, held once, for those that are absent."""
    zeros: Tensor | None = None
    present = []
    for table in tables:
        if table is not None:
            present.append(table[:length])
            continue
        if zeros is None:
            zeros = query.new_zeros(length, 3, *query.shape[1:])
        present.append(zeros)
    return present


def _is_native(query: Tensor, length: int, levels: int, radial: bool) -> bool:
    if query.device.type == "cuda":
        return cuda.serves(query, length, levels, radial)
    if query.device.type != "cpu" or query.dtype not in _DTYPES:
        return False
    if torch.compiler.is_compiling():  # no library can be loaded while tracing
        return True
    return library() is not None


def _check(q: Tensor, k: Tensor, v: Tensor, index: WindowIndex, tables: _Tables) -> None:
    check_features(q, k, v)
    if len(index.order) != len(q):
        raise ValueError(
            f"sptr: the index describes {len(index.order)} tokens (kind {index.kind!r}), the query {len(q)}"
        )
    for name, table in zip(("query_table", "key_table", "value_table"), tables):
        if table is not None:
            check_table(name, table, q, index.table_length)
    check_one_device(q, k, v, index.order, index.ptr, index.positions, *tables)


class _Arguments:
    """The C structure, and the contiguous tensors it points into: features as they are, the rest in fp32 or int64."""

    def __init__(self, inputs: Inputs) -> None:
        q, order, ptr, positions = inputs.q, inputs.order, inputs.ptr, inputs.positions
        check_inputs(inputs)
        check_values(order, ptr, positions, inputs.levels, inputs.radial)
        padded = -(-inputs.dim // _PAD) * _PAD
        tensors = padded_tables(inputs, padded)
        tensors |= {"q": q, "k": inputs.k, "v": inputs.v}
        tensors |= {"order": order.long(), "ptr": ptr.long(), "positions": positions.float()}
        self.arrays = c_arrays(inputs, padded)
        self.kept: dict[str, Tensor] = {}
        self.struct = AttentionArgs(
            windows=len(ptr) - 1,
            heads=inputs.heads,
            dim=inputs.dim,
            padded=padded,
            length=inputs.length,
            levels=inputs.levels,
            radial=int(inputs.radial),
            threads=torch.get_num_threads(),
            storage=_DTYPES.index(q.dtype),
        )
        self.point({name: tensor.contiguous() for name, tensor in tensors.items()})

    def point(self, tensors: Mapping[str, Tensor]) -> None:
        """Point at contiguous tensors: features and their gradients in the type of q, others fp32 or int64."""
        for name, tensor in tensors.items():
            self.kept[name] = tensor
            setattr(self.struct, name, pointer(name, tensor, *self.arrays[name]))


def _kernels() -> ctypes.CDLL:
    handle = library()
    if handle is None:  # only a compiled graph gets here
        raise RuntimeError(
            "sptr: a compiled graph needs the CPU kernels; run `python -m sptr.build`"
        )
    return handle


@torch.library.impl(_OPERATORS, "window_attention", "CPU")
def _forward(*values: *InputTypes) -> tuple[Tensor, Tensor]:
    """(out [N, h, d], log of the softmax denominators fp32 [N, h])."""
    inputs = Inputs(*values)
    arguments = _Arguments(inputs)
    out = torch.empty(inputs.q.shape, dtype=inputs.q.dtype)
    lse = torch.empty(inputs.q.shape[:2])
    arguments.point({"out": out, "lse": lse})
    _kernels().sptr_forward(ctypes.byref(arguments.struct))
    return out, lse


@torch.library.register_fake("sptr::window_attention", lib=_OPERATORS)
def _fake_forward(*values: *InputTypes) -> tuple[Tensor, Tensor]:
    q = Inputs(*values).q
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.impl(_OPERATORS, "window_attention_backward", "CPU")
def _backward(*values: *GradientTypes) -> tuple[Tensor, ...]:
    """Gradients of q, k, v and the three tables, each in the type of its tensor."""
    inputs, (lse, delta, grad) = Inputs(*values[:11]), values[11:]
    check_gradient(inputs, lse, delta, grad)
    arguments = _Arguments(inputs)
    heads, dim, dtype = inputs.heads, inputs.dim, inputs.q.dtype
    shape = (heads, 3, inputs.length, arguments.struct.padded)
    features = [torch.empty(inputs.q.shape, dtype=dtype) for _ in range(3)]
    tables = [torch.zeros(shape) for _ in range(3)]
    rows = {"lse": lse.float().contiguous(), "delta": delta.float().contiguous()}
    arguments.point(rows | {"grad_out": grad.to(dtype).contiguous()})
    arguments.point(dict(zip(("grad_q", "grad_k", "grad_v"), features)))
    arguments.point(dict(zip(("grad_table_q", "grad_table_k", "grad_table_v"), tables)))
    _kernels().sptr_backward(ctypes.byref(arguments.struct))
    for table, like in zip(tables, (inputs.table_q, inputs.table_k, inputs.table_v)):
        as_given = table[..., :dim].permute(2, 1, 0, 3).contiguous()
        features.append(as_given.to(like.dtype))
    return tuple(features)


@torch.library.register_fake("sptr::window_attention_backward", lib=_OPERATORS)
def _fake_backward(*values: *GradientTypes) -> tuple[Tensor, ...]:
    differentiable = values[:6]  # q, k, v and the tables
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in differentiable)


@torch.library.impl(_OPERATORS, "row_dots", "CompositeExplicitAutograd")
def _row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products over the last dimension in fp32, [N, h, d] twice -> [N, h]; on the CPU without fp32 copies."""
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(
            f"sptr: row_dots takes two tensors [N, h, d]; got {list(a.shape)}, {list(b.shape)}"
        )
    if a.device.type != "cpu":
        return (a.float() * b.float()).sum(-1)
    out = torch.empty(a.shape[:2], dtype=torch.float32)
    step = max(1, _SLICE // max(1, a.shape[1] * a.shape[2]))
    for first in range(0, len(a), step):
        rows = slice(first, first + step)
        torch.sum(a[rows].float() * b[rows].float(), -1, out=out[rows])
    return out


@torch.library.register_fake("sptr::row_dots", lib=_OPERATORS)
def _fake_row_dots(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[:2], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.levels, ctx.radial = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    *tensors, out, lse = ctx.saved_tensors
    delta = torch.ops.sptr.row_dots(grad, out)
    grads = torch.ops.sptr.window_attention_backward(
        *tensors, ctx.levels, ctx.radial, lse, delta, grad
    )
    wanted = [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad)]
    return (*wanted, *[None] * 5)


def _refuse(ctx: Any, *grads: Tensor | None) -> None:
    raise RuntimeError("sptr: window attention can be differentiated once only")


torch.library.register_autograd(
    "sptr::window_attention", _differentiate, setup_context=_keep, lib=_OPERATORS
)
torch.library.register_autograd("sptr::window_attention_backward", _refuse, lib=_OPERATORS)
torch.library.register_autograd("sptr::row_dots", _refuse, lib=_OPERATORS)
