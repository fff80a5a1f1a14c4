"""Means of unit features over the regions of images, from maps coarser than the images that are never enlarged.

A pixel reads ``u = (1 - x) a + x b``, where a and b are two neighbours of a row that lies between two rows of the map.
Its length follows from a.a, a.b and b.b, so that a pixel costs a few scalars, and the channels are
touched once per run of pixels between the same two neighbours in the same region.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.fast import plain
from core.fast.plain import REGION_EPSILON
from core.sparse.checks import InvalidInput, check_range, check_tensor

__all__ = ["region_mean"]

_SHORTEST = 1e-12  # of a vector; a shorter one is divided by it, as torch's normalize has it


def region_mean(maps: Tensor, region: Tensor, count: int) -> Tensor:
    """Enlarge maps to the size of images, bring each pixel's vector to length 1, and average it over each region.

    The outermost pixels' centres lie on those of the map (aligned corners).

    Args:
        maps: f32 [N, C, h, w], best channels last in memory. region: i64 [N, H, W], of each pixel, -1 = none.
        count: regions.

    Returns:
        f32 [count, C], sums divided by the number of pixels + 1e-6, as SLidR has it; 0 of a region without pixels.

    Raises:
        InvalidInput: the two are not of the same images, are empty, or a region is none of ``count``.
    """
    check_tensor("maps", maps, torch.float32, (None, None, None, None), "region_mean")
    check_tensor("the regions", region, torch.int64, (len(maps), None, None), "region_mean")
    if not maps.numel() or not region.numel():
        raise InvalidInput(f"maps {list(maps.shape)} and regions {list(region.shape)} hold nothing")
    if maps.device.type != "cpu":
        return plain.region_mean(maps, region, count)
    check_range("the regions", region, -1, count, "region_mean")
    means: Tensor = _RegionMean.apply(maps, region, count)
    return means


class _RegionMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, region: Tensor, count: int) -> Tensor:
        pixels = _channels_last(maps.detach())
        region = region.contiguous()
        sums = torch.zeros(count, maps.shape[1])
        sizes = torch.zeros(count, dtype=torch.int64)
        _add(pixels.numpy(), region.numpy(), sums.numpy(), sizes.numpy())
        weight = 1.0 / (sizes.float() + REGION_EPSILON)
        ctx.save_for_backward(pixels, region, weight)
        return sums * weight[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        pixels, region, weight = ctx.saved_tensors
        spread = torch.zeros_like(pixels)
        scaled = (grad.float() * weight[:, None]).contiguous()
        _add_gradient(pixels.numpy(), region.numpy(), scaled.numpy(), spread.numpy())
        return spread.permute(0, 3, 1, 2), None, None


def _channels_last(maps: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, h, w, C], without a copy where the memory has this order already."""
    return maps.permute(0, 2, 3, 1).contiguous()


@numba.njit("Tuple((i8, i8, f4))(i8, i8, i8)", cache=True, nogil=True)
def _between(place: int, size: int, pixels: int) -> tuple[int, int, np.float32]:
    """Two neighbours on a side of the map, and how far a pixel is from the first to the second."""
    at = place * (size - 1) / max(pixels - 1, 1)
    low = min(int(at), size - 1)
    return low, min(low + 1, size - 1), np.float32(at - low)


@numba.njit("f4(f4[::1], f4[::1])", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    total = np.float32(0)
    for c in range(len(a)):
        total += a[c] * b[c]
    return total


@numba.njit("void(f4[:,::1], f4[:,::1], f4, f4[:,::1])", cache=True, nogil=True)
def _mix_rows(low: np.ndarray, high: np.ndarray, share: np.float32, row: np.ndarray) -> None:
    """``row`` = between two rows of the map, [w, C]."""
    for j in range(row.shape[0]):
        for c in range(row.shape[1]):
            row[j, c] = low[j, c] + share * (high[j, c] - low[j, c])


@numba.njit("f4(f4, f4, f4, f4)", cache=True, nogil=True)
def _length(aa: np.float32, ab: np.float32, bb: np.float32, x: np.float32) -> np.float32:
    """Of ``(1 - x) a + x b``."""
    y = np.float32(1) - x
    square = y * y * aa + np.float32(2) * x * y * ab + x * x * bb
    return np.sqrt(np.float32(max(square, np.float32(0))))


@numba.njit("void(f4[:,:,:,::1], i8[:,:,::1], f4[:,::1], i8[::1])", cache=True, nogil=True)
def _add(maps: np.ndarray, region: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> None:
    """Add each pixel's unit vector to its region's sum, and count it."""
    images, height, width = region.shape
    rows, columns, channels = maps.shape[1:]
    row = np.empty((columns, channels), np.float32)
    for n in range(images):
        for i in range(height):
            low, high, share = _between(i, rows, height)
            _mix_rows(maps[n, low], maps[n, high], share, row)
            j = 0
            while j < width:
                of = region[n, i, j]
                left, right, _ = _between(j, columns, width)
                a, b = row[left], row[right]
                aa, ab, bb = _dot(a, a), _dot(a, b), _dot(b, b)
                of_a, of_b = np.float32(0), np.float32(0)
                while j < width and region[n, i, j] == of:
                    now, _, x = _between(j, columns, width)
                    if now != left:
                        break
                    length = max(_length(aa, ab, bb, x), np.float32(_SHORTEST))
                    of_a += (np.float32(1) - x) / length
                    of_b += x / length
                    if of >= 0:
                        sizes[of] += 1
                    j += 1
                if of >= 0:
                    for c in range(channels):
                        sums[of, c] += of_a * a[c] + of_b * b[c]


@numba.njit("void(f4[:,:,:,::1], i8[:,:,::1], f4[:,::1], f4[:,:,:,::1])", cache=True, nogil=True)
def _add_gradient(
    maps: np.ndarray, region: np.ndarray, grad: np.ndarray, spread: np.ndarray
) -> None:
    """Gradient of the sums, f32 [count, C] -> of the maps: of u / |u| it is (g - u (g.u) / |u|^2) / |u|."""
    images, height, width = region.shape
    rows, columns, channels = maps.shape[1:]
    row = np.empty((columns, channels), np.float32)
    back = np.empty((columns, channels), np.float32)
    one = np.float32(1)
    for n in range(images):
        for i in range(height):
            low, high, share = _between(i, rows, height)
            _mix_rows(maps[n, low], maps[n, high], share, row)
            back[:] = 0
            j = 0
            while j < width:
                of = region[n, i, j]
                if of < 0:
                    j += 1
                    continue
                left, right, _ = _between(j, columns, width)
                a, b, g = row[left], row[right], grad[of]
                aa, ab, bb = _dot(a, a), _dot(a, b), _dot(b, b)
                ga, gb = _dot(g, a), _dot(g, b)
                of_a, of_b = np.float32(0), np.float32(0)
                in_aa, in_ab, in_bb = np.float32(0), np.float32(0), np.float32(0)
                while j < width and region[n, i, j] == of:
                    now, _, x = _between(j, columns, width)
                    if now != left:
                        break
                    y = one - x
                    length = _length(aa, ab, bb, x)
                    inverse = one / max(length, np.float32(_SHORTEST))
                    of_a += y * inverse
                    of_b += x * inverse
                    if length > np.float32(_SHORTEST):
                        turned = (y * ga + x * gb) * inverse * inverse * inverse
                        in_aa += turned * y * y
                        in_ab += turned * x * y
                        in_bb += turned * x * x
                    j += 1
                for c in range(channels):
                    back[left, c] += of_a * g[c] - in_aa * a[c] - in_ab * b[c]
                    back[right, c] += of_b * g[c] - in_ab * a[c] - in_bb * b[c]
            for k in range(columns):
                for c in range(channels):
                    spread[n, low, k, c] += (one - share) * back[k, c]
                    spread[n, high, k, c] += share * back[k, c]
