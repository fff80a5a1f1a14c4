"""Batch normalisation whose statistics cover all processes; works with gloo on CPU and NCCL on GPU.

Ranks may hold different numbers of voxels: counts, means and centred second moments are exchanged and combined exactly
(Chan et al., 1979). Weights interchange with ordinary BatchNorm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm", "synced_batch_norm"]


class _Normalise(torch.autograd.Function):
    """Training-time normalisation of x [N, C] (or [N, C, ...]) over all ranks; returns (y, mean, variance, count)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        flat = _rows(x).float()
        count = float(flat.shape[0])
        mean = flat.mean(0) if count else flat.new_zeros(flat.shape[1])
        moment = (flat - mean).square().sum(0)
        local = torch.cat([mean, moment, mean.new_full((1,), count)])
        gathered = torch.empty(dist.get_world_size(), len(local), device=x.device)
        dist.all_gather_into_tensor(gathered, local) if x.is_cuda else dist.all_gather(list(gathered), local)
        means, moments, counts = gathered.split([len(mean), len(mean), 1], 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = (moments + counts * (means - mean).square()).sum(0) / total
        inverse = torch.rsqrt(variance + eps)
        normal = (flat - mean) * inverse
        ctx.save_for_backward(normal, weight, inverse, total)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        y = normal if weight is None else normal * weight + bias
        ctx.mark_non_differentiable(mean, variance, total)
        return _unrows(y, x.shape).to(x.dtype), mean, variance, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal, weight, inverse, total = ctx.saved_tensors
        g = _rows(grad).float()
        sum_g, sum_gn = g.sum(0), (g * normal).sum(0)
        sums = torch.stack([sum_g, sum_gn])
        dist.all_reduce(sums)
        scale = inverse if weight is None else inverse * weight
        grad_x = (g - sums[0] / total - normal * (sums[1] / total)) * scale
        affine = (None, None) if weight is None else (sum_gn, sum_g)
        return _unrows(grad_x, ctx.shape).to(ctx.dtype), *affine, None


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])


def _unrows(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows if len(shape) == 2 else rows.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def synced_batch_norm(norm: _BatchNorm, x: Tensor, sync: bool) -> Tensor:
    """Normalise x [N, C, ...] with ``norm``'s weights; update its running statistics in training.

    A batch of fewer than two rows has no variance: it is normalised by the running statistics, which stay as they are.
    """
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    if sync and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        y, mean, variance, total = _Normalise.apply(x, norm.weight, norm.bias, norm.eps)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            unbiased = variance * (total / (total - 1).clamp_min(1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
        return y
    if x.numel() // x.shape[1] < 2:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    norm.num_batches_tracked += 1
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps)


class SyncBatchNorm(_BatchNorm):
    """Drop-in for nn.BatchNorm1d/2d with statistics over all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...]."""
        self._check_input_dim(x)
        return synced_batch_norm(self, x, True)


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Make every batch normalisation below ``module`` cover all processes; weights and key names stay."""
    if hasattr(module, "sync") and isinstance(module, _BatchNorm):
        module.sync = True
        return module
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        new = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
        new.load_state_dict(module.state_dict())
        return new.train(module.training).to(module.running_mean.device)
    for name, child in module.named_children():
        converted = convert_sync_batchnorm(child)
        if converted is not child:
            setattr(module, name, converted)
    return module
