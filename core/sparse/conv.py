"""Sparse 3D convolution as a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.sparse.backends import convolve
from core.sparse.checks import InvalidInput, check_channels, check_tensor
from core.sparse.maps import KernelMap, coarser, kernel_map, triple
from core.sparse.tensor import SparseTensor, Stride

__all__ = ["Conv3d"]


def _finer(stride: Stride, step: Stride) -> Stride:
    x, y, z = (t // s for t, s in zip(stride, step))
    return x, y, z


class Conv3d(nn.Module):
    """Convolution over occupied voxels, with torchsparse's coordinate semantics, kernel layout and offset order.

    ``stride`` 1 keeps the voxels; stride s > 1 yields the voxels ``unique(floor(c / (s t)) (s t))`` of tensor stride t;
    ``transposed`` reuses the map and the voxels of the matching strided convolution.

    Args:
        in_channels, out_channels: widths.
        kernel_size, stride, dilation: one number or one per axis (x, y, z). Odd lengths are centred, even ones run
            from 0.
        bias: add a bias (the U-Nets have none).
        transposed: go back to the finer stride.
        backend: engine for this layer, None = the one in force.
        relu: rectify the result (networks made for inference only).

    The parameter ``kernel`` is [K, Cin, Cout], or [Cin, Cout] for K = 1, drawn from U(-b, b) with b = 1/sqrt(fan K),
    fan = Cin (Cout if transposed).

    Raises:
        InvalidInput: a number of channels or a size below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Stride = 3,
        stride: int | Stride = 1,
        dilation: int | Stride = 1,
        bias: bool = False,
        transposed: bool = False,
        backend: str | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise InvalidInput(f"{in_channels} to {out_channels} channels", where="Conv3d")
        self.relu = relu
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = triple(kernel_size)
        self.stride = triple(stride)
        self.dilation = triple(dilation)
        self.transposed, self.backend = transposed, backend
        volume = math.prod(self.kernel_size)
        shape = (volume, in_channels, out_channels) if volume > 1 else (in_channels, out_channels)
        bound = 1 / math.sqrt((out_channels if transposed else in_channels) * volume)
        self.kernel = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @property
    def pointwise(self) -> bool:
        """Whether this is 1x1x1 at stride 1: a matrix product, no map."""
        return self.kernel.dim() == 2 and self.stride == (1, 1, 1)

    def extra_repr(self) -> str:
        """Describe the layer for ``print(model)``."""
        kind = ", transposed" if self.transposed else ""
        return f"{self.in_channels}, {self.out_channels}, kernel={self.kernel_size}, stride={self.stride}{kind}"

    def map_of(self, x: SparseTensor) -> tuple[KernelMap, Tensor, Stride]:
        """Find the kernel map, output coordinates and output stride of this layer on ``x``.

        Raises:
            UserError: a transposed convolution whose strided partner never ran on this input.
        """
        cache = x.cache
        if not self.transposed:
            kmap = kernel_map(cache, x.stride, self.kernel_size, self.stride, self.dilation)
            stride = coarser(x.stride, self.stride)
            coords = x.coords if stride == x.stride else cache.level(stride).coords
            return kmap, coords, stride
        stride = _finer(x.stride, self.stride)
        key = (stride, self.kernel_size, self.stride, self.dilation)
        if key not in cache.maps:
            raise UserError(
                f"no convolution of kernel {self.kernel_size} and stride {self.stride} led to stride {x.stride}",
                where="transposed sparse convolution",
                cure="Each transposed convolution needs its strided partner earlier in the network",
            )
        return cache.maps[key].transposed, cache.level(stride).coords, stride

    def forward(self, x: SparseTensor, residual: Tensor | None = None) -> SparseTensor:
        """Convolve: [V, Cin] -> [V', Cout]; under autocast in the autocast dtype.

        Args:
            residual: [V', Cout], added to the result before it is rectified.

        Raises:
            InvalidInput: ``x`` or ``residual`` has another shape than the layer takes.
        """
        feats: Tensor = x.feats
        kernel: Tensor = self.kernel
        check_channels(feats, kernel)
        device = feats.device.type
        if torch.is_autocast_enabled(device) and feats.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
            feats, kernel = feats.to(dtype), kernel.to(dtype)
        if self.pointwise:
            return x.replace(self._multiply(feats, kernel, residual))
        kmap, coords, stride = self.map_of(x)
        weight = kernel.view(-1, self.in_channels, self.out_channels)
        y = convolve(
            feats, weight, self.bias, kmap, self.backend, residual=residual, relu=self.relu
        )
        return SparseTensor(y, coords, stride, x.cache)

    def _multiply(self, feats: Tensor, kernel: Tensor, residual: Tensor | None) -> Tensor:
        """A convolution of one voxel: [V, Cin] x [Cin, Cout]."""
        if self.bias is None:
            y = feats @ kernel
        else:
            y = torch.addmm(self.bias.to(feats.dtype), feats, kernel)
        if residual is not None:
            check_tensor("what is added (residual)", residual, None, tuple(y.shape), "Conv3d")
            y = y + residual.to(y.dtype)
        return torch.relu(y) if self.relu else y
