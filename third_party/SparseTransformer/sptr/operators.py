"""The unfused operators on explicit pairs, in plain PyTorch: any device, any floating type, differentiable once.

Memory is O(pairs x heads), quadratic in the population of a window: use :func:`sptr.fused_window_attention` to train.
Pairs are worked through in slices, so that nothing of size pairs x heads x channels is stored. The offsets and
``n_max`` of the known signatures are accepted and not needed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sptr.checks import check_pairs
from sptr.pairs import pair_layout
from sptr.windows import WindowIndex, relative_index

__all__ = [
    "attention_step1",
    "attention_step2",
    "attention_step2_with_rel_pos_value",
    "dot_prod_with_idx",
    "dot_prod_with_idx_all",
    "operator_window_attention",
    "scatter_softmax_csr",
]

_SLICE = 2**20  # numbers of a pair tensor [run, h, d] held at a time


def attention_step1(
    q: Tensor,
    k: Tensor,
    index_0: Tensor,
    index_0_offsets: Tensor | None,
    index_1: Tensor,
    index_1_offsets: Tensor | None = None,
    n_max: int | None = None,
) -> Tensor:
    """``a_m = q[index_0_m] . k[index_1_m]`` per head: q, k [N, h, d] -> [M, h]."""
    check_pairs(index_0, index_1, features=(q, k))
    return _Logits.apply(q, k, None, None, None, index_0, index_1, True)


def attention_step2(
    p: Tensor,
    v: Tensor,
    index_0: Tensor,
    index_0_offsets: Tensor | None,
    index_1: Tensor,
    index_1_offsets: Tensor | None = None,
    n_max: int | None = None,
) -> Tensor:
    """``o_i = sum_j p_ij v_j``: p [M, h], v [N, h, d] -> [N, h, d]."""
    check_pairs(index_0, index_1, features=(v,), weights=p)
    return _Values.apply(p, v, None, None, index_0, index_1)


def dot_prod_with_idx(
    q: Tensor,
    k: Tensor,
    table_q: Tensor,
    table_k: Tensor,
    rel_idx: Tensor,
    index_0: Tensor,
    index_0_offsets: Tensor | None,
    index_1: Tensor,
    index_1_offsets: Tensor | None = None,
    n_max: int | None = None,
) -> Tensor:
    """``q_i.sum_a Tq[r_a, a] + k_j.sum_a Tk[r_a, a]``: tables [L, 3, h, d], rel_idx int [M, 3] -> [M, h]."""
    _check_dots(q, k, table_q, table_k, rel_idx, index_0, index_1)
    return _Logits.apply(q, k, table_q, table_k, rel_idx, index_0, index_1, False)


def dot_prod_with_idx_all(
    q: Tensor,
    k: Tensor,
    table_q: Tensor,
    table_k: Tensor,
    rel_idx: Tensor,
    index_0: Tensor,
    index_0_offsets: Tensor | None,
    index_1: Tensor,
    index_1_offsets: Tensor | None = None,
    n_max: int | None = None,
) -> Tensor:
    """:func:`attention_step1` + :func:`dot_prod_with_idx`."""
    _check_dots(q, k, table_q, table_k, rel_idx, index_0, index_1)
    return _Logits.apply(q, k, table_q, table_k, rel_idx, index_0, index_1, True)


def _check_dots(
    q: Tensor,
    k: Tensor,
    table_q: Tensor,
    table_k: Tensor,
    rel_idx: Tensor,
    index_0: Tensor,
    index_1: Tensor,
) -> None:
    check_pairs(index_0, index_1, features=(q, k), rel_idx=rel_idx, tables=(table_q, table_k))


def attention_step2_with_rel_pos_value(
    p: Tensor,
    v: Tensor,
    table_v: Tensor,
    rel_idx: Tensor,
    index_0: Tensor,
    index_0_offsets: Tensor | None,
    index_1: Tensor,
    index_1_offsets: Tensor | None = None,
    n_max: int | None = None,
) -> Tensor:
    """``o_i = sum_j p_ij (v_j + sum_a Tv[r_a, a])``: p [M, h], v [N, h, d] -> [N, h, d]."""
    check_pairs(index_0, index_1, features=(v,), weights=p, rel_idx=rel_idx, tables=(table_v,))
    return _Values.apply(p, v, table_v, rel_idx, index_0, index_1)


def scatter_softmax_csr(logits: Tensor, index_0_offsets: Tensor, dim: int = 0) -> Tensor:
    """Softmax of [M, h] over every run ``index_0_offsets[i]:index_0_offsets[i+1]`` of the first dimension."""
    if dim != 0:
        raise ValueError(f"sptr: the runs lie along dimension 0; got {dim}")
    owner = torch.repeat_interleave(index_0_offsets.long().diff())
    if logits.ndim != 2 or len(owner) != len(logits):
        raise ValueError(
            f"sptr: the runs hold {len(owner)} rows, but the logits are {list(logits.shape)}"
        )
    return _Softmax.apply(logits, owner, len(index_0_offsets) - 1)


def _slices(pairs: int, x: Tensor) -> Iterator[slice]:
    """Runs of pairs whose features [run, h, d] take a few megabytes."""
    length = 1
    if len(x):
        length = max(1, _SLICE // max(1, x[0].numel()))
    for begin in range(0, pairs, length):
        yield slice(begin, begin + length)


def _positional(table: Tensor, rel_idx: Tensor) -> Tensor:
    """``sum_a T[r_a, a]``: [pairs, h, d]."""
    total = table[:, 0].index_select(0, rel_idx[:, 0])
    for axis in (1, 2):
        total = total + table[:, axis].index_select(0, rel_idx[:, axis])
    return total


def _add_rows(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """``target[index[m]] += rows[m]``; both [., h, d] or [., h], target contiguous."""
    flat = rows.reshape(len(rows), -1)
    target.view(len(target), -1).scatter_add_(0, index[:, None].expand_as(flat), flat)


def _add_positional(target: list[Tensor], rel_idx: Tensor, rows: Tensor) -> None:
    """The transpose of :func:`_positional`; ``target`` holds one [L, h, d] per axis."""
    for axis in range(3):
        _add_rows(target[axis], rel_idx[:, axis], rows)


def _table_grads(table: Tensor | None) -> list[Tensor]:
    """Zeros [L, h, d] per axis of a table; none without it."""
    if table is None:
        return []
    return [torch.zeros_like(table[:, 0]).contiguous() for _ in range(3)]


def _stacked(grads: list[Tensor]) -> Tensor | None:
    return torch.stack(grads, 1) if grads else None


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


class _Logits(torch.autograd.Function):
    """``[direct] q_i.k_j + q_i.sum_a Tq[r_a, a] + k_j.sum_a Tk[r_a, a]``."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        table_q: Tensor | None,
        table_k: Tensor | None,
        rel: Tensor | None,
        index_0: Tensor,
        index_1: Tensor,
        direct: bool,
    ) -> Tensor:
        index_0, index_1 = index_0.long(), index_1.long()
        rel = None if rel is None else rel.long()
        ctx.save_for_backward(q, k, table_q, table_k, rel, index_0, index_1)
        ctx.direct = direct
        out = q.new_empty(len(index_0), q.shape[1])
        for s in _slices(len(index_0), q):
            query = q.index_select(0, index_0[s])
            key = k.index_select(0, index_1[s])
            total = query * key if direct else torch.zeros_like(query)
            if rel is not None and table_q is not None and table_k is not None:
                total.addcmul_(query, _positional(table_q, rel[s]))
                total.addcmul_(key, _positional(table_k, rel[s]))
            out[s] = total.sum(-1)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, table_q, table_k, rel, index_0, index_1 = ctx.saved_tensors
        grad_q, grad_k = _zeros(q), _zeros(k)
        grad_tq, grad_tk = _table_grads(table_q), _table_grads(table_k)
        for s in _slices(len(index_0), q):
            g = grad[s, :, None]
            query = q.index_select(0, index_0[s])
            key = k.index_select(0, index_1[s])
            to_query, to_key = key, query
            if rel is not None:
                to_query = _positional(table_q, rel[s])
                to_key = _positional(table_k, rel[s])
                if ctx.direct:
                    to_query = key + to_query
                    to_key = query + to_key
                _add_positional(grad_tq, rel[s], g * query)
                _add_positional(grad_tk, rel[s], g * key)
            _add_rows(grad_q, index_0[s], g * to_query)
            _add_rows(grad_k, index_1[s], g * to_key)
        return grad_q, grad_k, _stacked(grad_tq), _stacked(grad_tk), None, None, None, None


class _Values(torch.autograd.Function):
    """``sum_j p_ij (v_j + sum_a Tv[r_a, a])``."""

    @staticmethod
    def forward(
        ctx: Any,
        p: Tensor,
        v: Tensor,
        table: Tensor | None,
        rel: Tensor | None,
        index_0: Tensor,
        index_1: Tensor,
    ) -> Tensor:
        index_0, index_1 = index_0.long(), index_1.long()
        rel = None if rel is None else rel.long()
        ctx.save_for_backward(p, v, table, rel, index_0, index_1)
        out = _zeros(v)
        for s in _slices(len(index_0), v):
            weighted = p[s, :, None] * _pair_values(v, table, rel, index_1, s)
            _add_rows(out, index_0[s], weighted)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, v, table, rel, index_0, index_1 = ctx.saved_tensors
        grad_p = torch.empty_like(p)
        grad_v = _zeros(v)
        grad_table = _table_grads(table)
        for s in _slices(len(index_0), v):
            g = grad.index_select(0, index_0[s])
            grad_p[s] = (g * _pair_values(v, table, rel, index_1, s)).sum(-1)
            spread = p[s, :, None] * g
            _add_rows(grad_v, index_1[s], spread)
            if table is not None:
                _add_positional(grad_table, rel[s], spread)
        return grad_p, grad_v, _stacked(grad_table), None, None, None


def _pair_values(
    v: Tensor, table: Tensor | None, rel: Tensor | None, index_1: Tensor, s: slice
) -> Tensor:
    """``v_j + sum_a Tv[r_a, a]`` of the pairs ``s``: [run, h, d]."""
    values = v.index_select(0, index_1[s])
    if table is None or rel is None:
        return values
    return values + _positional(table, rel[s])


class _Softmax(torch.autograd.Function):
    """Softmax over the rows of each owner, [M, h]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, owner: Tensor, owners: int) -> Tensor:
        top = logits.new_full((owners, logits.shape[1]), -torch.inf)
        top.scatter_reduce_(0, owner[:, None].expand_as(logits), logits, "amax")
        weights = (logits - top.index_select(0, owner)).exp_()
        total = torch.zeros_like(top)
        _add_rows(total, owner, weights)
        weights.div_(total.index_select(0, owner))
        ctx.save_for_backward(weights, owner)
        ctx.owners = owners
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, owner = ctx.saved_tensors
        product = grad * weights
        total = product.new_zeros(ctx.owners, product.shape[1])
        _add_rows(total, owner, product)
        return product.addcmul_(weights, total.index_select(0, owner), value=-1), None, None


def operator_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: WindowIndex,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
) -> Tensor:
    """:func:`sptr.fused_window_attention` through the unfused operators; memory O(pairs)."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(dtype).index_select(0, index.order) for x in (query, key, value))
    table_q, table_k, table_v = (_cast(t, dtype) for t in (query_table, key_table, value_table))
    index_0, offsets_0, n_max, index_1, offsets_1 = pair_layout(index.ptr.diff())
    pairs = (index_0, offsets_0, index_1, offsets_1, n_max)
    positions = index.positions.index_select(0, index.order)
    rel = relative_index(
        positions.index_select(0, index_0),
        positions.index_select(0, index_1),
        index.kind,
        index.levels,
    )
    if table_q is None and table_k is None:
        logits = attention_step1(q, k, *pairs)
    else:
        absent = q.new_zeros(index.table_length, 3, *q.shape[1:])
        table_q = absent if table_q is None else table_q
        table_k = absent if table_k is None else table_k
        logits = dot_prod_with_idx_all(q, k, table_q, table_k, rel, *pairs)
    weights = scatter_softmax_csr(logits, offsets_0)
    if table_v is None:
        out = attention_step2(weights, v, *pairs)
    else:
        out = attention_step2_with_rel_pos_value(weights, v, table_v, rel, *pairs)
    place = torch.empty_like(index.order)
    place[index.order] = torch.arange(len(place), device=place.device)
    return out.index_select(0, place).to(query.dtype)


def _cast(table: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if table is None else table.to(dtype)
