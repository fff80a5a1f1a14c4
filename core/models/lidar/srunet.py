"""SR-UNet: MinkowskiEngine's Res16UNet34C (Choy et al., CVPR 2019), the network of SLidR, PPKT and PointContrast."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.lidar.blocks import (
    ConvBlock,
    Factor,
    Residual,
    UpBlock,
    scaled_channels,
    sparse_output,
)
from core.sparse import SparseTensor

__all__ = ["SRUNet"]

_BLOCKS = (2, 3, 4, 6)  # residual blocks of the encoder's stages


class SRUNet(nn.Module):
    """Cells -> logits, or an embedding, per cell. Strides 1, 2, 4, 8, 16 and back.

    Kernels are drawn as MinkowskiEngine draws them, from U(-b, b) with b = 1/sqrt(fan K), and ``final`` with its bias
    alike; an even kernel reaches from 0. Batch norms within residual blocks keep torch's momentum.

    Args:
        config: see :class:`SRUNet.Config`.
        num_classes: outputs; classes including class 0 (ignore), or values of an embedding.
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels", "cylinder")

    class Config(Section):
        """``model:`` section."""

        name: Literal["srunet"] = Field(description="the network")
        cr: Factor = Field(1.0, description="factor on every channel count")
        kernel_size: Literal[3, 5, 7] = Field(3, description="of the first convolution; SLidR: 3")
        bn_momentum: float = Field(
            0.1,
            gt=0,
            lt=1,
            description="of batch norms outside of residual blocks; SLidR: 0.05 to pre-train, 0.02 to fine-tune",
        )
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        cs, momentum = scaled_channels(config.cr), config.bn_momentum
        self.stem = ConvBlock(config.in_channel, cs[0], config.kernel_size, momentum=momentum)
        self.downs = nn.ModuleList()
        for i, blocks in enumerate(_BLOCKS):
            self.downs.append(_down_stage(cs[i], cs[i + 1], blocks, momentum))
        self.ups = nn.ModuleList(
            UpBlock(cs[i], cs[i + 1], cs[7 - i], momentum) for i in range(4, 8)
        )
        self.final = nn.Linear(cs[8], num_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's order of cells; stages = encoder, then decoder outputs."""
        x = self.stem(SparseTensor.of(batch.cells, batch.feats))
        skips, stages = [], []
        for down in self.downs:
            skips.append(x)
            x = down(x)
            stages.append(x)
        for up in self.ups:
            x = up(x, skips.pop())
            stages.append(x)
        return sparse_output(self.final(x.feats), stages, encoder=len(self.downs))


def _down_stage(cin: int, cout: int, blocks: int, momentum: float) -> nn.Sequential:
    """Stride-2 convolution and residual blocks."""
    layers: list[nn.Module] = [ConvBlock(cin, cin, 2, 2, momentum=momentum)]
    layers.append(Residual(cin, cout, momentum))
    for _ in range(blocks - 1):
        layers.append(Residual(cout, cout))
    return nn.Sequential(*layers)
