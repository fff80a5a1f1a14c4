"""Sine and Gaussian-Fourier embeddings of coordinates, normalised per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["PositionEmbeddingCoordsSine"]


class PositionEmbeddingCoordsSine(nn.Module):
    """Coordinates -> channels, after scaling each sample to the unit cube.

    ``sine`` interleaves sines and cosines of geometric frequencies per axis (Vaswani et al., 2017); ``fourier`` uses
    random Gaussian frequencies (Tancik et al., 2020), drawn once and kept with the weights.
    """

    gauss_B: Tensor  # [d_in, d_pos / 2], for ``fourier`` alone

    def __init__(
        self,
        temperature: float = 10000.0,
        scale: float = 2 * math.pi,
        pos_type: str = "fourier",
        d_pos: int = 96,
        d_in: int = 3,
        gauss_scale: float = 1.0,
    ) -> None:
        """``d_pos`` channels (even for ``fourier``) from ``d_in`` coordinates."""
        super().__init__()
        if pos_type not in ("sine", "fourier") or d_pos % 2:
            raise ValueError(
                f"sptr: pos_type must be 'sine' or 'fourier' and d_pos even; got {pos_type!r}, {d_pos}"
            )
        self.temperature = temperature
        self.scale = scale
        self.pos_type = pos_type
        self.d_pos = d_pos
        self.d_in = d_in
        if pos_type == "fourier":
            self.register_buffer("gauss_B", torch.randn(d_in, d_pos // 2) * gauss_scale)

    def forward(self, xyz: Tensor, batch: Tensor) -> Tensor:
        """Embed ``xyz`` float [N, d_in] of the samples ``batch`` int [N]: [N, d_pos]."""
        if not len(xyz):
            return xyz.new_zeros(0, self.d_pos)
        unit = self._normalise(xyz, batch.long())
        if self.pos_type == "fourier":
            frequencies = self.gauss_B.to(unit.dtype)
            angle = unit * (2 * math.pi) @ frequencies
            return torch.cat([angle.sin(), angle.cos()], dim=-1)
        per_axis = -(-self.d_pos // self.d_in)
        per_axis += per_axis % 2
        step = torch.arange(per_axis, device=xyz.device) // 2 * 2 / per_axis
        angle = unit[..., None] * self.scale / self.temperature**step
        even = angle[..., 0::2].sin()
        odd = angle[..., 1::2].cos()
        waves = torch.stack([even, odd], dim=-1)
        return waves.flatten(1)[:, : self.d_pos]

    @staticmethod
    def _normalise(xyz: Tensor, batch: Tensor) -> Tensor:
        """Scale the points of each sample to 0..1 along each axis."""
        spread = batch[:, None].expand_as(xyz)
        samples = int(batch.max()) + 1
        limit = xyz.new_full((samples, xyz.shape[1]), torch.inf)
        lowest = limit.scatter_reduce(0, spread, xyz, "amin")
        highest = (-limit).scatter_reduce(0, spread, xyz, "amax")
        low = lowest.index_select(0, batch)
        high = highest.index_select(0, batch)
        return (xyz - low) / (high - low).clamp_min(1e-6)
