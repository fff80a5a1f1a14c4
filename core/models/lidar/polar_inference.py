"""Blocks of MotionBEV for inference: the same values with fewer passes over the maps.

Batch norms are part of the convolutions, whose weights lie ready in the number type in use. A map that several join is
written once, with the columns beyond its ends, where the next convolution reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.fast.gating import weigh_
from core.fast.rectified import leaky_conv, relu_linear
from core.fast.twice import sample_twice
from core.sparse.fold import affine

__all__ = [
    "FoldedBlock",
    "FoldedConv",
    "FoldedGate",
    "FoldedPerceptron",
    "FoldedUp",
    "Shifted",
    "joined_ring",
    "number_type",
]


def number_type(x: Tensor) -> torch.dtype:
    """What a convolution of ``x`` computes in: that of autocast, or its own."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class Shifted(nn.Module):
    """What a batch normalisation of images does in evaluation mode: scale and add.

    Attributes:
        scale, shift: [C]; the shift is what 0 becomes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = affine(norm)
        self.register_buffer("scale", scale.to(norm.weight.dtype))
        self.register_buffer("shift", shift.to(norm.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        return self.of_rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_rows(self, values: Tensor) -> Tensor:
        """[..., C] -> the same."""
        return torch.addcmul(self.shift, values, self.scale)


class _Ready(nn.Module):
    """A layer's weights, kept in each number type that was asked for.

    Args:
        layer: with a bias.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._ready: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight, of convolutions with channels last in memory, and bias."""
        ready = self._ready.get(dtype)
        if ready is None or ready[0].device != self.weight.device:
            weight = self.weight.to(dtype)
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            assert self.bias is not None, "as folded"
            ready = self._ready[dtype] = (weight, self.bias.to(dtype))
        return ready


class FoldedConv(_Ready):
    """Convolution 3x3 of a ring, zeros beyond the range.

    Args:
        conv: its weights. slope: of the leaky rectifier behind it, None = without.
    """

    def __init__(self, conv: nn.Conv2d, slope: float | None) -> None:
        super().__init__(conv)
        self.slope = slope

    def forward(self, ring: Tensor, *, again: bool) -> Tensor:
        """[B, cin, H, W + 2] -> [B, cout, H, W], or W + 2 and closed, where ``again`` says so."""
        weight, bias = self.weights(ring.dtype)
        padding = (1, int(again))
        if self.slope is None:
            out = F.conv2d(ring, weight, bias, padding=padding)
        else:
            out = leaky_conv(ring, weight, bias, padding, self.slope)
        return close(out) if again else out


class FoldedPerceptron(nn.Module):
    """Linear layers with ReLU between them, ``layers`` in their order."""

    def __init__(self, layers: Iterable[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Ready(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin] -> [N, cout]."""
        last = len(self.layers) - 1
        x = x.to(number_type(x))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Ready), "as built"
            weight, bias = layer.weights(x.dtype)
            x = F.linear(x, weight, bias) if number == last else relu_linear(x, weight, bias)
        return x


class FoldedBlock(nn.Module):
    """Two convolutions with leaky rectifiers."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, slope: float) -> None:
        super().__init__()
        self.first, self.second = FoldedConv(first, slope), FoldedConv(second, slope)

    def forward(self, x: Tensor) -> Tensor:
        """[B, cin, H, W] -> [B, cout, H, W]."""
        return self.of_ring(joined_ring([x]))

    def of_ring(self, ring: Tensor) -> Tensor:
        """[B, cin, H, W + 2] -> [B, cout, H, W]."""
        return self.second(self.first(ring, again=True), again=False)


class FoldedGate(nn.Module):
    """``CoAttention``: the appearance is multiplied by ``g_0 + s v g_0``, once and in place.

    Args:
        first, second: convolutions of the gate. place, channel: as there.
    """

    def __init__(
        self,
        first: nn.Conv2d,
        second: nn.Conv2d,
        slope: float,
        place: nn.Conv2d,
        channel: nn.Conv2d,
    ) -> None:
        super().__init__()
        self.first, self.second = FoldedConv(first, slope), FoldedConv(second, None)
        self.place, self.channel = place, channel

    def forward(self, appearance: Tensor, motion: Tensor) -> Tensor:
        """[B, Ca, H, W] and [B, Cm, H, W] -> the first, changed."""
        ring = joined_ring([appearance, motion])
        gates = _wide(self.second(self.first(ring, again=True), again=False)).sigmoid()
        g = gates.mean((2, 3))  # [B, 2]
        pixels = appearance.permute(0, 2, 3, 1)
        flat = pixels.flatten(1, 2)
        s = self._places(motion, g[:, 1])
        total = (s[:, None].to(flat.dtype) @ flat)[:, 0]
        mean = _wide(total) / flat.shape[1] * g[:, :1]  # of s g_0 a
        logits = self.channel(mean[:, :, None, None])[:, :, 0, 0]
        v = _wide(logits).softmax(1) * flat.shape[2]
        weighed = weigh_(flat, s, v * g[:, :1], g[:, 0])
        return weighed.view(pixels.shape).permute(0, 3, 1, 2)

    def _places(self, motion: Tensor, g: Tensor) -> Tensor:
        """``s`` [B, H W]; g: [B]."""
        assert self.place.bias is not None, "as built"
        seen = F.linear(motion.permute(0, 2, 3, 1), self.place.weight.flatten(1))
        return torch.addcmul(self.place.bias, _wide(seen).flatten(1), g[:, None]).sigmoid()


@runtime_checkable
class Sampler(Protocol):
    """Upsampling at places of its own."""

    def offsets(self, x: Tensor) -> Tensor:
        """Those of :class:`core.models.lidar.polar_blocks.DySample`."""


class FoldedUp(nn.Module):
    """``UpBlock``: upsampling writes into the map that the block reads.

    Args:
        up: makes a map twice the size; a ``Sampler`` is asked for places alone. block: folded. closed: the azimuth is.
    """

    def __init__(self, up: nn.Module, block: FoldedBlock, closed: bool) -> None:
        super().__init__()
        self.up, self.block, self.closed = up, block, closed

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """[B, deep, h, w] and [B, skip, H, W] -> [B, cout, H, W]."""
        ring = empty_ring(skip, skip.shape[1] + deep.shape[1])
        ring[:, : skip.shape[1], :, 1:-1] = skip
        raised = ring[:, skip.shape[1] :, :, 1:-1]
        height, width = (2 * size for size in deep.shape[2:])
        compiled = ring.dtype in (torch.float32, torch.bfloat16) and ring.device.type == "cpu"
        if compiled and isinstance(self.up, Sampler):
            offsets = self.up.offsets(deep).permute(0, 2, 3, 1)
            target, corner = ring.permute(0, 2, 3, 1), (1, skip.shape[1])
            sample_twice(
                deep.permute(0, 2, 3, 1).float(), offsets, target, corner, closed=self.closed
            )
        else:
            raised[:, :, :height, :width] = self.up(deep)
        if width < raised.shape[3]:  # a pooling has left a column over
            raised[..., width:] = raised[..., : raised.shape[3] - width] if self.closed else 0
        raised[:, :, height:] = 0
        return self.block.of_ring(close(ring))


def empty_ring(like: Tensor, channels: int) -> Tensor:
    """[B, channels, H, W + 2] of any values, channels last in memory, for a map [B, C, H, W]."""
    batch, _, height, width = like.shape
    made = like.new_empty(batch, height, width + 2, channels, dtype=number_type(like))
    return made.permute(0, 3, 1, 2)


def joined_ring(maps: Sequence[Tensor]) -> Tensor:
    """The channels of maps [B, C, H, W] behind one another, closed: [B, sum of C, H, W + 2]."""
    ring = empty_ring(maps[0], sum(x.shape[1] for x in maps))
    first = 0
    for x in maps:
        ring[:, first : first + x.shape[1], :, 1:-1] = x
        first += x.shape[1]
    return close(ring)


def close(ring: Tensor) -> Tensor:
    """Give the columns beyond the ends the values of the other end, in place."""
    ring[..., 0] = ring[..., -2]
    ring[..., -1] = ring[..., 1]
    return ring


def _wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
