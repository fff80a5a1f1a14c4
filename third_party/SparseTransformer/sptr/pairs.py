"""All query-key pairs of all windows, written out: the layout the unfused operators work on.

Window w has n_w tokens at sorted positions s_w..; its pairs start at S_w, the sum of n_u^2 over earlier windows. Pair
(i, j) sits at S_w + i n_w + j. So the pairs of one query are contiguous, those of one key are n_w apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sptr.windows import partition

__all__ = ["get_indices_params", "grid_sample", "pair_layout", "to_3d_numpy"]


def to_3d_numpy(size: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Spread a number or three to float64 [3], always a copy."""
    return np.broadcast_to(np.asarray(size, dtype=np.float64), 3).copy()


def grid_sample(
    coords: Tensor,
    batch: Tensor,
    size: float | Sequence[float] | np.ndarray,
    start: Tensor | None = None,
    *,
    return_p2v: bool = True,
    origin: str = "sample",
) -> tuple[Tensor, ...]:
    """Cluster tokens by window.

    Args:
        coords: float [N, 3].
        batch: int [N].
        size: window size, one number or three.
        start: [3] or [N, 3] subtracted first when given.
        return_p2v: also return the padded table of the tokens of each window.
        origin: see :func:`sptr.windows.partition`.

    Returns:
        cluster i64 [N]; then, with ``return_p2v``, p2v i64 [W, n_max] padded with 0; then counts i64 [W].
    """
    if start is not None:
        coords = coords - start
    window_size = torch.as_tensor(to_3d_numpy(size), dtype=coords.dtype)
    order, ptr, _ = partition(coords, batch, window_size, origin=origin)
    counts = ptr.diff()
    window = torch.repeat_interleave(counts)
    cluster = torch.empty_like(order)
    cluster[order] = window
    if not return_p2v:
        return cluster, counts
    slot = torch.arange(len(order), device=order.device) - ptr[:-1][window]
    most = int(counts.max()) if len(counts) else 0
    p2v = order.new_zeros(len(counts), most)
    p2v[window, slot] = order
    return cluster, p2v, counts


def pair_layout(counts: Tensor) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
    """Write out the pairs of windows with ``counts`` i64 [W] tokens.

    Returns:
        index_0 i64 [M], index_0_offsets i64 [N+1], n_max, index_1 i64 [M], index_1_offsets i64 [N]; see the module.

    Raises:
        ValueError: ``counts`` is no list of whole numbers, or one is negative.
    """
    if counts.ndim != 1 or counts.is_floating_point() or bool((counts < 0).any()):
        raise ValueError(
            f"sptr: counts must be integer [W], none negative; got {counts.dtype} {list(counts.shape)}"
        )
    counts = counts.long()
    squares = counts * counts
    first = counts.cumsum(0) - counts
    base = squares.cumsum(0) - squares
    window = torch.repeat_interleave(counts)
    n = counts[window]  # tokens in the window of each token
    local = torch.arange(len(window), device=counts.device) - first[window]
    offsets_0 = torch.cat([n.new_zeros(1), n.cumsum(0)])
    index_0 = torch.repeat_interleave(n)
    pair = torch.arange(len(index_0), device=counts.device)
    index_1 = pair - offsets_0[index_0] + first[window][index_0]
    n_max = int(counts.max()) if len(counts) else 0
    return index_0, offsets_0, n_max, index_1, base[window] + local


def get_indices_params(
    xyz: Tensor,
    batch: Tensor,
    window_size: float | Sequence[float] | np.ndarray,
    shift_win: bool = False,
    *,
    origin: str = "sample",
) -> tuple[Tensor, Tensor, int, Tensor, Tensor, Tensor]:
    """Sort tokens by window and write out the pairs.

    Args:
        xyz: float [N, 3].
        batch: int [N].
        window_size: one number or three, in the units of ``xyz``.
        shift_win: move the grid by half a window.
        origin: see :func:`sptr.windows.partition`.

    Returns:
        index_0 [M], index_0_offsets [N+1], n_max, index_1 [M], index_1_offsets [N] (:func:`pair_layout`), and sort_idx
        [N], the token at each sorted position. Integers are 64-bit.
    """
    size = torch.as_tensor(to_3d_numpy(window_size), dtype=xyz.dtype)
    sort_idx, ptr, _ = partition(xyz, batch, size, origin=origin, shift=shift_win)
    return (*pair_layout(ptr.diff()), sort_idx)
