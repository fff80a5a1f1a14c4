"""Blocks of MotionBEV on the polar image [B, C, range, azimuth], whose azimuth closes on itself."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.fast.ring import closed_ring
from core.models.lidar.polar_inference import FoldedBlock, FoldedGate, FoldedUp, Shifted
from core.sparse.fold import FoldsNorm

__all__ = [
    "CoAttention",
    "DropBlock",
    "DySample",
    "ImageNorm",
    "PolarBlock",
    "PolarConv",
    "Seam",
    "UpBlock",
    "Upsampling",
]

Seam = Literal["closed", "published"]
Upsampling = Literal["dysample", "transposed"]
_HIDDEN = 32  # channels in which a gate looks at both branches
_GROUPS = 4  # of channels with a sampling field each
_SCALE = 2
_STEP = 0.25  # of a pixel: what the offset layer's output is multiplied by
_BLOCK = 7  # px, edge of what DropBlock drops
_SLOPE = 0.01


class PolarConv(FoldsNorm):
    """3x3 convolution: zeros beyond the range, the other end of the circle beyond the azimuth."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(cin, cout, 3, padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, cin, H, W] -> [B, cout, H, W]."""
        return super().forward(closed_ring(x))


class PolarBlock(nn.Sequential):
    """Twice convolution, batch normalisation and leaky rectifier."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(
            PolarConv(cin, cout), nn.BatchNorm2d(cout), nn.LeakyReLU(_SLOPE),
            PolarConv(cout, cout), nn.BatchNorm2d(cout), nn.LeakyReLU(_SLOPE),
        )  # fmt: skip

    def folded(self) -> FoldedBlock:
        """For :func:`core.sparse.fold_batch_norm`, once the batch normalisations below are gone."""
        first, second = (layer for layer in self if isinstance(layer, PolarConv))
        return FoldedBlock(first, second, _SLOPE)


class ImageNorm(nn.BatchNorm2d):
    """Normalises the image that a branch begins with."""

    def folded(self) -> Shifted:
        """For :func:`core.sparse.fold_batch_norm`: for the values of the columns, before they are an image."""
        return Shifted(self)


class CoAttention(nn.Module):
    """Lets the motion branch weigh the appearance branch, pixel by pixel and channel by channel.

    ``g`` are two scalars per scan, ``s`` a map, ``v`` a vector: ``u = s g_0 a`` and the output is ``u v + g_0 a``.

    Args:
        appearance, motion: channels. unused: also hold the channel and the spatial attention that the published
            network owns and never calls, so that its parameters are as many; they do not learn.
    """

    def __init__(self, appearance: int, motion: int, *, unused: bool = False) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            PolarConv(appearance + motion, _HIDDEN), nn.BatchNorm2d(_HIDDEN), nn.LeakyReLU(_SLOPE),
            PolarConv(_HIDDEN, 2),
        )  # fmt: skip
        self.place = nn.Conv2d(motion, 1, 1)
        self.channel = nn.Conv2d(appearance, appearance, 1)
        if unused:
            narrow = max(appearance // 32, 1)
            self.unused = nn.ModuleList(
                [
                    nn.Conv2d(appearance, narrow, 1, bias=False),
                    nn.Conv2d(narrow, appearance, 1, bias=False),
                    nn.Conv2d(2, 1, 3, bias=False),
                ]
            ).requires_grad_(False)

    def forward(self, appearance: Tensor, motion: Tensor) -> Tensor:
        """[B, Ca, H, W] and [B, Cm, H, W] -> [B, Ca, H, W]."""
        g = self.gate(torch.cat([appearance, motion], 1)).sigmoid().mean((2, 3), keepdim=True)
        a = g[:, :1] * appearance
        u = self.place(g[:, 1:] * motion).sigmoid() * a
        v = self.channel(u.mean((2, 3), keepdim=True)).softmax(1) * a.shape[1]
        out: Tensor = u * v + a
        return out

    def folded(self) -> FoldedGate:
        """For :func:`core.sparse.fold_batch_norm`, once the batch normalisations below are gone."""
        first, second = (layer for layer in self.gate if isinstance(layer, PolarConv))
        return FoldedGate(first, second, _SLOPE, self.place, self.channel)


class DySample(nn.Module):
    """Upsampling to twice the size at learnt places (DySample, Liu et al., ICCV 2023).

    The variant "linear + pixel shuffle" with a static scope. A layer of zeros makes it bilinear.

    Args:
        channels: a multiple of 4. seam: "closed" samples across the ends of the azimuth, "published" stops there.
    """

    base: Tensor

    def __init__(self, channels: int, seam: Seam) -> None:
        super().__init__()
        self.seam = seam
        self.offset = nn.Conv2d(channels, 2 * _GROUPS * _SCALE**2, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        assert self.offset.bias is not None, "as asked for"
        nn.init.zeros_(self.offset.bias)
        quarter = torch.tensor([-0.25, 0.25])
        rows, columns = torch.meshgrid(quarter, quarter, indexing="ij")
        base = torch.stack([columns.flatten(), rows.flatten()])  # x and y of the four sub-pixels
        base = base[:, None].expand(2, _GROUPS, _SCALE**2).reshape(1, -1, 1, 1)
        self.register_buffer("base", base.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        batch, channels, height, width = x.shape
        offset = self.offsets(x).view(batch, 2, -1, height, width)
        row = torch.arange(height, device=x.device, dtype=offset.dtype) + 0.5
        column = torch.arange(width, device=x.device, dtype=offset.dtype) + 0.5
        across = offset[:, 0] + column  # [B, groups * 4, H, W] px, pixel 0 reaching from 0 to 1
        along = offset[:, 1] + row[:, None]
        image = x
        if self.seam == "closed":
            image = closed_ring(x)
            across = across.remainder(width) + 1
        places = torch.stack([2 * across / image.shape[3] - 1, 2 * along / height - 1], -1)
        shape = (batch * _GROUPS, _SCALE, _SCALE, height, width, 2)
        field = places.view(shape).permute(0, 3, 1, 4, 2, 5)
        field = field.reshape(batch * _GROUPS, _SCALE * height, _SCALE * width, 2)
        grouped = image.reshape(batch * _GROUPS, channels // _GROUPS, height, image.shape[3])
        sampled = F.grid_sample(
            grouped, field.to(grouped.dtype), padding_mode="border", align_corners=False
        )
        return sampled.view(batch, channels, _SCALE * height, _SCALE * width)

    def offsets(self, x: Tensor) -> Tensor:
        """F32 [B, 2 * groups * 4, H, W] px from a pixel's centre: across, then along; by group, then sub-pixel."""
        return (_STEP * self.offset(x) + self.base).float()


class DropBlock(nn.Module):
    """Drops squares of the image, the same for all channels, in training alone (Ghiasi et al., NeurIPS 2018).

    Args:
        chance: that a pixel is dropped, but for overlaps.
    """

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same; the sum is kept by the share that stays."""
        if not self.training or self.chance == 0:
            return x
        seeds = torch.rand_like(x[:, :1], dtype=torch.float32) < self.chance / _BLOCK**2
        dropped = F.max_pool2d(seeds.float(), _BLOCK, stride=1, padding=_BLOCK // 2)
        kept = 1 - dropped
        share = kept.mean().clamp_min(1 / kept.numel())
        return x * (kept / share).to(x.dtype)


class UpBlock(nn.Module):
    """Upsamples, joins the encoder's features of the finer level, convolves.

    Args:
        deep, skip, cout: channels of what is upsampled, of the encoder's features, and of the output.
    """

    def __init__(
        self,
        deep: int,
        skip: int,
        cout: int,
        seam: Seam,
        dropblock: float,
        upsampling: Upsampling = "dysample",
    ) -> None:
        super().__init__()
        self.seam = seam
        self.up: nn.Module = DySample(deep, seam)
        if upsampling == "transposed":
            self.up = nn.ConvTranspose2d(deep, deep, _SCALE, stride=_SCALE)
        self.block: nn.Module = PolarBlock(deep + skip, cout)
        self.drop = DropBlock(dropblock)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """[B, deep, h, w] and [B, skip, H, W] -> [B, cout, H, W]."""
        raised = self.up(deep)
        down, right = (skip.shape[i] - raised.shape[i] for i in (2, 3))
        if right:  # a pooling has left a column over
            mode = "circular" if self.seam == "closed" else "constant"
            raised = F.pad(raised, (0, right, 0, 0), mode=mode)
        if down:
            raised = F.pad(raised, (0, 0, 0, down))
        out: Tensor = self.drop(self.block(torch.cat([skip, raised], 1)))
        return out

    def folded(self) -> FoldedUp:
        """For :func:`core.sparse.fold_batch_norm`, once the batch normalisations below are gone."""
        assert isinstance(self.block, FoldedBlock), "folded before"
        return FoldedUp(self.up, self.block, self.seam == "closed")
