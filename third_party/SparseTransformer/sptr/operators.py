"""The unfused operators on explicit pairs, in plain PyTorch: any device, any floating type, differentiable.

Memory is O(pairs), quadratic in the population of a window: use :func:`sptr.fused_window_attention` to train. The
offsets and ``n_max`` of the known signatures are accepted and not needed here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sptr.pairs import pair_layout
from sptr.windows import WindowIndex, relative_index

__all__ = [
    "attention_step1", "attention_step2", "attention_step2_with_rel_pos_value", "dot_prod_with_idx",
    "dot_prod_with_idx_all", "operator_window_attention", "scatter_softmax_csr",
]  # fmt: skip


def attention_step1(
    q: Tensor, k: Tensor, index_0: Tensor, index_0_offsets: Tensor | None, index_1: Tensor,
    index_1_offsets: Tensor | None = None, n_max: int | None = None,
) -> Tensor:  # fmt: skip
    """``a_m = q[index_0_m] . k[index_1_m]`` per head: q, k [N, h, d] -> [M, h]."""
    return (q.index_select(0, index_0.long()) * k.index_select(0, index_1.long())).sum(-1)


def attention_step2(
    p: Tensor, v: Tensor, index_0: Tensor, index_0_offsets: Tensor | None, index_1: Tensor,
    index_1_offsets: Tensor | None = None, n_max: int | None = None,
) -> Tensor:  # fmt: skip
    """``o_i = sum_j p_ij v_j``: p [M, h], v [N, h, d] -> [N, h, d]."""
    return _sum_by_query(p[..., None] * v.index_select(0, index_1.long()), index_0, len(v))


def dot_prod_with_idx(
    q: Tensor, k: Tensor, table_q: Tensor, table_k: Tensor, rel_idx: Tensor, index_0: Tensor,
    index_0_offsets: Tensor | None, index_1: Tensor, index_1_offsets: Tensor | None = None, n_max: int | None = None,
) -> Tensor:  # fmt: skip
    """``q_i.sum_a Tq[r_a, a] + k_j.sum_a Tk[r_a, a]``: tables [L, 3, h, d], rel_idx int [M, 3] -> [M, h]."""
    query, key = q.index_select(0, index_0.long()), k.index_select(0, index_1.long())
    return (query * _positional(table_q, rel_idx) + key * _positional(table_k, rel_idx)).sum(-1)


def dot_prod_with_idx_all(
    q: Tensor, k: Tensor, table_q: Tensor, table_k: Tensor, rel_idx: Tensor, index_0: Tensor,
    index_0_offsets: Tensor | None, index_1: Tensor, index_1_offsets: Tensor | None = None, n_max: int | None = None,
) -> Tensor:  # fmt: skip
    """:func:`attention_step1` + :func:`dot_prod_with_idx`."""
    query, key = q.index_select(0, index_0.long()), k.index_select(0, index_1.long())
    return (query * (key + _positional(table_q, rel_idx)) + key * _positional(table_k, rel_idx)).sum(-1)


def attention_step2_with_rel_pos_value(
    p: Tensor, v: Tensor, table_v: Tensor, rel_idx: Tensor, index_0: Tensor, index_0_offsets: Tensor | None,
    index_1: Tensor, index_1_offsets: Tensor | None = None, n_max: int | None = None,
) -> Tensor:  # fmt: skip
    """``o_i = sum_j p_ij (v_j + sum_a Tv[r_a, a])``: p [M, h], v [N, h, d] -> [N, h, d]."""
    values = v.index_select(0, index_1.long()) + _positional(table_v, rel_idx)
    return _sum_by_query(p[..., None] * values, index_0, len(v))


def scatter_softmax_csr(logits: Tensor, index_0_offsets: Tensor, dim: int = 0) -> Tensor:
    """Softmax of [M, h] over every run ``index_0_offsets[i]:index_0_offsets[i+1]`` of the first dimension."""
    if dim != 0:
        raise ValueError(f"sptr: the runs lie along dimension 0; got {dim}")
    queries = len(index_0_offsets) - 1
    owner = torch.repeat_interleave(index_0_offsets.long().diff())
    spread = owner[:, None].expand_as(logits)
    top = logits.new_full((queries, logits.shape[1]), -torch.inf).scatter_reduce(0, spread, logits.detach(), "amax")
    weights = (logits - top.index_select(0, owner)).exp()
    return weights / _sum_by_query(weights, owner, queries).index_select(0, owner)


def _positional(table: Tensor, rel_idx: Tensor) -> Tensor:
    """``sum_a T[r_a, a]``: [M, h, d]."""
    return sum(table[:, axis].index_select(0, rel_idx[:, axis].long()) for axis in range(3))


def _sum_by_query(x: Tensor, index_0: Tensor, n: int) -> Tensor:
    spread = index_0.long().reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return x.new_zeros(n, *x.shape[1:]).scatter_add(0, spread, x)


def operator_window_attention(
    query: Tensor, key: Tensor, value: Tensor, index: WindowIndex, query_table: Tensor | None = None,
    key_table: Tensor | None = None, value_table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """:func:`sptr.fused_window_attention` through the unfused operators; memory O(pairs)."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(dtype).index_select(0, index.order) for x in (query, key, value))
    tables = [table if table is None else table.to(dtype) for table in (query_table, key_table, value_table)]
    absent = q.new_zeros(index.table_length, 3, *q.shape[1:])
    table_q, table_k = (absent if table is None else table for table in tables[:2])
    index_0, offsets_0, n_max, index_1, offsets_1 = pair_layout(index.ptr.diff())
    positions = index.positions.index_select(0, index.order)
    rel = relative_index(
        positions.index_select(0, index_0), positions.index_select(0, index_1), index.kind, index.levels
    )
    pairs = (index_0, offsets_0, index_1, offsets_1, n_max)
    if tables[0] is None and tables[1] is None:
        logits = attention_step1(q, k, *pairs)
    else:
        logits = dot_prod_with_idx_all(q, k, table_q, table_k, rel, *pairs)
    weights = scatter_softmax_csr(logits, offsets_0)
    if tables[2] is None:
        out = attention_step2(weights, v, *pairs)
    else:
        out = attention_step2_with_rel_pos_value(weights, v, tables[2], rel, *pairs)
    place = torch.empty_like(index.order)
    place[index.order] = torch.arange(len(place), device=place.device)
    return out.index_select(0, place).to(query.dtype)
