"""Networks for inference: batch normalisation becomes part of the convolution or linear layer before it."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.sparse.conv import Conv3d
from core.sparse.modules import SparseReLU

__all__ = ["FoldsNorm", "affine", "fold_batch_norm"]


class FoldsNorm(nn.Conv2d):
    """A convolution of maps whose outputs are scaled and shifted with its weights and bias, however it pads."""


_Linear = Conv3d | nn.Linear | FoldsNorm


@runtime_checkable
class _Foldable(Protocol):
    """A module that has a form for inference."""

    def folded(self) -> nn.Module:
        """Build what computes the same, once no batch normalisation is left below."""


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Copy ``network`` into one that computes the same in evaluation mode with fewer passes over the features.

    In every ``nn.Sequential``, a batch normalisation right after a :class:`Conv3d`, ``nn.Linear`` or
    :class:`FoldsNorm`, or right before a ``nn.Linear``, is folded into its weights, and a ReLU after that (or right
    after a convolution) into the convolution. A module with a method ``folded()`` is replaced by what that returns
    once no batch normalisation and no hook is left below it. Layers with hooks, with shared parameters, and without
    running statistics stay as they are. The copy's parameters do not learn.

    Args:
        network: not changed, in any mode.

    Returns:
        a copy in evaluation mode on the same device; results agree to rounding.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    uses: dict[int, int] = {}
    for _, module in network.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return _fold_below(network, {key for key, count in uses.items() if count > 1})


def _fold_below(module: nn.Module, shared: set[int]) -> nn.Module:
    if isinstance(module, nn.Sequential):
        _fold_sequence(module, shared)
    for name, child in list(module.named_children()):
        setattr(module, name, _fold_below(child, shared))
    if isinstance(module, _Foldable) and not any(_stays(part, module) for part in module.modules()):
        return module.folded()
    return module


def _stays(part: nn.Module, module: nn.Module) -> bool:
    """Whether ``part`` keeps ``module``, which holds it or is it, from being replaced."""
    normalises = isinstance(part, _BatchNorm) and (part is not module or part.running_mean is None)
    return normalises or _hooked(part)


def _fold_sequence(sequence: nn.Sequential, shared: set[int]) -> None:
    """Fold neighbours in place; what was folded becomes an identity, so that indices stay."""
    for (_, layer), (name, norm) in pairwise(list(sequence.named_children())):
        if not isinstance(layer, _Linear) or not isinstance(norm, _BatchNorm):
            continue
        if _foldable(layer, shared) and _foldable(norm, shared):
            _scale(layer, norm)
            setattr(sequence, name, nn.Identity())
    for (name, norm), (_, layer) in pairwise(list(sequence.named_children())):
        if not isinstance(layer, nn.Linear) or not isinstance(norm, _BatchNorm):
            continue
        if _foldable(layer, shared) and _foldable(norm, shared):
            _scale_before(norm, layer)
            setattr(sequence, name, nn.Identity())
    rectified: Conv3d | None = None
    for name, layer in list(sequence.named_children()):
        if isinstance(layer, SparseReLU) and rectified is not None and not _hooked(layer):
            rectified.relu = True
            setattr(sequence, name, nn.Identity())
        if isinstance(layer, nn.Identity):
            continue
        rectified = None
        if isinstance(layer, Conv3d) and _foldable(layer, shared):
            rectified = layer


def _foldable(layer: _Linear | _BatchNorm, shared: set[int]) -> bool:
    """Whether nothing else depends on how this layer computes its result."""
    if isinstance(layer, _BatchNorm) and layer.running_mean is None:
        return False
    if isinstance(layer, Conv3d) and layer.relu:
        return False
    if any(id(parameter) in shared for parameter in layer.parameters(recurse=False)):
        return False
    return not _hooked(layer)


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift f64 [C] that a batch normalisation is in evaluation mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


@torch.no_grad()
def _scale(layer: _Linear, norm: _BatchNorm) -> None:
    """Turn ``norm(layer(x))`` into one layer; computed in float64."""
    scale, bias = affine(norm)
    if layer.bias is not None:
        bias = bias + layer.bias.double() * scale
    weight: Tensor
    if isinstance(layer, Conv3d):
        weight = layer.kernel  # [..., Cin, Cout]
        weight.copy_(weight.double() * scale)
    else:
        weight = layer.weight  # [Cout, Cin, ...]
        weight.copy_(weight.double() * scale.view(-1, *[1] * (weight.dim() - 1)))
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)


@torch.no_grad()
def _scale_before(norm: _BatchNorm, layer: nn.Linear) -> None:
    """Turn ``layer(norm(x))`` into one layer; computed in float64."""
    scale, shift = affine(norm)
    weight = layer.weight.double()  # [Cout, Cin]
    bias = weight @ shift
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    layer.weight.copy_(weight * scale)
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
