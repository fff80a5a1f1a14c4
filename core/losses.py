"""Segmentation losses that do not depend on how many processes share a batch.

With ``scope="global"`` a loss of W processes is the loss of their joined batch: numerators and denominators (cross
entropy) or sorted errors (Lovász) are exchanged, and the value is scaled so that the gradient average of
DistributedDataParallel equals the joined batch's gradient. ``scope="local"`` is the field's habit: each process
averages over its own voxels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from core.contracts import IGNORE

__all__ = ["CrossEntropyLovasz", "cross_entropy", "lovasz_gradient", "lovasz_softmax"]

Scope = Literal["global", "local"]


def _world(scope: Scope) -> int:
    return dist.get_world_size() if scope == "global" and dist.is_available() and dist.is_initialized() else 1


def cross_entropy(
    logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, ignore: int = IGNORE, scope: Scope = "global"
) -> Tensor:
    """(Weighted) mean cross entropy over the rows whose label is not ``ignore``; 0 when there are none.

    Args:
        logits: [V, C], any float dtype (computed in fp32).
        labels: i64 [V].
        weight: [C] class weights, or None.
    """
    per_row = F.cross_entropy(logits.float(), labels, weight=weight, ignore_index=ignore, reduction="none")
    mass = (labels != ignore).float() if weight is None else weight[labels] * (labels != ignore)
    total = mass.sum()
    world = _world(scope)
    if world > 1:
        dist.all_reduce(total)
    return world * per_row.sum() / torch.where(total > 0, total, 1.0)


def lovasz_gradient(sorted_truth: Tensor) -> Tensor:
    """Gradient of the Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, algorithm 1).

    Args:
        sorted_truth: [V, P] 0/1 ground truth per column, rows sorted by decreasing error.
    """
    total = sorted_truth.sum(0, keepdim=True)
    intersection = total - sorted_truth.cumsum(0)
    union = total + (1 - sorted_truth).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
    return jaccard


def lovasz_softmax(logits: Tensor, labels: Tensor, *, ignore: int = IGNORE, scope: Scope = "global") -> Tensor:
    """Lovász-softmax over the classes present (Berman et al., CVPR 2018, eq. 11-12), the batch taken as one image.

    Args:
        logits: [V, C]. labels: i64 [V]; rows with ``ignore`` are left out; 0 when nothing remains.
    """
    valid = labels != ignore
    probabilities = torch.softmax(logits[valid].float(), dim=1)
    labels = labels[valid]
    world = _world(scope)
    if world > 1:
        probabilities, labels = _join(probabilities, labels)
    present = torch.bincount(labels, minlength=logits.shape[1]).nonzero().flatten()
    if present.numel() == 0:
        return logits.sum() * 0.0
    truth = (labels[:, None] == present).float()
    errors = (truth - probabilities[:, present]).abs()
    ordered, order = errors.sort(dim=0, descending=True, stable=True)
    gradient = lovasz_gradient(truth.gather(0, order))
    loss = (ordered * gradient).sum(0).mean()
    return loss if world == 1 else _with_own_gradient(loss, world)


def _with_own_gradient(loss: Tensor, world: int) -> Tensor:
    """Same value; gradients scaled by ``world`` to undo DistributedDataParallel's average."""
    return loss * world - loss.detach() * (world - 1)


def _join(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All ranks' rows in rank order; only this rank's own rows carry a gradient."""
    world, rank = dist.get_world_size(), dist.get_rank()
    counts = torch.zeros(world, dtype=torch.int64, device=labels.device)
    counts[rank] = len(labels)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    width = max(sizes)
    padded = probabilities.new_zeros(width, probabilities.shape[1])
    padded[: len(labels)] = probabilities.detach()
    padded_labels = labels.new_zeros(width)
    padded_labels[: len(labels)] = labels
    all_rows = [torch.empty_like(padded) for _ in sizes]
    all_labels = [torch.empty_like(padded_labels) for _ in sizes]
    dist.all_gather(all_rows, padded)
    dist.all_gather(all_labels, padded_labels)
    rows = [p[:n] for p, n in zip(all_rows, sizes)]
    rows[rank] = probabilities
    return torch.cat(rows), torch.cat([t[:n] for t, n in zip(all_labels, sizes)])


class CrossEntropyLovasz(nn.Module):
    """``w_ce * CE + w_lovasz * Lovász-softmax`` on voxel logits.

    Args:
        w_ce, w_lovasz: weights of the two terms; a term of weight 0 is not computed.
        class_weight: one weight per class including class 0, or None.
        scope: see the module's description.
    """

    def __init__(
        self,
        w_ce: float = 1.0,
        w_lovasz: float = 1.0,
        class_weight: list[float] | None = None,
        scope: Scope = "global",
    ) -> None:
        super().__init__()
        self.w_ce, self.w_lovasz, self.scope = w_ce, w_lovasz, scope
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named, weighted losses: ``ce`` and ``lovasz``.

        Args:
            logits: [V, C]. labels: i64 [V].
        """
        losses = {}
        if self.w_ce:
            losses["ce"] = self.w_ce * cross_entropy(logits, labels, weight=self.class_weight, scope=self.scope)
        if self.w_lovasz:
            losses["lovasz"] = self.w_lovasz * lovasz_softmax(logits, labels, scope=self.scope)
        return losses
