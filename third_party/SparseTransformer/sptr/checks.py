"""What must be true of tensors before the kernels get their addresses.

Sizes, types and devices are compared at every call. Values are looked at once for each :class:`sptr.WindowIndex`, and
on the CPU again in every call of the registered operators: a few passes over the tokens, next to nothing beside their
pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sptr.inputs import Inputs

__all__ = [
    "KINDS",
    "MAX_DIM",
    "check_array",
    "check_batch",
    "check_features",
    "check_gradient",
    "check_index",
    "check_inputs",
    "check_one_device",
    "check_pairs",
    "check_table",
    "check_values",
]

KINDS = ("cubic", "radial")
MAX_DIM = 64  # channels of a head


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_array(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that is no C array of ``dtype`` and ``shape``.

    Raises:
        ValueError: naming what is there and what was expected.
    """
    if tensor.dtype == dtype and tensor.shape == shape and tensor.is_contiguous():
        return
    gaps = "" if tensor.is_contiguous() else " with gaps"
    expected = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    raise ValueError(f"sptr: {name} is {_describe(tensor)}{gaps}; expected {expected}")


def _is_integer(tensor: Tensor) -> bool:
    floating = tensor.is_floating_point() or tensor.is_complex()
    return not floating and tensor.dtype != torch.bool


def check_features(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse features that do not share one shape [N, h, d] and one floating type.

    Raises:
        ValueError: naming all shapes or types.
    """
    shapes = {tuple(x.shape) for x in (q, k, v)}
    if len(shapes) != 1 or q.ndim != 3 or not 1 <= q.shape[2] <= MAX_DIM or not q.shape[1]:
        raise ValueError(
            f"sptr: query, key, value must share one shape [N, h, d], d <= {MAX_DIM}; got {sorted(shapes)}"
        )
    if len({x.dtype for x in (q, k, v)}) != 1 or not q.is_floating_point():
        raise ValueError(
            f"sptr: query, key, value must share one floating type; got {q.dtype}, {k.dtype}, {v.dtype}"
        )


def check_table(name: str, table: Tensor, features: Tensor, least: int) -> None:
    """Refuse a table that is not floating [L, 3, h, d] of ``least`` rows or more, for features [N, h, d].

    Raises:
        ValueError: naming both shapes.
    """
    heads, dim = features.shape[1:]
    fits = table.shape[1:] == (3, heads, dim) and len(table) >= least
    if not fits or not table.is_floating_point():
        raise ValueError(
            f"sptr: {name} must be floating [L, 3, {heads}, {dim}] with L >= {least}; got {_describe(table)}"
        )


def check_one_device(*tensors: Tensor | None) -> None:
    """Refuse tensors on different devices.

    Raises:
        ValueError: naming them.
    """
    devices = {x.device for x in tensors if x is not None}
    if len(devices) > 1:
        raise ValueError(
            f"sptr: all tensors must be on one device; got {sorted(map(str, devices))}"
        )


def _check_layout(order: Tensor, ptr: Tensor, positions: Tensor, levels: int) -> None:
    """Refuse parts of an index that do not fit each other by type and size."""
    if order.ndim != 1 or not _is_integer(order):
        raise ValueError(f"sptr: order must be integer [N]; got {_describe(order)}")
    if ptr.ndim != 1 or not len(ptr) or not _is_integer(ptr):
        raise ValueError(f"sptr: ptr must be integer [W + 1]; got {_describe(ptr)}")
    if positions.shape != (len(order), 3) or not positions.is_floating_point():
        raise ValueError(
            f"sptr: positions must be floating [{len(order)}, 3], one for each of order; got {_describe(positions)}"
        )
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f"sptr: levels must be an integer of at least 1; got {levels!r}")


def check_values(order: Tensor, ptr: Tensor, positions: Tensor, levels: int, radial: bool) -> None:
    """Refuse values of an index that lead out of the tokens or the tables; a GPU is waited for once.

    Raises:
        ValueError: naming the range found and the range allowed.
    """
    tokens = len(order)
    first, last, back = _as_list(ptr[0], ptr[-1], (ptr[1:] < ptr[:-1]).any())
    if (first, last) != (0, tokens) or back:
        raise ValueError(
            f"sptr: ptr must rise from 0 to {tokens}, the number of tokens; it runs from {first:.0f} to {last:.0f}"
            + (" and goes back between" if back else "")
        )
    if not tokens:
        return
    uses = torch.bincount(order.long().clamp(0, tokens - 1), minlength=tokens)
    # Passes over whole arrays take a fifth of those over columns.
    binned = positions[:, :2].contiguous() if radial else positions
    low, high, fewest, least, most, nearest, farthest, between = _as_list(
        *order.aminmax(),
        uses.amin(),
        *binned.aminmax(),
        *positions.aminmax(),  # NaN if one is
        binned.frac().any(),
    )
    if low < 0 or high >= tokens or not fewest:
        raise ValueError(
            f"sptr: order must name each of {tokens} tokens once; it runs from {low:.0f} to {high:.0f}"
            f" and leaves out {int((uses == 0).sum())}"
        )
    if not (math.isfinite(nearest) and math.isfinite(farthest)):
        raise ValueError("sptr: positions must be finite")
    if between or least < 0 or most >= levels:
        raise ValueError(
            f"sptr: positions inside a window must be bins 0..{levels - 1}; they run from {least:g} to {most:g}"
            + (", some between two bins" if between else "")
        )


def _as_list(*scalars: Tensor) -> list[float]:
    return torch.stack([scalar.double() for scalar in scalars]).tolist()


def check_index(order: Tensor, ptr: Tensor, positions: Tensor, kind: str, levels: int) -> None:
    """Refuse what is no :class:`sptr.WindowIndex`.

    Raises:
        ValueError: naming the part, what it holds and what was expected.
    """
    if kind not in KINDS:
        raise ValueError(f"sptr: kind must be one of {KINDS}; got {kind!r}")
    _check_layout(order, ptr, positions, levels)
    check_one_device(order, ptr, positions)
    check_values(order, ptr, positions, levels, kind == "radial")


def check_inputs(inputs: Inputs) -> None:
    """Refuse inputs of the registered operators that do not fit together by size, type or device.

    Raises:
        ValueError: naming the sizes.
    """
    q, levels = inputs.q, inputs.levels
    check_features(q, inputs.k, inputs.v)
    _check_layout(inputs.order, inputs.ptr, inputs.positions, levels)
    if len(inputs.order) != len(q):
        raise ValueError(f"sptr: order lists {len(inputs.order)} tokens, the query {len(q)}")
    least = 2 * levels - 1 + int(inputs.radial)
    tables = {"table_q": inputs.table_q, "table_k": inputs.table_k, "table_v": inputs.table_v}
    for name, table in tables.items():
        check_table(name, table, q, least)
    lengths = [len(table) for table in tables.values()]
    if len(set(lengths)) != 1:
        raise ValueError(f"sptr: the tables must have one length; got {lengths}")
    check_one_device(*(x for x in inputs if isinstance(x, Tensor)))


def check_gradient(inputs: Inputs, lse: Tensor, delta: Tensor, grad: Tensor) -> None:
    """Refuse gradients that do not fit the inputs.

    Raises:
        ValueError: naming the sizes.
    """
    rows, features = inputs.q.shape[:2], inputs.q.shape
    for name, tensor, shape in (
        ("lse", lse, rows),
        ("delta", delta, rows),
        ("grad", grad, features),
    ):
        if tensor.shape != shape or not tensor.is_floating_point():
            raise ValueError(
                f"sptr: {name} must be floating {list(shape)}; got {_describe(tensor)}"
            )
    check_one_device(inputs.q, lse, delta, grad)


def check_pairs(
    index_0: Tensor,
    index_1: Tensor,
    *,
    features: tuple[Tensor, ...],
    weights: Tensor | None = None,
    rel_idx: Tensor | None = None,
    tables: tuple[Tensor, ...] = (),
) -> None:
    """Refuse arguments of the unfused operators whose sizes differ; some would be spread over the pairs silently.

    Args:
        index_0, index_1: integer [M]. features: floating [N, h, d] each. weights: [M, h]. rel_idx: integer [M, 3].
        tables: [L, 3, h, d] each.

    Raises:
        ValueError: naming the sizes.
    """
    first = features[0]
    if first.ndim != 3 or any(x.shape[1:] != first.shape[1:] for x in features):
        raise ValueError(
            f"sptr: features must be [N, h, d] of one h and d; got {[list(x.shape) for x in features]}"
        )
    pairs = len(index_0)
    if index_0.shape != (pairs,) or index_1.shape != (pairs,):
        raise ValueError(
            f"sptr: index_0 and index_1 must list the same pairs; got {_describe(index_0)} and {_describe(index_1)}"
        )
    if weights is not None and weights.shape != (pairs, first.shape[1]):
        raise ValueError(
            f"sptr: weights must be [{pairs}, {first.shape[1]}]; got {_describe(weights)}"
        )
    if rel_idx is not None and rel_idx.shape != (pairs, 3):
        raise ValueError(f"sptr: rel_idx must be [{pairs}, 3]; got {_describe(rel_idx)}")
    for table in tables:
        check_table("a table", table, first, 1)


def check_batch(batch: Tensor) -> None:
    """Refuse sample numbers int [N] (whole numbers of a floating type pass) that are negative or beyond 2^24.

    Raises:
        ValueError: naming their range.
    """
    if not len(batch):
        return
    low, high = (float(bound) for bound in batch.aminmax())
    whole = not batch.is_floating_point() or bool((batch == batch.floor()).all())
    if not (whole and low >= 0 and high < 2**24):
        raise ValueError(
            f"sptr: samples must be numbered 0 to {2**24 - 1}; batch runs from {low:g} to {high:g}"
        )
