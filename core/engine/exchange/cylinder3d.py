"""Weights of Cylinder3D and PVKD, which lean on neighbours that spconv 1 shared between kernels of other shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights
from core.errors import UserError
from core.models.lidar.cylinder_blocks import CUBE, kernels_of
from core.sparse import Conv3d

__all__ = ["Cylinder3DWeights"]

_POINTS = "cylinder_3d_generator."
_VOXELS = "cylinder_3d_spconv_seg."
_FIRST = f"{_VOXELS}downCntx.conv1.weight"
_AXES = 5  # of a sparse kernel
_BRANCHES = {
    "conv1": "first.0.0",
    "bn0": "first.0.2",
    "conv1_2": "first.1.0",
    "bn0_2": "first.1.2",
    "conv2": "second.0.0",
    "bn1": "second.0.2",
    "conv3": "second.1.0",
    "bn2": "second.1.2",
}
_DOWN = {name: f"block.{ours}" for name, ours in _BRANCHES.items()} | {"pool": "pool"}
_UP = {
    "trans_dilao": "spread.0",
    "trans_bn": "spread.2",
    "up_subm": "up",
    "conv1": "refine.0.0",
    "bn1": "refine.0.2",
    "conv2": "refine.1.0",
    "bn2": "refine.1.2",
    "conv3": "refine.2.0",
    "bn3": "refine.2.2",
}
_GATES = {
    "conv1": "0.0",
    "bn0": "0.1",
    "conv1_2": "1.0",
    "bn0_2": "1.1",
    "conv1_3": "2.0",
    "bn0_3": "2.1",
}


def _part(block: str, parts: Mapping[str, str], first: int = 0) -> Callable[[re.Match[str]], str]:
    """What stands in place of a block's number and part; numbers count from ``first`` there, from 0 here."""

    def replace(match: re.Match[str]) -> str:
        *numbers, part = match.groups()
        ours = block.format(*(int(number) - first for number in numbers))
        return f"{ours}{parts.get(part, part)}."

    return replace


_TABLE = Table(
    rules=(
        (re.escape(_POINTS) + r"PPmodel\.", "point_network.points."),
        (re.escape(_POINTS) + r"fea_compression\.", "point_network.voxels."),
        (re.escape(_VOXELS) + r"downCntx\.(\w+)\.", _part("stem.", _BRANCHES)),
        (re.escape(_VOXELS) + r"resBlock(\d)\.(\w+)\.", _part("downs.{}.", _DOWN, first=2)),
        (re.escape(_VOXELS) + r"upBlock(\d)\.(\w+)\.", _part("ups.{}.", _UP)),
        (re.escape(_VOXELS) + r"ReconNet\.(\w+)\.", _part("context.gates.", _GATES)),
        (re.escape(_VOXELS) + r"logits\.", "head."),
    )
)
_PAPER = kernels_of("paper")
_BRANCH_CONVS = ("conv1", "conv1_2", "conv2", "conv3")
_DECLARED = {  # kernels of the convolutions by block; all others are cubes
    "downCntx": dict(zip(_BRANCH_CONVS, _PAPER.stem)),
    "resBlock": dict(zip(_BRANCH_CONVS, _PAPER.down)),
    "upBlock": dict(zip(("conv1", "conv2", "conv3"), _PAPER.up)),
    "ReconNet": dict(zip(("conv1", "conv1_2", "conv1_3"), _PAPER.context)),
}


def _declared(name: str) -> tuple[int, int, int]:
    """The kernel that a published convolution was built with."""
    block, conv = (name.removeprefix(_VOXELS).split(".") + [""])[:2]
    return _DECLARED.get(block.rstrip("0123456789"), {}).get(conv, CUBE)


@dataclass
class _Taps:
    """What became of a file's taps.

    Attributes:
        idle: values of taps that never act. lost: those of them that are not finite.
    """

    idle: int = 0
    lost: int = 0

    def note(self) -> str:
        """For a person."""
        return (
            f"{self.idle} values of kernels never act in these weights and are left out, {self.lost} of them not "
            "finite: spconv 1 let convolutions share the neighbours of another kernel"
        )


class Cylinder3DWeights(Family):
    """``state_dict`` files of Cylinder3D and PVKD, 274 tensors, in the layout of spconv 1 or 2; they know class 0."""

    title: ClassVar[str] = "Cylinder3D"
    networks: ClassVar[tuple[str, ...]] = ("cylinder3d",)
    needed: ClassVar[Mapping[str, Mapping[str, object]]] = {"cylinder3d": {"asym_mode": "released"}}

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By its first convolution."""
        return _FIRST in names

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename; bring kernels to the neighbours that act.

        Raises:
            UserError: a kernel has another shape than the published network's, or values that act are not finite.
        """
        channels_first = _channels_first(weights, target.file)
        made, taps = Translated(), _Taps()
        for name, tensor in weights.items():
            ours = _TABLE.rename(name)
            if tensor.dim() != _AXES:
                made.network[ours] = tensor
                continue
            if channels_first:
                tensor = tensor.permute(1, 2, 3, 4, 0)
            conv = _convolution(target.network, ours.removesuffix(".weight"))
            if conv is None:  # named by whoever loads the weights
                made.network[ours] = tensor
                continue
            _check_shape(name, tensor, target.file)
            kernel = _acting(tensor, conv, taps)
            _check_finite(name, kernel, target.file)
            made.network[ours.removesuffix("weight") + "kernel"] = kernel
        if taps.idle:
            made.notes.append(taps.note())
        return made


def _channels_first(weights: Weights, file: str) -> bool:
    """Whether kernels are [out, k, k, k, in], spconv 2's layout, and not [k, k, k, in, out], spconv 1's.

    Raises:
        UserError: neither.
    """
    first = weights.get(_FIRST)
    if first is not None and first.dim() == _AXES:
        for start in (0, 1):
            if tuple(first.shape[start : start + 3]) == _declared(_FIRST):
                return start == 1
    found = "absent" if first is None else str(list(first.shape))
    raise UserError(
        f"'{_FIRST}' is {found}; expected [1, 3, 3, in, out], or [out, 1, 3, 3, in]",
        where=file,
        cure="These are no weights of Cylinder3D as published",
    )


def _convolution(network: nn.Module, path: str) -> Conv3d | None:
    """The convolution of a network at ``path``, None if there is none."""
    found = dict(network.named_modules()).get(path)
    return found if isinstance(found, Conv3d) else None


def _check_shape(name: str, weight: Tensor, file: str) -> None:
    """Refuse a kernel [k, k, k, in, out] of other sizes than the published one."""
    size = tuple(weight.shape[:3])
    if size != _declared(name):
        raise UserError(
            f"the kernel '{name}' is {size} cells along range, azimuth and height; the published one is "
            f"{_declared(name)}",
            where=file,
            cure="These are weights of another network",
        )


def _acting(weight: Tensor, conv: Conv3d, taps: _Taps) -> Tensor:
    """The taps of a kernel [k, k, k, in, out] that act, in this project's order [K, in, out].

    spconv counts taps with height running fastest. Its shared neighbours are used up to their own number: tap i of a
    kernel meets neighbour i, whatever its place in the kernel was, and later taps meet none.
    """
    size = conv.kernel_size
    volume = size[0] * size[1] * size[2]
    flat = weight.flatten(0, 2)
    idle = flat[volume:]
    taps.idle += idle.numel()
    taps.lost += int((~idle.isfinite()).sum())
    kernel = flat[:volume].unflatten(0, size)
    return kernel.permute(2, 1, 0, 3, 4).flatten(0, 2).contiguous()


def _check_finite(name: str, kernel: Tensor, file: str) -> None:
    """Refuse values that act and are no numbers."""
    lost = int((~kernel.isfinite()).sum())
    if lost:
        raise UserError(
            f"{lost} of {kernel.numel()} values of '{name}' are not finite",
            where=file,
            cure="If they are the idle taps of the released weights: model.asym_mode: released",
        )
