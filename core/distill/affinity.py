"""How alike the items of a group are to each other, in a student and in its teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses import Scope, row_mean
from core.sparse import gather_sum
from core.sparse.points import GatherTable

__all__ = ["affinity", "affinity_loss", "grouped"]

EPS = 1e-8  # smallest norm that a feature is divided by


def grouped(values: Tensor, rows: Tensor) -> Tensor:
    """``values[rows]``, zeros where a row is -1; its gradient is a sum in a fixed order.

    Args:
        values: [M, C]. rows: i64 [...].

    Returns:
        [..., C].
    """
    flat = rows.flatten()
    known = (flat >= 0).nonzero()[:, 0]
    ones = torch.ones(len(known), device=flat.device)
    index = flat.index_select(0, known)
    table = GatherTable.from_entries(known, index, ones, len(flat), len(values))
    return gather_sum(values, table).view(*rows.shape, values.shape[1])


def affinity(features: Tensor) -> Tensor:
    """Cosines of all pairs within each group, in fp32 or finer: [R, N, C] -> [R, N, N]; 0 for features that are 0."""
    with torch.autocast(features.device.type, enabled=False):
        precise = features if features.dtype == torch.float64 else features.float()
        unit = precise / precise.norm(dim=2, keepdim=True).clamp_min(EPS)
        return unit @ unit.transpose(1, 2)


def affinity_loss(
    student: Tensor, teacher: Tensor, valid: Tensor, *, mask_padding: bool, scope: Scope
) -> Tensor:
    """Mean squared difference of the affinities: over the pairs of each group, then over the groups.

    Affinity distillation of Hou et al. (CVPR 2022), section 3.3. Widths may differ.

    Args:
        student: [R, N, C]. teacher: [R, N, C'], no gradient flows to it. Both are 0 where there is padding.
        valid: bool [R, N], false = padding. A group of padding alone does not count.
        mask_padding: pairs with padding are left out of a group's mean; else they count as pairs without a difference.
    """
    squared = (affinity(student) - affinity(teacher.detach())).square().sum((1, 2))
    items = valid.sum(1)
    pairs = items.square() if mask_padding else torch.full_like(items, valid.shape[1] ** 2)
    return row_mean(squared / pairs.clamp_min(1), items > 0, scope=scope)
