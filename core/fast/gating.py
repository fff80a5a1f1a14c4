"""A map weighed pixel by pixel and channel by channel, in one pass."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core.fast.bits import bfloat16_bits, from_bits, to_bits
from core.sparse.checks import check_tensor

__all__ = ["weigh_"]

_WHERE = "weighing a map"


def weigh_(x: Tensor, place: Tensor, channel: Tensor, whole: Tensor) -> Tensor:
    """Multiply by ``whole + place * channel`` in place; there is no gradient.

    Args:
        x: [B, P, C]; what is not f32 or bf16 on a processor takes torch's way.
        place: [B, P]. channel: [B, C]. whole: [B]; f32, or any with such an ``x``.

    Returns:
        ``x``.

    Raises:
        InvalidInput: sizes or number types are others.
    """
    compiled = x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"
    if not compiled or not x.is_contiguous():
        weight = whole[:, None, None] + place[:, :, None] * channel[:, None]
        return x.mul_(weight.to(x.dtype))
    batch, places, channels = x.shape
    check_tensor("what is said of places", place, torch.float32, (batch, places), _WHERE)
    check_tensor("what is said of channels", channel, torch.float32, (batch, channels), _WHERE)
    check_tensor("what is said of maps", whole, torch.float32, (batch,), _WHERE)
    said = (place.contiguous().numpy(), channel.contiguous().numpy(), whole.contiguous().numpy())
    if x.dtype == torch.float32:
        _weigh(x.numpy(), *said)
    else:
        _weigh_narrow(bfloat16_bits(x), *said)
    return x


@numba.njit("void(f4[:,:,::1], f4[:,::1], f4[:,::1], f4[::1])", cache=True, nogil=True)
def _weigh(x: np.ndarray, place: np.ndarray, channel: np.ndarray, whole: np.ndarray) -> None:
    for b in range(x.shape[0]):
        for p in range(x.shape[1]):
            for k in range(x.shape[2]):
                x[b, p, k] *= whole[b] + place[b, p] * channel[b, k]


@numba.njit("void(u2[:,:,::1], f4[:,::1], f4[:,::1], f4[::1])", cache=True, nogil=True)
def _weigh_narrow(x: np.ndarray, place: np.ndarray, channel: np.ndarray, whole: np.ndarray) -> None:
    for b in range(x.shape[0]):
        for p in range(x.shape[1]):
            for k in range(x.shape[2]):
                weight = whole[b] + place[b, p] * channel[b, k]
                x[b, p, k] = to_bits(from_bits(x[b, p, k]) * weight)
