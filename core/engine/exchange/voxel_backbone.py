"""The names that VoxelNet's tensors have in OpenPCDet's VoxelBackBone8x and in SLidR, and those they have here."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

from core.engine.exchange.foreign import Weights
from core.engine.exchange.spconv import from_spconv, to_spconv
from core.sparse import Conv3d

__all__ = ["HEAD", "backbone_shapes", "from_backbone", "is_backbone", "to_backbone"]

_FIRST = "conv_input.0.weight"
HEAD = "final."  # of both: what SLidR puts on top, which no detector has
_RESIDUAL = "conv1.0.conv1.weight"  # of VoxelResBackBone8x, whose other names are the same
_CUBE, _COLUMN = (3, 3, 3), (3, 1, 1)  # along z, y, x
_LAYERS = {  # (in, out, kernel) of the convolutions behind the first, which reads the points' values
    "conv1.0": (16, 16, _CUBE),
    "conv2.0": (16, 32, _CUBE),
    "conv2.1": (32, 32, _CUBE),
    "conv2.2": (32, 32, _CUBE),
    "conv3.0": (32, 64, _CUBE),
    "conv3.1": (64, 64, _CUBE),
    "conv3.2": (64, 64, _CUBE),
    "conv4.0": (64, 64, _CUBE),
    "conv4.1": (64, 64, _CUBE),
    "conv4.2": (64, 64, _CUBE),
    "conv_out": (64, 128, _COLUMN),
}
_NORM = ("weight", "bias", "running_mean", "running_var")  # and a number


def is_backbone(names: Collection[str]) -> bool:
    """Whether tensors of these names, without a prefix, are a VoxelBackBone8x."""
    return _FIRST in names and _RESIDUAL not in names


def backbone_shapes(width: int, version: str) -> dict[str, tuple[int, ...]]:
    """The 72 tensors of OpenPCDet's VoxelBackBone8x: twelve convolutions without bias, each with its batch norm.

    Args:
        width: values per point. version: of spconv, "1" or "2".
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (cin, cout, kernel) in {"conv_input": (width, 16, _CUBE), **_LAYERS}.items():
        weight = (*kernel, cin, cout) if version == "1" else (cout, *kernel, cin)
        shapes[f"{layer}.0.weight"] = weight
        for part in _NORM:
            shapes[f"{layer}.1.{part}"] = (cout,)
        shapes[f"{layer}.1.num_batches_tracked"] = ()
    return shapes


def _ours(name: str) -> str:
    return re.sub(r"^conv([234])\.", lambda match: f"downs.{int(match[1]) - 2}.", name)


def _theirs(name: str) -> str:
    return re.sub(r"^downs\.([012])\.", lambda match: f"conv{int(match[1]) + 2}.", name)


def _convolutions(network: nn.Module) -> dict[str, Conv3d]:
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, Conv3d):
            found[path] = module
    return found


def from_backbone(weights: Weights, network: nn.Module, where: str) -> Weights:
    """Weights by published names under ours, kernels in our layout; what is unknown keeps its name.

    Args:
        network: a VoxelNet; its values are not looked at. where: the file, for errors.

    Raises:
        UserError: a kernel has the shape of no version of spconv.
    """
    convolutions = _convolutions(network)
    made = {}
    for name, tensor in weights.items():
        path, _, part = _ours(name).rpartition(".")
        conv = convolutions.get(path)
        if conv is not None and part == "weight":
            made[f"{path}.kernel"] = from_spconv(tensor, conv, name, where)
        else:
            made[f"{path}.{part}"] = tensor
    return made


def to_backbone(weights: Weights, network: nn.Module, version: str) -> Weights:
    """Weights of a VoxelNet under published names, without its head.

    Args:
        network: of these weights. version: of spconv, "1" or "2".
    """
    convolutions = _convolutions(network)
    made = {}
    for name, tensor in weights.items():
        if name.startswith(HEAD):
            continue
        path, _, _ = name.rpartition(".")
        conv = convolutions.get(path)
        if conv is None:
            made[_theirs(name)] = tensor.detach().clone()
        else:
            made[f"{_theirs(path + '.')}weight"] = to_spconv(tensor, conv, version)
    return made
