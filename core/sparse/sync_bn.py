"""Batch normalisation whose statistics cover all processes; works with gloo on CPU and NCCL on GPU.

Ranks may hold different numbers of voxels: counts, means and centred second moments are exchanged and combined exactly
(Chan et al., 1979). Weights interchange with ordinary BatchNorm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncBatchNorm", "Synced", "convert_sync_batchnorm", "synced_batch_norm"]


class Synced:
    """A batch normalisation that covers all processes where ``sync`` is set."""

    sync = False


class _Normalise(torch.autograd.Function):
    """Training-time normalisation of x [N, C, ...] over all ranks; returns (y, mean, variance, count).

    When all ranks together hold fewer than two rows there is no variance: the given running statistics serve, and are
    returned as they are. No branch depends on the count, so a GPU need not wait for it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> tuple[Tensor, ...]:
        dims, shape = _reduced(x), _along_channels(x)
        count = x.numel() // x.shape[1]
        wide = _wide(x)
        mean = wide.mean(dims) if count else wide.new_zeros(x.shape[1])
        # torch.var_mean takes longer than both passes.
        moment = (wide - mean.view(shape)).square_().sum(dims)
        local = torch.cat([mean, moment, mean.new_full((1,), count)])
        means, moments, counts = _gather(local, len(mean))
        total = counts.sum()
        enough = total > 1
        divisor = total.clamp_min(1)
        mean = (means * counts).sum(0) / divisor
        variance = (moments + counts * (means - mean).square()).sum(0) / divisor
        mean = torch.where(enough, mean, running_mean.to(mean.dtype))
        variance = torch.where(enough, variance, running_var.to(mean.dtype))
        inverse = torch.rsqrt(variance + eps)
        share = enough / divisor  # 1 / rows of all ranks, 0 if those were too few
        ctx.save_for_backward(x, weight, mean.view(shape), inverse, share)
        ctx.mark_non_differentiable(mean, variance, total)
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        return y, mean, variance, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, share = ctx.saved_tensors
        g, dims, shape = _wide(grad), _reduced(grad), _along_channels(grad)
        centred = _wide(x) - mean
        sum_g = g.sum(dims)
        sum_gn = (g * centred).sum(dims) * inverse
        sums = torch.stack([sum_g, sum_gn])
        dist.all_reduce(sums)
        scale = inverse if weight is None else inverse * weight
        along = -(sums[1] * share) * inverse * scale
        level = -(sums[0] * share) * scale
        grad_x = torch.addcmul(level.view(shape), centred, along.view(shape))
        grad_x = grad_x.addcmul_(g, scale.view(shape)).to(grad.dtype)
        if weight is None:
            return grad_x, None, None, None, None, None
        return grad_x, sum_gn.to(weight.dtype), sum_g.to(weight.dtype), None, None, None


def _gather(local: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Means [R, C], centred second moments [R, C] and counts [R, 1] of all R ranks."""
    gathered = local.new_empty(dist.get_world_size(), len(local))
    if local.is_cuda:
        dist.all_gather_into_tensor(gathered, local)
    else:
        dist.all_gather(list(gathered), local)
    return gathered.split([channels, channels, 1], 1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _reduced(x: Tensor) -> list[int]:
    """Every dimension but the channels'."""
    return [0, *range(2, x.dim())]


def _along_channels(x: Tensor) -> tuple[int, ...]:
    return (1, -1, *[1] * (x.dim() - 2))


class _Running(NamedTuple):
    mean: Tensor
    variance: Tensor
    batches: Tensor
    momentum: float


def _running(norm: _BatchNorm) -> _Running:
    """What ``norm`` keeps between batches."""
    mean, variance, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None or batches is None or norm.momentum is None:
        raise ValueError("a batch normalisation needs running statistics and a momentum")
    return _Running(mean, variance, batches, norm.momentum)


def _by_running_statistics(norm: _BatchNorm, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )


def synced_batch_norm(norm: _BatchNorm, x: Tensor, sync: bool) -> Tensor:
    """Normalise x [N, C, ...] with ``norm``'s weights; update its running statistics in training.

    A batch of fewer than two rows has no variance: it is normalised by the running statistics, which stay as they are.
    """
    if not norm.training:
        return _by_running_statistics(norm, x)
    running = _running(norm)
    if sync and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        y, mean, variance, total = _Normalise.apply(
            x, norm.weight, norm.bias, norm.eps, running.mean, running.variance
        )
        with torch.no_grad():
            running.batches.add_(total > 1)
            unbiased = variance * torch.where(total > 1, total / (total - 1), 1.0)
            running.mean.lerp_(mean.to(running.mean.dtype), running.momentum)
            running.variance.lerp_(unbiased.to(running.variance.dtype), running.momentum)
        return y
    if x.numel() // x.shape[1] < 2:
        return _by_running_statistics(norm, x)
    running.batches.add_(1)
    return F.batch_norm(
        x,
        running.mean,
        running.variance,
        norm.weight,
        norm.bias,
        True,
        running.momentum,
        norm.eps,
    )


class SyncBatchNorm(_BatchNorm):
    """Drop-in for nn.BatchNorm1d/2d with statistics over all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: [N, C, ...] -> [N, C, ...]."""
        self._check_input_dim(x)
        return synced_batch_norm(self, x, True)


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Make every batch normalisation below ``module`` cover all processes.

    The parameters stay the same objects, so optimisers built before and frozen weights are not disturbed; key names of
    the state_dict stay too.

    Args:
        module: changed in place, except when it is itself an nn.BatchNorm1d or nn.BatchNorm2d.

    Returns:
        ``module``, or its replacement.
    """
    if isinstance(module, Synced):
        module.sync = True
        return module
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        new = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
        new._parameters, new._buffers = module._parameters, module._buffers
        return new.train(module.training)
    for name, child in module.named_children():
        converted = convert_sync_batchnorm(child)
        if converted is not child:
            setattr(module, name, converted)
    return module
