"""Sparse tensors of tokens and a generic multi-head window attention on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sptr.fused import fused_window_attention
from sptr.operators import operator_window_attention
from sptr.pairs import to_3d_numpy
from sptr.position import PositionEmbeddingCoordsSine
from sptr.windows import WindowIndex, window_index

__all__ = ["SparseTrTensor", "VarLengthMultiheadSA", "sparse_self_attention"]

_PE_TYPES = ("none", "contextual", "sine", "fourier")


@dataclass
class SparseTrTensor:
    """Tokens of a batch.

    Attributes:
        query_feats: [N, C].
        query_indices: [N, 4], sample index first, then x, y, z.
        spatial_shape, batch_size: kept for the caller.
        key_feats, value_feats: [N, C]; default to the query's.
        indice_dict: window indices by key, shared by the tensors derived from this one.
    """

    query_feats: Tensor
    query_indices: Tensor
    spatial_shape: Any = None
    batch_size: int | None = None
    key_feats: Tensor | None = None
    value_feats: Tensor | None = None
    indice_dict: dict[Any, WindowIndex] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.query_indices.shape != (len(self.query_feats), 4):
            raise ValueError(
                f"sptr: query_indices must be [{len(self.query_feats)}, 4] (batch, x, y, z); "
                f"got {list(self.query_indices.shape)}"
            )

    def replace_feature(self, features: Tensor) -> SparseTrTensor:
        """Give the same tokens other features [N, C']; window indices stay shared."""
        return replace(self, query_feats=features, key_feats=None, value_feats=None)

    def find_indice_params(self, key: Any) -> WindowIndex | None:
        """Look up the window index stored under ``key``."""
        return self.indice_dict.get(key)


def sparse_self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    xyz: Tensor,
    index: WindowIndex,
    pe_type: str = "none",
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
    *,
    fused: bool = True,
    position: nn.Module | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """Attention of every token over its window.

    Args:
        query, key, value: [N, h, d]; the query carries the scale.
        xyz: [N, 3], used by ``sine`` and ``fourier``.
        index: windows, from :func:`sptr.window_index`.
        pe_type: ``none``; ``contextual`` (the tables given); ``sine`` or ``fourier`` (``position`` embeds ``xyz`` into
            h*d channels, added to query and key).
        fused: False runs the unfused operators.
        position, batch: embedding module and sample index [N], for ``sine`` and ``fourier``.

    Returns:
        [N, h, d].
    """
    if pe_type not in _PE_TYPES:
        raise ValueError(f"sptr: pe_type must be one of {_PE_TYPES}; got {pe_type!r}")
    attention = fused_window_attention if fused else operator_window_attention
    if pe_type == "contextual":
        return attention(query, key, value, index, query_table, key_table, value_table)
    if pe_type != "none":
        if position is None or batch is None:
            raise ValueError(f"sptr: pe_type {pe_type!r} needs `position` and `batch`")
        embedding = position(xyz, batch).view_as(query).to(query.dtype)
        query, key = query + embedding, key + embedding
    return attention(query, key, value, index)


class VarLengthMultiheadSA(nn.Module):
    """Multi-head self-attention inside windows of any population, with separate query, key and value projections."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        indice_key: str,
        window_size: float | Sequence[float] | np.ndarray,
        shift_win: bool = False,
        pe_type: str = "none",
        dropout: float = 0.0,
        qk_scale: float | None = None,
        qkv_bias: bool = True,
        *,
        quant_size: float | Sequence[float] | np.ndarray | None = None,
        levels: int = 24,
        rel_query: bool = True,
        rel_key: bool = True,
        rel_value: bool = True,
        origin: str = "sample",
        fused: bool = True,
    ) -> None:
        """``quant_size`` (units of ``window_size``) defaults to window_size / levels; dropout acts on the output."""
        super().__init__()
        if embed_dim % num_heads or pe_type not in _PE_TYPES:
            raise ValueError(
                f"sptr: num_heads must divide embed_dim and pe_type be one of {_PE_TYPES}; "
                f"got {embed_dim}, {num_heads}, {pe_type!r}"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.indice_key = indice_key
        self.pe_type = pe_type
        self.window_size = to_3d_numpy(window_size)
        self.shift_win = shift_win
        self.origin = origin
        self.fused = fused
        self.levels = levels
        if quant_size is None:
            quant_size = self.window_size / levels
        self.quant_size = to_3d_numpy(quant_size)
        self.scale = qk_scale or (embed_dim // num_heads) ** -0.5
        self.q, self.k, self.v = (nn.Linear(embed_dim, embed_dim, bias=qkv_bias) for _ in range(3))
        self.proj, self.drop = nn.Linear(embed_dim, embed_dim), nn.Dropout(dropout)
        contextual = pe_type == "contextual"
        self.query_table = self._table(contextual and rel_query)
        self.key_table = self._table(contextual and rel_key)
        self.value_table = self._table(contextual and rel_value)
        self.position: PositionEmbeddingCoordsSine | None = None
        if pe_type in ("sine", "fourier"):
            self.position = PositionEmbeddingCoordsSine(pos_type=pe_type, d_pos=embed_dim)

    def _table(self, wanted: bool) -> nn.Parameter | None:
        if not wanted:
            return None
        table = torch.empty(
            2 * self.levels - 1, 3, self.num_heads, self.embed_dim // self.num_heads
        )
        return nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def _index(self, tokens: SparseTrTensor) -> WindowIndex:
        # Whatever shapes the index is part of the key, so that one name never serves two different windows.
        geometry = (*self.window_size, *self.quant_size, self.levels, self.shift_win, self.origin)
        key = (self.indice_key, *map(str, geometry))
        if key not in tokens.indice_dict:
            batch, xyz = tokens.query_indices[:, 0], tokens.query_indices[:, 1:].float()
            tokens.indice_dict[key] = window_index(
                xyz,
                batch,
                self.window_size,
                self.quant_size,
                levels=self.levels,
                origin=self.origin,
                shift=self.shift_win,
            )
        return tokens.indice_dict[key]

    def forward(self, tokens: SparseTrTensor) -> SparseTrTensor:
        """Attend: [N, C] tokens -> [N, C] tokens that share the window indices."""
        features = tokens.query_feats
        key = features if tokens.key_feats is None else tokens.key_feats
        value = key if tokens.value_feats is None else tokens.value_feats
        shape = (len(features), self.num_heads, self.embed_dim // self.num_heads)
        query = (self.q(features) * self.scale).view(shape)
        out = sparse_self_attention(
            query,
            self.k(key).view(shape),
            self.v(value).view(shape),
            tokens.query_indices[:, 1:].float(),
            self._index(tokens),
            self.pe_type,
            self.query_table,
            self.key_table,
            self.value_table,
            fused=self.fused,
            position=self.position,
            batch=tokens.query_indices[:, 0],
        )
        return tokens.replace_feature(self.drop(self.proj(out.flatten(1))))
