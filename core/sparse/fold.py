"""Networks for inference: batch normalisation becomes part of the convolution or linear layer before it."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.sparse.conv import Conv3d
from core.sparse.modules import SparseReLU

__all__ = ["fold_batch_norm"]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of ``network`` that computes the same in evaluation mode with fewer passes over the features.

    In every ``nn.Sequential``, a batch normalisation right after a :class:`Conv3d` or ``nn.Linear`` is folded into its
    weights, and a ReLU after that (or right after a convolution) into the convolution. A module with a method
    ``folded()`` is replaced by what that returns once no batch normalisation is left below it. Layers with hooks, with
    shared parameters, and without running statistics stay as they are. The copy's parameters do not learn.

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
    normalises = any(isinstance(part, _BatchNorm) for part in module.modules())
    return (
        module.folded()
        if hasattr(module, "folded") and not normalises and not _hooked(module)
        else module
    )


def _fold_sequence(sequence: nn.Sequential, shared: set[int]) -> None:
    """Fold neighbours in place; what was folded becomes an identity, so that indices stay."""
    for (_, layer), (name, norm) in pairwise(list(sequence.named_children())):
        if isinstance(norm, _BatchNorm) and _foldable(layer, shared) and _foldable(norm, shared):
            _scale(layer, norm)
            setattr(sequence, name, nn.Identity())
    rectified: Conv3d | None = None
    for name, layer in list(sequence.named_children()):
        if isinstance(layer, SparseReLU) and rectified is not None and not _hooked(layer):
            rectified.relu = True
            setattr(sequence, name, nn.Identity())
        if not isinstance(layer, nn.Identity):
            rectified = layer if isinstance(layer, Conv3d) and _foldable(layer, shared) else None


def _foldable(layer: nn.Module, shared: set[int]) -> bool:
    known = isinstance(layer, Conv3d | nn.Linear) or (
        isinstance(layer, _BatchNorm) and layer.running_mean is not None
    )
    rectifies = isinstance(layer, Conv3d) and layer.relu
    own = all(id(parameter) not in shared for parameter in layer.parameters(recurse=False))
    return known and own and not rectifies and not _hooked(layer)


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


@torch.no_grad()
def _scale(layer: Conv3d | nn.Linear, norm: _BatchNorm) -> None:
    """``norm(layer(x))`` as one layer; computed in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = (
        -norm.running_mean.double()
        if layer.bias is None
        else layer.bias.double() - norm.running_mean.double()
    )
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias.double()
    if isinstance(layer, Conv3d):  # [..., Cin, Cout]
        weight, factor = layer.kernel, scale
    else:  # [Cout, Cin]
        weight, factor = layer.weight, scale[:, None]
    weight.copy_(weight.double() * factor)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
