"""SwiftNet as a map from images to its decoded features, with the weights that a training of ``lidar_camera`` left."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from core.models.image.swiftnet import STAGES, ImageConfig, SwiftNet
from core.models.image.weights import load_encoder, read_weights

__all__ = ["SWIFTNET", "SwiftNetMap"]

SWIFTNET = "swiftnet"  # distill.image.encoder
CONFIG = ImageConfig(stem_stride=2)  # ResNet-18, and a decoder of 128 channels


class SwiftNetMap(nn.Module):
    """SwiftNet over ResNet-18, decoded to stride 4."""

    channels = CONFIG.decoder_channels

    def __init__(self) -> None:
        super().__init__()
        self.net = SwiftNet(CONFIG)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> [N, 128, H / 4, W / 4]."""
        x = self.net.encoder.stem(images)
        skips = []
        for i in range(STAGES):
            x, skip = self.net.stage(i, x)
            skips.append(skip)
        return self.net.decode(skips)

    def load_pretrained(self, path: Path) -> None:
        """A checkpoint of a run whose ``model.image`` is ``{encoder: resnet18, stem_stride: 2}``, e.g. its best.pt.

        Raises:
            UserError: see :func:`load_encoder`.
        """
        load_encoder(self.net, read_weights(path), path)
