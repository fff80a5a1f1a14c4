"""Blocks of MambaMOS: state-space models along curves through the voxels of several scans."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.layers import DropPath
from core.models.lidar.selective_scan import selective_scan
from core.sparse import Conv3d, SparseTensor

__all__ = ["Curve", "Embedding", "MambaBlock", "MotionSSM", "Sequences"]

_GAP = 2  # zeros between sequences: half of the longest kernel
_STATES = 16
_EXPAND = 2
_KERNEL = 5
_MLP = 4
_STEPS = (1e-3, 0.1)  # of the first state-space models, log-uniform
_EMBEDDING_KERNEL = 3


class Sequences:
    """Rows in order, as sequences one behind the other that do not touch.

    Args:
        order: i64 [V], the rows, sequence by sequence.
        group: i64 [V], number of each row's sequence.

    Attributes:
        order: as given. first: bool [V], whether a sequence begins at this place of the order.
    """

    def __init__(self, order: Tensor, group: Tensor) -> None:
        self.order = order
        ordered = group.index_select(0, order)
        self.first = torch.ones_like(ordered, dtype=torch.bool)
        self.first[1:] = ordered[1:] != ordered[:-1]
        number = self.first.cumsum(0)
        place = torch.arange(len(order), device=order.device) + _GAP * (number - 1)
        self._place = torch.empty_like(place).index_copy_(0, order, place)
        self._length = int(place[-1]) + 1 if len(place) else 0

    def convolve(self, layer: nn.Conv1d, values: Tensor) -> Tensor:
        """[V, Cin] -> [V, Cout], by row; zeros lie before and behind each sequence."""
        if not len(values):
            return values.new_zeros(0, layer.out_channels)
        empty = values.new_zeros(self._length, values.shape[1])
        buffer = empty.index_copy(0, self._place, values)
        out: Tensor = layer(buffer.T[None])[0].T
        return out.index_select(0, self._place)

    def ordered(self, values: Tensor) -> Tensor:
        """[V, C] by row -> [V, C] by place."""
        return values.index_select(0, self.order)

    def by_row(self, values: Tensor) -> Tensor:
        """[V, C] by place -> [V, C] by row."""
        return torch.zeros_like(values).index_copy(0, self.order, values)


class Curve:
    """Voxels along a curve: ``whole`` joins all scans of a sample, ``single`` keeps each scan apart.

    Args:
        code: i64 [V], place along the curve, the sample in its highest bits; no two are equal.
        sample: i64 [V]. sweep: i64 [V], 0 = the current scan.
    """

    def __init__(self, code: Tensor, sample: Tensor, sweep: Tensor) -> None:
        order = torch.argsort(code)
        self.rank = torch.empty_like(order)
        self.rank[order] = torch.arange(len(order), device=order.device)
        self.whole = Sequences(order, sample)
        scans = int(sweep.max()) + 1 if len(sweep) else 1
        scan = sample * scans + sweep
        self.single = Sequences(torch.argsort(scan * len(code) + self.rank), scan)


class MotionSSM(nn.Module):
    """The motion-aware state-space model of MambaMOS (spec of Mamba, Gu and Dao, 2023, within).

    ``a, z = W_in LN(x)``; along the curve through all scans ``a' = conv(a)``, along each scan's own
    ``b' = SiLU(conv(a))``; ``h = SiLU(sigmoid(a') b' + a')`` goes through the selective scan, is gated by ``SiLU(z)``
    and projected back. Numbers are float32 under any autocast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = _EXPAND * channels
        self.rank = math.ceil(channels / 16)
        self.norm = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, 2 * width, bias=False)
        self.conv_whole = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.conv_single = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.x_proj = nn.Linear(width, self.rank + 2 * _STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, width)
        self.out_proj = nn.Linear(width, channels, bias=False)
        self.log_decay = nn.Parameter(torch.arange(1.0, _STATES + 1).log().repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        self._begin_steps()

    @torch.no_grad()
    def _begin_steps(self) -> None:
        """Steps dt that begin log-uniform in ``_STEPS``: the bias is the inverse of softplus."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(step) for step in _STEPS)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp()
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Tensor, curve: Curve) -> Tensor:
        """[V, C] -> [V, C]."""
        with torch.autocast(x.device.type, enabled=False):
            return self._run(x if x.dtype == torch.float64 else x.float(), curve)

    def _run(self, x: Tensor, curve: Curve) -> Tensor:
        whole = curve.whole
        a, z = self.in_proj(self.norm(x)).chunk(2, 1)
        own = F.silu(curve.single.convolve(self.conv_single, a))
        a = whole.convolve(self.conv_whole, a)
        h = whole.ordered(F.silu(a.sigmoid() * own + a))
        low, b, c = self.x_proj(h).split([self.rank, _STATES, _STATES], 1)
        dt = F.softplus(self.dt_proj(low))
        y = selective_scan(h, dt, -self.log_decay.exp(), b, c, self.skip, whole.first)
        out: Tensor = self.out_proj(whole.by_row(y) * F.silu(z))
        return out


class MambaBlock(nn.Module):
    """``x += LN(Linear(conv3(x)))``, ``x += DropPath(SSM(LN(x)))``, ``x += DropPath(MLP(LN(x)))``."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels, 3, bias=True)
        self.position = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.norm1 = nn.LayerNorm(channels)
        self.ssm = MotionSSM(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, _MLP * channels), nn.GELU(), nn.Linear(_MLP * channels, channels)
        )
        self.drop_path = DropPath(drop)

    def forward(self, x: SparseTensor, curve: Curve) -> SparseTensor:
        """[V, C] -> [V, C]."""
        feats = x.feats + self.position(self.conv(x).feats)
        feats = feats + self.drop_path(self.ssm(self.norm1(feats), curve))
        return x.replace(feats + self.drop_path(self.mlp(self.norm2(feats))))


class Embedding(nn.Module):
    """Time and place of a voxel, seen with its neighbours along a curve (TCBE of MambaMOS).

    With the features ``s`` and the time ``t + 1``: ``f = GELU(conv(s))``, ``g = GELU(conv(t + 1))`` of one channel and
    ``e = GELU(conv(t + 1))``; ``f + e + f g`` is convolved again, normalised, rectified and thinned out.
    """

    def __init__(self, in_channel: int, channels: int, norm: nn.Module, dropout: float) -> None:
        super().__init__()
        self.space = _narrow_conv(in_channel, channels)
        self.gate = _narrow_conv(1, 1)
        self.time = _narrow_conv(1, channels)
        self.join = _narrow_conv(channels, channels)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, feats: Tensor, sweep: Tensor, curve: Curve) -> Tensor:
        """[V, in_channel] and i64 [V] -> [V, channels]."""
        whole = curve.whole
        time = (sweep + 1).to(feats.dtype)[:, None]
        space = F.gelu(whole.convolve(self.space, feats))
        gate = F.gelu(whole.convolve(self.gate, time))
        joined = space + F.gelu(whole.convolve(self.time, time)) + space * gate
        out: Tensor = self.dropout(F.gelu(self.norm(whole.convolve(self.join, joined))))
        return out


def _narrow_conv(cin: int, cout: int) -> nn.Conv1d:
    return nn.Conv1d(cin, cout, _EMBEDDING_KERNEL, padding=_EMBEDDING_KERNEL // 2, bias=False)
