"""Blocks of Cylinder3D's segmentation network: asymmetric residual blocks and dimension-decomposed context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.sparse import Conv3d, SparseBatchNorm, SparseLeakyReLU, SparseTensor

__all__ = [
    "STEPS",
    "AsymMode",
    "AsymmetricBlock",
    "ContextBlock",
    "DownBlock",
    "Kernels",
    "UpBlock",
    "kernels_of",
]

Kernel = tuple[int, int, int]
AsymMode = Literal["paper", "released"]

SLOPE = 0.01  # of every leaky rectifier
ACROSS: Kernel = (1, 3, 3)  # azimuth and height
ALONG: Kernel = (3, 1, 3)  # range and height
CUBE: Kernel = (3, 3, 3)
RANGE: Kernel = (3, 1, 1)
STEPS: tuple[Kernel, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))  # of the four poolings


@dataclass(frozen=True)
class Kernels:
    """Kernels of the convolutions along range, azimuth and height, by block, in the order in which they are built.

    Attributes:
        stem, down: of the first branch, then of the second one. up: after a skip. context: of the three gates.
    """

    stem: tuple[Kernel, Kernel, Kernel, Kernel]
    down: tuple[Kernel, Kernel, Kernel, Kernel]
    up: tuple[Kernel, Kernel, Kernel]
    context: tuple[Kernel, Kernel, Kernel]


_PAPER = Kernels(
    stem=(ACROSS, ALONG, ALONG, ACROSS),
    down=(ALONG, ACROSS, ACROSS, ALONG),
    up=(ACROSS, ALONG, CUBE),
    context=(RANGE, (1, 3, 1), (1, 1, 3)),
)
# spconv 1 keeps the neighbours of the first convolution of a key for all others of that key, whatever their kernels,
# and the released network gives all convolutions of a block one key.
_RELEASED = Kernels(
    stem=(ACROSS,) * 4,
    down=(ALONG,) * 4,
    up=(ACROSS,) * 3,
    context=(RANGE,) * 3,
)


def kernels_of(mode: AsymMode) -> Kernels:
    """The kernels that act: those of the paper, or those of the released weights."""
    return _PAPER if mode == "paper" else _RELEASED


def conv_block(cin: int, cout: int, kernel: Kernel) -> nn.Sequential:
    """Convolution - LeakyReLU - BN, in this order.

    What the convolution returns is needed no more, so the rectifier overwrites it: a third less is kept for the
    backward pass.
    """
    return nn.Sequential(
        Conv3d(cin, cout, kernel), SparseLeakyReLU(SLOPE, inplace=True), SparseBatchNorm(cout)
    )


class AsymmetricBlock(nn.Module):
    """Sum of two branches of two convolutions each.

    Args:
        kernels: of the first branch, then of the second one.
    """

    def __init__(self, cin: int, cout: int, kernels: tuple[Kernel, Kernel, Kernel, Kernel]) -> None:
        super().__init__()
        a, b, c, d = kernels
        self.first = nn.Sequential(conv_block(cin, cout, a), conv_block(cout, cout, b))
        self.second = nn.Sequential(conv_block(cin, cout, c), conv_block(cout, cout, d))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V, cout]."""
        first = self.first(x)
        return first.replace(first.feats + self.second(x).feats)


class DownBlock(nn.Module):
    """Asymmetric block, and a learned pooling of kernel 3 and padding 1."""

    def __init__(self, cin: int, cout: int, kernels: Kernels, step: Kernel) -> None:
        super().__init__()
        self.block = AsymmetricBlock(cin, cout, kernels.down)
        self.pool = Conv3d(cout, cout, CUBE, step)

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """[V, cin] -> [V', cout] on the coarser voxels, and [V, cout], the skip."""
        skip = self.block(x)
        return self.pool(skip), skip


class UpBlock(nn.Module):
    """Convolution, back to the voxels of the skip, its addition, and three convolutions."""

    def __init__(self, cin: int, cout: int, kernels: Kernels, step: Kernel) -> None:
        super().__init__()
        self.spread = conv_block(cin, cout, CUBE)
        self.up = Conv3d(cout, cout, CUBE, step, transposed=True)
        self.refine = nn.Sequential(*(conv_block(cout, cout, kernel) for kernel in kernels.up))

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """[V, cin] and the skip [V', cout] -> [V', cout]."""
        x = self.up(self.spread(x))
        return self.refine(x.replace(x.feats + skip.feats))


class ContextBlock(nn.Module):
    """Dimension-decomposed context: the sum of three gates ``sigmoid(BN(conv x))``, times x."""

    def __init__(self, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.gates = nn.ModuleList()
        for kernel in kernels.context:
            self.gates.append(nn.Sequential(Conv3d(width, width, kernel), SparseBatchNorm(width)))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, width] -> [V, width]."""
        open_: list[Tensor] = [torch.sigmoid(gate(x).feats) for gate in self.gates]
        return x.replace((open_[0] + open_[1] + open_[2]) * x.feats)
