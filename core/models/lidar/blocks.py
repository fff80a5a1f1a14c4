"""Blocks of the sparse U-Nets (MinkUNet, SPVCNN and what builds on them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from core.contracts import Batch, Output
from core.sparse import Conv3d, SparseBatchNorm, SparseReLU, SparseStage, SparseTensor, cat

__all__ = [
    "CHANNELS",
    "ConvBlock",
    "Factor",
    "Fusion",
    "Residual",
    "UpBlock",
    "down_stage",
    "scaled_channels",
    "sparse_output",
    "stem",
]

# What joins an encoder with another network: (stage from 0, its output, batch) -> (what the next stage and the decoder
# see, the same at the batch's voxels [SV, C]).
Fusion = Callable[[int, SparseTensor, Batch], tuple[SparseTensor, Tensor]]
MOMENTUM = 0.1  # of batch statistics, torch's own
CHANNELS = (
    32,
    32,
    64,
    128,
    256,
    256,
    128,
    96,
    96,
)  # stem, 4 encoder stages, 4 decoder stages (Choy et al., CVPR 2019)


def check_factor(cr: float) -> float:
    """The factor on all widths, where every layer keeps a channel.

    Raises:
        ValueError: one would have none.
    """
    if int(cr * min(CHANNELS)) < 1:
        raise ValueError(f"leaves layers without a channel; at least {1 / min(CHANNELS)}")
    return cr


def scaled_channels(cr: float) -> tuple[int, ...]:
    """``int(cr * c)`` for the nine channel counts of the U-Net."""
    return tuple(int(cr * c) for c in CHANNELS)


def sparse_output(logits: Tensor, stages: Sequence[SparseTensor], encoder: int) -> Output:
    """Output of a network of sparse stages, the first ``encoder`` of them the encoder's."""
    return Output(logits, tuple(SparseStage(stage) for stage in stages), encoder)


# ``cr`` of a configuration; widths beyond 8 times the published ones would not fit into memory.
Factor = Annotated[float, Field(gt=0, le=8), AfterValidator(check_factor)]


class ConvBlock(nn.Module):
    """Convolution - BN - ReLU; ``momentum`` of the statistics."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel_size: int = 3,
        stride: int = 1,
        transposed: bool = False,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Conv3d(cin, cout, kernel_size, stride, transposed=transposed),
            SparseBatchNorm(cout, momentum=momentum),
            SparseReLU(),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V', cout]."""
        return self.net(x)


class Residual(nn.Module):
    """``ReLU(conv3-BN-ReLU-conv3-BN (x) + shortcut(x))``; the shortcut is 1x1 conv-BN where the width changes.

    Args:
        cin, cout: channels. momentum: of the shortcut's statistics.
    """

    def __init__(self, cin: int, cout: int, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Conv3d(cin, cout, 3),
            SparseBatchNorm(cout),
            SparseReLU(),
            Conv3d(cout, cout, 3),
            SparseBatchNorm(cout),
        )
        self.downsample = (
            nn.Identity()
            if cin == cout
            else nn.Sequential(Conv3d(cin, cout, 1), SparseBatchNorm(cout, momentum=momentum))
        )
        self.relu = nn.ReLU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V, cout]."""
        return x.replace(self.relu(self.net(x).feats + self.downsample(x).feats))

    def folded(self) -> nn.Module:
        """For :func:`core.sparse.fold_batch_norm`, once the batch normalisations below are gone."""
        first, second = self.net[0], self.net[3]
        assert isinstance(first, Conv3d), "as built above"
        assert isinstance(second, Conv3d), "as built above"
        return _FoldedResidual(first, second, self.downsample)


class _FoldedResidual(nn.Module):
    """:class:`Residual` as two convolutions; the second adds the shortcut and rectifies as it writes."""

    def __init__(self, first: Conv3d, second: Conv3d, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut
        self.second.relu = True

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V, cout]."""
        return self.second(self.first(x), self.shortcut(x).feats)


def stem(cin: int, cout: int) -> nn.Sequential:
    """Two 3x3x3 convolutions with BN and ReLU at stride 1."""
    first, second = ([Conv3d(c, cout, 3), SparseBatchNorm(cout), SparseReLU()] for c in (cin, cout))
    return nn.Sequential(*first, *second)


def down_stage(cin: int, cout: int) -> nn.Sequential:
    """Stride-2 convolution and two residual blocks."""
    return nn.Sequential(ConvBlock(cin, cin, 2, 2), Residual(cin, cout), Residual(cout, cout))


class UpBlock(nn.ModuleList):
    """Transposed stride-2 convolution, concatenation with the skip, two residual blocks."""

    def __init__(self, cin: int, cout: int, skip: int, momentum: float = MOMENTUM) -> None:
        super().__init__(
            [
                ConvBlock(cin, cout, 2, 2, transposed=True, momentum=momentum),
                nn.Sequential(Residual(cout + skip, cout, momentum), Residual(cout, cout)),
            ]
        )

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """[V, cin] and skip [V', skip] -> [V', cout]."""
        return self[1](cat([self[0](x), skip]))
