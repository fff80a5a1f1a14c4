"""SphereFormer: cubic and radial window attention on sparse voxels (Lai et al., CVPR 2023).

``spvcnn_spformer`` puts one block after each encoder stage of SPVCNN (the U2MKD teacher); ``sphereformer`` is the
original U-Net with pre-activation residual blocks and a block on each of its five levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from sptr import WindowIndex, fused_window_attention, spherical, window_index
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from core.config import Section
from core.contracts import Batch, Output
from core.errors import UserError
from core.models.layers import DropPath
from core.models.lidar.blocks import scaled_channels, sparse_output
from core.models.lidar.spvcnn import SPVCNN, SPVCNNConfig
from core.sparse import (
    Conv3d,
    SparseBatchNorm,
    SparseReLU,
    SparseTensor,
    cat,
    local_pool,
    voxel_mean,
)

__all__ = ["SPVCNNSphereFormer", "SphereFormerBlock", "SphereFormerUNet", "Windows"]

HEAD_DIM = 16
WIDEST = 2048  # channels
LEVELS = 24  # bins per window and axis
LEGACY_SPHERE_QUANT = (
    4 / 3,
    4 / 3,
    5.0,
)  # degrees, degrees, m: what U2MKD's released weights were trained with


class Windows(Section):
    """Window geometry, shared by the models of this file."""

    window_size: float = Field(
        0.3, gt=0, description="m, edge of the cubic windows of the first block"
    )
    window_size_sphere: tuple[float, float, float] = Field(
        (2.0, 2.0, 120.0),
        description="degrees, degrees, m: azimuth, inclination, range of the first block's radial windows",
    )
    window_size_scale: tuple[float, float] = Field(
        (2.0, 2.0), description="growth per block of the cubic edge, and of the two angles"
    )
    a: float = Field(
        0.0125, gt=0, description="m, width of the innermost bin of the exponential splitting"
    )
    drop_path_rate: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="block i drops its branches with probability linspace(0, rate, 7)[i]",
    )
    window_origin: Literal["sample", "batch"] = Field(
        "sample",
        description='"sample" = each scan\'s own minimum; "batch" = the batch\'s (released weights), then a '
        "prediction depends on what else is in the batch",
    )
    legacy_quant: bool = Field(
        False,
        description="use U2MKD's constant radial bins (4/3 degrees) in place of window / 24",
    )
    checkpointing: bool = Field(
        False, description="recompute the attention blocks in the backward pass to save memory"
    )

    @field_validator("window_size_sphere", "window_size_scale")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("sizes of windows and their growth are positive")
        return value

    def block(self, channels: int, stage: int, drop: int) -> SphereFormerBlock:
        """The block of ``stage`` (0 = first); ``drop`` picks its drop-path probability."""
        return SphereFormerBlock(channels, self, stage, self.drop_path_rate * drop / 6)


def check_heads(channels: Sequence[int]) -> None:
    """Refuse widths that are no multiple of a head's.

    Raises:
        ValueError: one is none.
    """
    for width in channels:
        if width < HEAD_DIM or width % HEAD_DIM:
            raise ValueError(
                f"attention needs widths that are multiples of {HEAD_DIM}; they would be {list(channels)}"
            )


class Attention(nn.Module):
    """Half of the heads attend in cubic windows, the others in radial ones (the paper's dynamic feature selection)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_heads([channels])
        self.heads = channels // HEAD_DIM
        self.cubic = self.heads // 2
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        for name in ("query", "key", "value"):
            self._table(f"relative_pos_{name}_table", 2 * LEVELS - 1, self.cubic)
            self._table(f"relative_pos_{name}_table_sphere", 2 * LEVELS, self.heads - self.cubic)

    def _table(self, name: str, length: int, heads: int) -> None:
        table = None
        if heads:
            table = nn.Parameter(torch.empty(length, 3, heads, HEAD_DIM))
            nn.init.trunc_normal_(table, std=0.02)
        self.register_parameter(name, table)

    def forward(self, x: Tensor, cubic: WindowIndex, radial: WindowIndex) -> Tensor:
        """[N, C] -> [N, C]."""
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, HEAD_DIM).unbind(1)
        q = q * HEAD_DIM**-0.5
        branches = []
        for index, heads, suffix in (
            (cubic, slice(0, self.cubic), ""),
            (radial, slice(self.cubic, None), "_sphere"),
        ):
            query_table = getattr(self, f"relative_pos_query_table{suffix}")
            key_table = getattr(self, f"relative_pos_key_table{suffix}")
            value_table = getattr(self, f"relative_pos_value_table{suffix}")
            if query_table is None:  # no heads of this kind
                continue
            branch = fused_window_attention(
                q[:, heads].contiguous(),
                k[:, heads].contiguous(),
                v[:, heads].contiguous(),
                index,
                query_table,
                key_table,
                value_table,
            )
            branches.append(branch)
        return self.proj(torch.cat(branches, 1).flatten(1))


class Mlp(nn.Module):
    """C -> 4C -> C with GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] -> [N, C]."""
        return self.fc2(self.act(self.fc1(x)))


class SphereFormerBlock(nn.Module):
    """``x + DropPath(Attn(LN(x)))``, then ``x + DropPath(MLP(LN(x)))``.

    Args:
        channels: a multiple of 16. windows: geometry of the first block. stage: growth exponent. drop: probability.
    """

    def __init__(self, channels: int, windows: Windows, stage: int, drop: float) -> None:
        super().__init__()
        self.windows = windows
        cubic_scale, angle_scale = (scale**stage for scale in windows.window_size_scale)
        theta, beta, reach = windows.window_size_sphere
        self.cubic_window = windows.window_size * cubic_scale
        self.sphere_window = (theta * angle_scale, beta * angle_scale, reach)
        self.sphere_quant = (
            LEGACY_SPHERE_QUANT
            if windows.legacy_quant
            else tuple(w / LEVELS for w in self.sphere_window)
        )
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels)
        self.norm2, self.mlp = nn.LayerNorm(channels), Mlp(channels)
        self.drop_path = DropPath(drop)

    def indices(self, xyz: Tensor, batch: Tensor) -> tuple[WindowIndex, WindowIndex]:
        """Cubic and radial windows of tokens at ``xyz`` f32 [N, 3] m in scans ``batch`` [N].

        Raises:
            UserError: there are more windows than can be counted.
        """
        try:
            return self._indices(xyz, batch)
        except ValueError as error:  # more windows than can be counted
            raise UserError(
                f"the windows are too small for scans that reach {float(xyz.abs().max()):.3g} m ({error})",
                where="model.window_size, model.window_size_sphere",
                cure="Use larger windows, or cut stray points off with data.point_range",
            ) from error

    def _indices(self, xyz: Tensor, batch: Tensor) -> tuple[WindowIndex, WindowIndex]:
        origin = self.windows.window_origin
        cubic = window_index(
            xyz, batch, self.cubic_window, self.cubic_window / LEVELS, levels=LEVELS, origin=origin
        )
        radial = window_index(
            spherical(xyz), batch, self.sphere_window, self.sphere_quant,
            levels=LEVELS, kind="radial", base=self.windows.a, origin=origin,
        )  # fmt: skip
        return cubic, radial

    def forward(self, x: SparseTensor, xyz: Tensor) -> SparseTensor:
        """[V, C] -> [V, C]; xyz f32 [V, 3] m are the voxels' metric positions."""
        with torch.no_grad(), record_function("lidistill::attention_windows"):
            indices = self.indices(xyz.float(), x.coords[:, 0])
        if self.windows.checkpointing and self.training:
            return x.replace(checkpoint(self._residuals, x.feats, *indices, use_reentrant=False))
        return x.replace(self._residuals(x.feats, *indices))

    def _residuals(self, feats: Tensor, cubic: WindowIndex, radial: WindowIndex) -> Tensor:
        feats = feats + self.drop_path(self.attn(self.norm1(feats), cubic, radial))
        return feats + self.drop_path(self.mlp(self.norm2(feats)))


def from_scanner(batch: Batch) -> Tensor:
    """F32 [SV, 3] m: the cells' representatives from the scanner, about which radial windows lie."""
    origins = batch.origins.index_select(0, batch.coords[:, 0].long())
    return batch.at_cells("xyz").float() - origins


class SPVCNNSphereFormer(SPVCNN):
    """SPVCNN with a SphereFormer block after each encoder stage (strides 2 to 16): U2MKD's teacher.

    A voxel's position is the mean of the metric coordinates of its fine voxels.
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels",)

    class Config(SPVCNNConfig, Windows):
        """``model:`` section."""

        name: Literal["spvcnn_spformer"] = Field(description="the network")

        @field_validator("cr")
        @classmethod
        def _whole_heads(cls, value: float) -> float:
            check_heads(scaled_channels(value)[1:5])
            return value

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        cs = scaled_channels(config.cr)
        self.transformer_blocks = nn.ModuleList(config.block(cs[i + 1], i, i + 1) for i in range(4))

    def encode(self, stage: int, x: SparseTensor, batch: Batch) -> SparseTensor:
        """Encoder stage, then attention."""
        x = super().encode(stage, x, batch)
        xyz = voxel_mean(x, from_scanner(batch)).feats
        return self.transformer_blocks[stage](x, xyz)


class PreActivation(nn.Module):
    """``x + conv3(ReLU(BN(conv3(ReLU(BN(x))))))``, with a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*_norm_relu_conv(cin, cout), *_norm_relu_conv(cout, cout))
        self.shortcut = nn.Identity() if cin == cout else Conv3d(cin, cout, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V, cout]."""
        return x.replace(self.net(x).feats + self.shortcut(x).feats)


def _norm_relu_conv(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, transposed: bool = False
) -> list[nn.Module]:
    return [
        SparseBatchNorm(cin, eps=1e-4),
        SparseReLU(),
        Conv3d(cin, cout, kernel, stride, transposed=transposed),
    ]


class SphereFormerUNet(nn.Module):
    """The original SphereFormer network: five levels, attention from stride 1 on.

    Args:
        config: see :class:`SphereFormerUNet.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels",)

    class Config(Windows):
        """``model:`` section."""

        name: Literal["sphereformer"] = Field(description="the network")
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )
        layers: tuple[int, ...] = Field(
            (32, 64, 128, 256, 256),
            min_length=1,
            max_length=7,
            description="channels of the levels, multiples of 16",
        )
        block_reps: int = Field(
            2, ge=1, le=16, description="residual blocks per level and direction"
        )

        @field_validator("layers")
        @classmethod
        def _whole_heads(cls, value: tuple[int, ...]) -> tuple[int, ...]:
            check_heads(value)
            if max(value) > WIDEST:
                raise ValueError(f"levels have at most {WIDEST} channels")
            return value

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        layers, reps = config.layers, range(config.block_reps)
        pairs = list(pairwise(layers))
        self.input_conv = Conv3d(config.in_channel, layers[0], 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(PreActivation(c, c) for _ in reps)) for c in layers
        )
        self.transformer_blocks = nn.ModuleList(config.block(c, i, i) for i, c in enumerate(layers))
        self.downs = nn.ModuleList(nn.Sequential(*_norm_relu_conv(a, b, 2, 2)) for a, b in pairs)
        self.ups = nn.ModuleList(
            nn.Sequential(*_norm_relu_conv(b, a, 2, 2, transposed=True)) for a, b in pairs
        )
        self.tails = nn.ModuleList(
            nn.Sequential(*(PreActivation(2 * a if i == 0 else a, a) for i in reps))
            for a, _ in pairs
        )
        self.head = nn.Sequential(SparseBatchNorm(layers[0], eps=1e-4), SparseReLU())
        self.classifier_vox = nn.Sequential(nn.Linear(layers[0], num_classes))

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order; stages = encoder, then decoder outputs."""
        x = SparseTensor.of(batch.cells, batch.feats)
        xyz = x.replace(from_scanner(batch))
        x = self.input_conv(x)
        skips, stages = [], []
        for level, block in enumerate(self.blocks):
            x = self.transformer_blocks[level](block(x), xyz.feats)
            stages.append(x)
            if level < len(self.downs):
                skips.append(x)
                x, xyz = self.downs[level](x), local_pool(xyz, 2, 2, "mean")
        for level in reversed(range(len(self.ups))):
            x = self.tails[level](cat([skips.pop(), self.ups[level](x)]))
            stages.append(x)
        logits = self.classifier_vox(self.head(x).feats)
        return sparse_output(logits, stages, encoder=len(self.blocks))
