"""What the operators ``sptr::window_attention`` and its gradient take, on every device."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["GradientTypes", "InputTypes", "Inputs", "c_arrays", "padded_tables"]

InputTypes: TypeAlias = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, bool
]
# And the gradient's: lse fp32 [N, h], delta fp32 [N, h] and the gradient of the output [N, h, d] besides.
GradientTypes: TypeAlias = tuple[*InputTypes, Tensor, Tensor, Tensor]
CArray: TypeAlias = tuple[torch.dtype, tuple[int, ...]]


class Inputs(NamedTuple):
    """The inputs of ``sptr::window_attention`` in the order of its schema.

    Attributes:
        q, k, v: [N, h, d] of one floating type.
        table_q, table_k, table_v: [L, 3, h, d], any floating type.
        order, ptr, positions, levels: see :class:`sptr.windows.WindowIndex`.
        radial: exponential splitting of the third axis.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    table_q: Tensor
    table_k: Tensor
    table_v: Tensor
    order: Tensor
    ptr: Tensor
    positions: Tensor
    levels: int
    radial: bool

    @property
    def heads(self) -> int:
        """Heads, h."""
        return self.q.shape[1]

    @property
    def dim(self) -> int:
        """Channels of a head, d."""
        return self.q.shape[2]

    @property
    def length(self) -> int:
        """Rows of a table, L."""
        return self.table_q.shape[0]


def padded_tables(inputs: Inputs, padded: int) -> dict[str, Tensor]:
    """Lay the tables out as the kernels read them: fp32 [h, 3, L, padded] by name, filled up with zeros."""
    tables = {"table_q": inputs.table_q, "table_k": inputs.table_k, "table_v": inputs.table_v}
    missing = padded - inputs.dim
    return {
        name: F.pad(table.float().permute(2, 1, 0, 3), (0, missing))
        for name, table in tables.items()
    }


def c_arrays(inputs: Inputs, padded: int) -> dict[str, CArray]:
    """Say what the kernels take each pointer of their structure for: type and shape by name."""
    tokens, heads = len(inputs.q), inputs.heads
    features: CArray = (inputs.q.dtype, (tokens, heads, inputs.dim))
    rows: CArray = (torch.float32, (tokens, heads))
    table: CArray = (torch.float32, (heads, 3, inputs.length, padded))
    arrays = dict.fromkeys(("q", "k", "v", "out", "grad_out"), features)
    arrays |= dict.fromkeys(("grad_q", "grad_k", "grad_v"), features)
    arrays |= dict.fromkeys(("lse", "delta"), rows)
    arrays |= dict.fromkeys(("table_q", "table_k", "table_v"), table)
    arrays |= dict.fromkeys(("grad_table_q", "grad_table_k", "grad_table_v"), table)
    arrays["order"] = (torch.int64, (tokens,))
    arrays["ptr"] = (torch.int64, (len(inputs.ptr),))
    arrays["positions"] = (torch.float32, (tokens, 3))
    return arrays
