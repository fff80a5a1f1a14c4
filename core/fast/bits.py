"""Bfloat16 in compiled loops, which have no such type: its bits are the upper half of a float32's."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["bfloat16_bits", "from_bits", "to_bits"]


def bfloat16_bits(x: Tensor) -> np.ndarray:
    """U16 view of a bf16 tensor on the processor."""
    return x.view(torch.int16).numpy().view(np.uint16)


@numba.njit("f4(u2)", cache=True, nogil=True, inline="always")
def from_bits(bits: np.uint16) -> np.float32:
    """The number of these bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@numba.njit("u2(f4)", cache=True, nogil=True, inline="always")
def to_bits(value: np.float32) -> np.uint16:
    """The bits of the nearest bfloat16, ties to even; a NaN stays one."""
    bits = np.float32(value).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    nearest = np.uint16((bits + half) >> np.uint32(16))
    return nearest if value == value else np.uint16(0x7FC0)
