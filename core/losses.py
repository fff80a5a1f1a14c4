"""Segmentation losses that do not depend on how many processes share a batch.

With ``scope="global"`` a loss of W processes is the loss of their joined batch: numerators and denominators (cross
entropy) or sorted errors (Lovász) are exchanged, and the value is scaled so that the gradient average of
DistributedDataParallel equals the joined batch's gradient. ``scope="local"`` is the field's habit: each process
averages over its own voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from core.contracts import IGNORE

__all__ = [
    "CrossEntropyLovasz",
    "Scope",
    "balanced_weights",
    "boundary_loss",
    "class_mean",
    "cross_entropy",
    "feature_mse",
    "kl_divergence",
    "kl_rows",
    "lovasz_gradient",
    "lovasz_softmax",
    "row_mean",
    "weighted_mean",
]

Scope = Literal["global", "local"]
_ONE = 0x3F800000  # bits of 1.0
_TINY = 1e-7  # keeps quotients of the boundary loss finite
_RADIX = 32768  # fewest integers torch sorts by radix on the CPU


def _world(scope: Scope) -> int:
    if scope == "global" and dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore: int = IGNORE,
    scope: Scope = "global",
) -> Tensor:
    """Average the (weighted) cross entropy over the rows whose label is not ``ignore``; 0 when there are none.

    Args:
        logits: [V, C], any float dtype (computed in fp32).
        labels: i64 [V].
        weight: [C] class weights, or None.
    """
    per_row = F.cross_entropy(
        logits.float(), labels, weight=weight, ignore_index=ignore, reduction="none"
    )
    valid = labels != ignore
    mass = valid.float() if weight is None else weight[labels] * valid
    return _average(per_row.sum(), mass.sum(), scope)


def _average(total: Tensor, mass: Tensor, scope: Scope) -> Tensor:
    """``total / mass`` of the joined batch, scaled for this process's gradient; 0 where the mass is 0."""
    world = _world(scope)
    if world > 1:
        dist.all_reduce(mass)
    return world * total / torch.where(mass > 0, mass, 1.0)


def row_mean(values: Tensor, mask: Tensor | None = None, *, scope: Scope = "global") -> Tensor:
    """Average ``values`` [V] over the rows of ``mask`` (bool [V], None = all); 0 when there are none.

    Rows outside the mask may hold anything, NaN included; they get no gradient.
    """
    if mask is None:
        rows = values.new_tensor(float(len(values)))
        return _average(values.sum(), rows, scope)
    total = torch.where(mask, values, 0.0).sum()
    rows = mask.to(values.dtype).sum()
    return _average(total, rows, scope)


def weighted_mean(values: Tensor, weights: Tensor, *, scope: Scope = "global") -> Tensor:
    """Average ``values`` [V] by ``weights`` [V], not negative; 0 when their sum is 0."""
    return _average((weights * values).sum(), weights.sum(), scope)


def class_mean(
    values: Tensor, classes: Tensor, mask: Tensor, num_classes: int, *, scope: Scope = "global"
) -> Tensor:
    """Average ``values`` [V] within each class present, then over these classes; 0 when there is no row.

    Rows outside the mask may hold anything, NaN included; they get no gradient.

    Args:
        classes: i64 [V], 0 .. num_classes - 1. mask: bool [V].
    """
    counts = values.new_zeros(num_classes).index_add_(0, classes, mask.to(values.dtype))
    world = _world(scope)
    if world > 1:
        dist.all_reduce(counts)
    present = (counts > 0).sum().clamp_min(1)
    share = (1 / (counts.clamp_min(1) * present)).index_select(0, classes)
    return world * (torch.where(mask, values, 0.0) * share).sum()


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    classes: Tensor | None = None,
    scope: Scope = "global",
    detach: bool = True,
) -> Tensor:
    """Average ``T^2 sum_c p_t log(p_t / p_s)``, softmax at temperature T, over the rows of ``mask``.

    At T = 1 this is ``KLDivLoss(batchmean)`` (U2MKD's logit term; Hinton et al. 2015 for the factor T^2).

    Args:
        student: [V, C] logits. teacher: [V, C] logits. mask: bool [V] or None.
        classes: i64 [V]; rows are averaged within each class first, so that rare classes count as much as common ones.
        detach: no gradient flows to the teacher.
    """
    if detach:
        teacher = teacher.detach()
    per_row = kl_rows(student, teacher, temperature)
    if classes is None:
        return temperature**2 * row_mean(per_row, mask, scope=scope)
    if mask is None:
        mask = torch.ones_like(classes, dtype=torch.bool)
    return temperature**2 * class_mean(per_row, classes, mask, student.shape[1], scope=scope)


def kl_rows(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """F32 [V]: ``sum_c p_t log(p_t / p_s)`` of each row of logits [V, C], softmax at a temperature."""
    log_s = torch.log_softmax(student.float() / temperature, 1)
    log_t = torch.log_softmax(teacher.float() / temperature, 1)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def feature_mse(
    features: Tensor, target: Tensor, mask: Tensor | None = None, *, scope: Scope = "global"
) -> Tensor:
    """Average the squared difference over the channels and the rows of ``mask``; 0 (not NaN) when the mask is empty.

    Args:
        features, target: [V, C]; detach what must not learn. mask: bool [V] or None.
    """
    squared = (features.float() - target.float()).square()
    return row_mean(squared.mean(1), mask, scope=scope)


def boundary_loss(scores: Tensor, labels: Tensor, *, scope: Scope = "global") -> Tensor:
    """Average ``1 - F1`` of the classes' borders over images and classes (Bokhovkin and Burnaev, ISNN 2019; CENet).

    The border of a map m is ``maxpool3x3(1 - m) - (1 - m)``. Every class counts, "ignore" and absent ones too.

    Args:
        scores: [B, C, H, W] logits of all pixels. labels: i64 [B, H, W], 0 = ignore or empty.
    """
    predicted = _border(scores.float().softmax(1))
    truth = _border(F.one_hot(labels, scores.shape[1]).movedim(-1, 1).float())
    common = (predicted * truth).sum((2, 3))
    precision = common / (predicted.sum((2, 3)) + _TINY)
    recall = common / (truth.sum((2, 3)) + _TINY)
    f1 = 2 * precision * recall / (precision + recall + _TINY)
    return row_mean((1 - f1).mean(1), scope=scope)


def _border(maps: Tensor) -> Tensor:
    outside = 1 - maps
    return F.max_pool2d(outside, 3, stride=1, padding=1) - outside


def lovasz_gradient(sorted_truth: Tensor) -> Tensor:
    """Differentiate the Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, algorithm 1).

    Args:
        sorted_truth: [V, P] 0/1 ground truth per column, rows sorted by decreasing error.
    """
    total = sorted_truth.sum(0, keepdim=True)
    intersection = total - sorted_truth.cumsum(0)
    union = total + (1 - sorted_truth).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
    return jaccard


def lovasz_softmax(
    logits: Tensor, labels: Tensor, *, ignore: int = IGNORE, scope: Scope = "global"
) -> Tensor:
    """Compute Lovász-softmax over the classes present (Berman et al., CVPR 2018, eq. 11-12), the batch as one image.

    Args:
        logits: [V, C]. labels: i64 [V]; rows with ``ignore`` are left out; 0 when nothing remains.
    """
    valid = labels != ignore
    probabilities = torch.softmax(logits[valid].float(), dim=1)
    labels = labels[valid]
    world = _world(scope)
    if world > 1:
        probabilities, labels = _join(probabilities, labels)
    counts = torch.bincount(labels, minlength=logits.shape[1])
    present = counts.nonzero().flatten()
    if present.numel() == 0:
        return logits.sum() * 0.0
    truth = (labels[:, None] == present).float()
    errors = (truth - probabilities[:, present]).abs()
    ordered, order = _largest_first(errors)
    gradient = lovasz_gradient(truth.gather(0, order))
    loss = (ordered * gradient).sum(0).mean()
    return loss if world == 1 else _with_local_gradient(loss, world)


def _largest_first(errors: Tensor) -> tuple[Tensor, Tensor]:
    """``errors.sort(0, descending=True, stable=True)`` of f32 [V, P] without negative values.

    On the CPU columns are sorted as integers, since torch has a radix sort for those alone, and for so many at least:
    a tenth of the time.
    """
    rows = len(errors)
    if errors.device.type != "cpu" or rows < _RADIX // 8:
        return errors.sort(dim=0, descending=True, stable=True)
    shape = (errors.shape[1], max(rows, _RADIX))
    keys = torch.full(shape, torch.iinfo(torch.int32).max, dtype=torch.int32)
    # The bits of floats that are not negative are ordered as the floats.
    keys[:, :rows] = _ONE - errors.detach().T.contiguous().view(torch.int32)
    columns = [key.sort(stable=True).indices[:rows] for key in keys]
    order = torch.stack(columns, 1)
    return errors.gather(0, order), order


def _with_local_gradient(loss: Tensor, world: int) -> Tensor:
    """Same value; gradients scaled by ``world`` to undo DistributedDataParallel's average."""
    return loss * world - loss.detach() * (world - 1)


def _join(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join all ranks' rows in rank order; only this rank's rows carry a gradient."""
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
    rows = [part[:size] for part, size in zip(all_rows, sizes)]
    rows[rank] = probabilities
    joined = [part[:size] for part, size in zip(all_labels, sizes)]
    return torch.cat(rows), torch.cat(joined)


def balanced_weights(counts: Sequence[int], power: float = 1 / 3) -> list[float]:
    """Weigh classes by ``(max count / count)^power``, which lifts rare ones; 0 for a class without points.

    Class 0 is never weighted in a loss and gets 0.

    Args:
        counts: points of each class in the training set, class 0 (ignore) first.
    """
    most = max(counts[1:], default=0)
    weights = [0.0]
    for count in counts[1:]:
        weights.append((most / count) ** power if count else 0.0)
    return weights


class CrossEntropyLovasz(nn.Module):
    """``w_ce * CE + w_lovasz * Lovász-softmax + w_balanced * balanced CE`` on voxel logits.

    Args:
        w_ce, w_lovasz, w_balanced: weights of the terms; a term of weight 0 is not computed. The balanced cross entropy
            is averaged within each class present before the classes are averaged.
        class_weight: one weight of the first term per class including class 0, or None.
        scope: see the module's description.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        w_ce: float = 1.0,
        w_lovasz: float = 1.0,
        class_weight: list[float] | None = None,
        scope: Scope = "global",
        w_balanced: float = 0.0,
    ) -> None:
        super().__init__()
        self.w_ce = w_ce
        self.w_lovasz = w_lovasz
        self.w_balanced = w_balanced
        self.scope = scope
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the named, weighted losses ``ce``, ``lovasz`` and ``balanced``.

        Args:
            logits: [V, C]. labels: i64 [V].
        """
        losses = {}
        if self.w_ce:
            ce = cross_entropy(logits, labels, weight=self.class_weight, scope=self.scope)
            losses["ce"] = self.w_ce * ce
        if self.w_lovasz:
            losses["lovasz"] = self.w_lovasz * lovasz_softmax(logits, labels, scope=self.scope)
        if self.w_balanced:
            per_row = F.cross_entropy(logits.float(), labels, reduction="none")
            mean = class_mean(per_row, labels, labels != IGNORE, logits.shape[1], scope=self.scope)
            losses["balanced"] = self.w_balanced * mean
        return losses
