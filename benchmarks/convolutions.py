"""The sparse convolutions of a network as they are called on a batch: their work, and how to repeat each one alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.contracts import Batch
from core.sparse import Conv3d, SparseTensor

__all__ = ["Call", "convolution_calls"]


@dataclass(frozen=True)
class Call:
    """One call of a convolution.

    Attributes:
        residual: what is added to its result, None = nothing.
    """

    module: Conv3d
    x: SparseTensor
    residual: Tensor | None

    @property
    def pairs(self) -> int:
        """Pairs of an input and an output voxel, counted in its kernel map."""
        if self.module.pointwise:
            return self.x.num_voxels
        return self.module.map_of(self.x)[0].num_pairs

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its forward pass."""
        return self.pairs * self.module.in_channels * self.module.out_channels

    def __call__(self) -> SparseTensor:
        """Convolve once more."""
        return self.module(self.x, self.residual)


@torch.no_grad()
def convolution_calls(network: nn.Module, batch: Batch) -> list[Call]:
    """All calls of one inference, in their order.

    Args:
        network: in evaluation mode.
    """
    calls = []

    def note(module: Conv3d, inputs: tuple[SparseTensor, ...], options: dict[str, Tensor]) -> None:
        residual = inputs[1] if len(inputs) > 1 else options.get("residual")
        calls.append(Call(module, inputs[0], residual))

    hooks = []
    for module in network.modules():
        if isinstance(module, Conv3d):
            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
