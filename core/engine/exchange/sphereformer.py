"""Weights of SphereFormer's own U-Net."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights

__all__ = ["SphereFormerWeights", "kernel_axes"]

_LEVEL = r"unet\.((?:u\.)*)"  # each "u." is one level further down
_BLOCK = _LEVEL + r"blocks\.block(\d+)\."
_TAIL = _LEVEL + r"blocks_tail\.block(\d+)\."
_AXES = "zyx"  # of its kernels, where they do not show it
_CLEAR = 2.0  # times as unlike as the other pair


def _level(ours: str) -> Callable[[re.Match[str]], str]:
    """What stands in place of a name's beginning; {} is the level."""

    def replace(match: re.Match[str]) -> str:
        return ours.format(len(match[1]) // 2, *match.groups()[1:])

    return replace


_TABLE = Table(
    rules=(
        (r"input_conv\.0\.", "input_conv."),
        (_BLOCK + r"conv_branch\.", _level("blocks.{}.{}.net.")),
        (_BLOCK + r"i_branch\.0\.", _level("blocks.{}.{}.shortcut.")),
        (_TAIL + r"conv_branch\.", _level("tails.{}.{}.net.")),
        (_TAIL + r"i_branch\.0\.", _level("tails.{}.{}.shortcut.")),
        (_LEVEL + r"transformer_block\.", _level("transformer_blocks.{}.")),
        (_LEVEL + r"conv\.", _level("downs.{}.")),
        (_LEVEL + r"deconv\.", _level("ups.{}.")),
        (r"output_layer\.0\.", "head.0."),
        (r"linear\.", "classifier_vox.0."),
    )
)


class SphereFormerWeights(Family):
    """``model_best.pth`` of SphereFormer; trained to know 16 or 19 classes and no class 0."""

    title: ClassVar[str] = "SphereFormer"
    networks: ClassVar[tuple[str, ...]] = ("sphereformer",)
    needed: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "sphereformer": {"legacy_quant": False, "window_origin": "batch"}
    }

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By its U-Net's prefix and its first convolution."""
        return "input_conv.0.weight" in names and any(name.startswith("unet.") for name in names)

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename levels; turn kernels to the axes that they show."""
        axes, note = kernel_axes(weights)
        made = _TABLE.translate(weights, target.classes, axes)
        made.notes.append(note)
        return made


def kernel_axes(weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """The axes of spconv's kernels, slowest first, "zyx" or "xyz", and how that was found out.

    spconv takes coordinates in either order, and a file does not say in which. But scans are turned about z in
    training, so x and y see the same world: the outer axis whose outer taps weigh as much as those of y, which is in
    the middle, is x.
    """
    kernels = []
    for weight in weights.values():
        if weight.dim() == 5 and weight.shape[1:4] == (3, 3, 3):
            kernels.append(_outer_shares(weight))
    first, middle, last = torch.stack(kernels).mean(0).tolist() if kernels else (0.0, 0.0, 0.0)
    shares = f"{first:.3f}, {middle:.3f} and {last:.3f} of their weight lie on the outer taps of the three axes"
    if abs(first - middle) * _CLEAR < abs(last - middle):
        return "xyz", f"the kernels' axes are x, y, z: {shares}"
    if abs(last - middle) * _CLEAR < abs(first - middle):
        return "zyx", f"the kernels' axes are z, y, x: {shares}"
    return (
        _AXES,
        f"the kernels do not show which of their axes is z, and are read as z, y, x: {shares}",
    )


def _outer_shares(weight: Tensor) -> Tensor:
    """F64 [3]: along each axis of a kernel [out, 3, 3, 3, in], the share of the two outer taps in the squared sum."""
    energy = weight.double().square().sum((0, 4))
    inner = [energy.select(axis, 1).sum() for axis in range(3)]
    return 1 - torch.stack(inner) / energy.sum().clamp_min(1e-30)
