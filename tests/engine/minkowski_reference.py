"""Res16UNet34C by its published names, on a literal MinkowskiEngine: coordinates in a dictionary, tap after tap.

Written from what MinkowskiEngine says of itself: tap i of a kernel of side k stands at (i % k, i // k % k, i // k^2)
along the first, second and third axis, less (k - 1) / 2 where k is odd; a strided convolution rounds coordinates down
to multiples of its stride; a transposed one has the pairs of the strided one, the other way round.
"""

from __future__ import annotations

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Place = tuple[int, int, int]

BLOCKS = (2, 3, 4, 6, 2, 2, 2, 2)
WIDTHS = (32, 64, 128, 256, 256, 128, 96, 96)  # of the blocks' outputs
STRIDES = ("conv1p1s2", "conv2p2s2", "conv3p4s2", "conv4p8s2")
BACK = ("convtr4p16s2", "convtr5p8s2", "convtr6p4s2", "convtr7p2s2")


def published_unet(outputs: int = 64, values: int = 1, cr: float = 1.0, seed: int = 0) -> Weights:
    """The ``state_dict`` of the authors' class: the widths of the blocks, times ``cr``."""
    generator = torch.Generator().manual_seed(seed)
    stem, *blocks = (int(cr * width) for width in (32, *WIDTHS))
    made: Weights = {}

    def conv(name: str, *shape: int) -> None:
        scale = (1.5 / (shape[-2] * (shape[0] if len(shape) == 3 else 1))) ** 0.5
        made[f"{name}.kernel"] = scale * torch.randn(shape, generator=generator)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "running_var"):
            made[f"{name}.bn.{part}"] = torch.rand(width, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            made[f"{name}.bn.{part}"] = 0.2 * torch.randn(width, generator=generator)
        made[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def block(number: int, entering: int) -> None:
        width = blocks[number - 1]
        for i in range(BLOCKS[number - 1]):
            path = f"block{number}.{i}"
            conv(f"{path}.conv1", 27, entering if i == 0 else width, width)
            norm(f"{path}.norm1", width)
            conv(f"{path}.conv2", 27, width, width)
            norm(f"{path}.norm2", width)
            if i == 0 and entering != width:
                conv(f"{path}.downsample.0", entering, width)
                norm(f"{path}.downsample.1", width)

    conv("conv0p1s1", 27, values, stem)
    norm("bn0", stem)
    width = stem
    for i, name in enumerate(STRIDES, 1):
        conv(name, 8, width, width)
        norm(f"bn{i}", width)
        block(i, width)
        width = blocks[i - 1]
    skips = (blocks[2], blocks[1], blocks[0], stem)
    for i, (name, skip) in enumerate(zip(BACK, skips), 4):
        conv(name, 8, width, blocks[i])
        norm(f"bntr{i}", blocks[i])
        block(i + 1, blocks[i] + skip)
        width = blocks[i]
    conv("final", width, outputs)
    made["final.bias"] = torch.randn(1, outputs, generator=generator)
    return made


def offset_of(tap: int, side: int, stride: int) -> Place:
    """Where a tap stands, in units of the finest voxels."""
    first = side // 2 if side % 2 else 0
    x, y, z = tap % side - first, tap // side % side - first, tap // side**2 - first
    return x * stride, y * stride, z * stride


class Minkowski:
    """The network in float64; a level is a list of coordinates, whose stride is known."""

    def __init__(self, weights: Weights) -> None:
        self.weights = {name: w.double() for name, w in weights.items()}

    def pairs(self, fine: list[Place], coarse: list[Place], side: int, stride: int) -> list[tuple]:
        """By tap, rows of ``fine`` and of ``coarse``: fine = coarse + offset."""
        rows = {place: row for row, place in enumerate(fine)}
        found = []
        for tap in range(side**3):
            offset = offset_of(tap, side, stride)
            ins, outs = [], []
            for row, place in enumerate(coarse):
                x, y, z = (a + b for a, b in zip(place, offset))
                if (x, y, z) in rows:
                    ins.append(rows[x, y, z])
                    outs.append(row)
            found.append((ins, outs))
        return found

    def sums(self, name: str, x: Tensor, pairs: list[tuple], rows: int) -> Tensor:
        kernel = self.weights[f"{name}.kernel"]
        y = x.new_zeros(rows, kernel.shape[-1])
        for tap, (ins, outs) in enumerate(pairs):
            y.index_add_(0, torch.tensor(outs, dtype=torch.int64), x[ins] @ kernel[tap])
        return y

    def norm(self, name: str, x: Tensor) -> Tensor:
        w = {part: self.weights[f"{name}.bn.{part}"] for part in ("weight", "bias")}
        mean, var = (self.weights[f"{name}.bn.running_{part}"] for part in ("mean", "var"))
        return (x - mean) / (var + 1e-5).sqrt() * w["weight"] + w["bias"]

    def block(self, number: int, x: Tensor, pairs: list[tuple]) -> Tensor:
        for i in range(BLOCKS[number - 1]):
            path = f"block{number}.{i}"
            y = self.norm(f"{path}.norm1", self.sums(f"{path}.conv1", x, pairs, len(x))).relu()
            y = self.norm(f"{path}.norm2", self.sums(f"{path}.conv2", y, pairs, len(x)))
            if f"{path}.downsample.0.kernel" in self.weights:
                x = x @ self.weights[f"{path}.downsample.0.kernel"]
                x = self.norm(f"{path}.downsample.1", x)
            x = (x + y).relu()
        return x

    def run(self, feats: Tensor, coords: Tensor) -> Tensor:
        """[V, outputs] of one scan: feats f64 [V, values], coords i64 [V, 3]."""
        levels = [[tuple(place) for place in coords.tolist()]]
        same = [self.pairs(levels[0], levels[0], 3, 1)]
        x = self.norm("bn0", self.sums("conv0p1s1", feats, same[0], len(feats))).relu()
        skips, strided = [], []
        for i, name in enumerate(STRIDES, 1):
            stride = 2**i
            coarse = {tuple(a // stride * stride for a in place) for place in levels[0]}
            levels.append(sorted(coarse))
            strided.append(self.pairs(levels[i - 1], levels[i], 2, stride // 2))
            same.append(self.pairs(levels[i], levels[i], 3, stride))
            skips.append(x)
            x = self.norm(f"bn{i}", self.sums(name, x, strided[-1], len(levels[i]))).relu()
            x = self.block(i, x, same[i])
        for i, name in enumerate(BACK, 4):
            level = 7 - i
            back = [(outs, ins) for ins, outs in strided[level]]
            x = self.norm(f"bntr{i}", self.sums(name, x, back, len(levels[level]))).relu()
            x = self.block(i + 1, torch.cat([x, skips[level]], 1), same[level])
        return x @ self.weights["final.kernel"] + self.weights["final.bias"]
