"""Layers of the image branch that cost less time and memory than torch's, at the same values and key names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.sparse.points import GatherTable

__all__ = ["NormReluConv", "Pointwise"]

GROUP = 32  # channels gathered at a time: the gathered taps of all of them would outweigh the map


class Pointwise(nn.Conv2d):
    """1x1 convolution as a matrix product over the pixels.

    torch's own takes a path without oneDNN, and a copy into channels-first order, for small float32 kernels on one
    thread, which is what each of several processes per machine has.
    """

    def __init__(self, cin: int, cout: int, bias: bool = True) -> None:
        super().__init__(cin, cout, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W], best channels last in memory -> [N, cout, H, W], channels last."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
            0, 3, 1, 2
        )


class NormReluConv(nn.Sequential):
    """BN - ReLU - convolution without bias; what comes out of the BN is computed again in the backward pass, not kept.

    Args:
        cin, cout: channels. kernel: odd. momentum: of the statistics.
    """

    def __init__(self, cin: int, cout: int, kernel: int = 1, momentum: float = 0.1) -> None:
        if kernel == 1:
            conv = Pointwise(cin, cout, bias=False)
        else:
            conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(nn.BatchNorm2d(cin, momentum=momentum), nn.ReLU(inplace=True), conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W] -> [N, cout, H, W]."""
        norm, relu, conv = self
        return _forgetful(norm, x, lambda normal: conv(relu(normal)), lambda normal: normal.relu_())

    def at_points(self, x: Tensor, table: GatherTable) -> Tensor:
        """The same between the pixels, at points only: [N, cin, H, W] -> [R, cout].

        Interpolation and convolution are both linear, so interpolating the k * k shifted inputs first and multiplying
        once per point gives what interpolating the convolved map gives.

        Args:
            table: rectified pixels -> interpolated tap at each (point, tap), R * k * k rows; see ``PixelLinks.taps``.
        """
        norm, _, conv = self

        def read(normal: Tensor) -> Tensor:
            pixels = normal.permute(0, 2, 3, 1).reshape(-1, normal.shape[1])
            return _ReluConvAtPoints.apply(pixels, conv.weight, table)

        return _forgetful(norm, x, read, lambda normal: normal)


def _forgetful(
    norm: nn.Module,
    x: Tensor,
    consume: Callable[[Tensor], Tensor],
    redo: Callable[[Tensor], Tensor],
) -> Tensor:
    """``consume(norm(x))``, where what ``consume`` saves of its argument's memory is remade from ``x`` when needed.

    Args:
        redo: brings ``norm(x)`` to the state in which ``consume`` saved it.
    """
    normal = norm(x)
    if (
        type(norm) is not nn.BatchNorm2d or not torch.is_grad_enabled()
    ):  # other ranks' statistics are not at hand
        return consume(normal)
    address, layout, source = normal.untyped_storage().data_ptr(), normal.stride(), x.detach()
    remade: dict[str, Any] = {"saved": 0, "read": 0}
    running = (None, None) if norm.training else (norm.running_mean, norm.running_var)

    def pack(saved: Tensor) -> Any:
        if saved.untyped_storage().data_ptr() != address:
            return saved
        remade["saved"] += 1
        return saved.shape, saved.stride(), saved.storage_offset()

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if remade["read"] == 0:
            with torch.no_grad():
                again = redo(
                    F.batch_norm(
                        source, *running, norm.weight, norm.bias, norm.training, 0.0, norm.eps
                    )
                )
            assert again.stride() == layout
            remade["tensor"] = again
        remade["read"] = (remade["read"] + 1) % remade[
            "saved"
        ]  # the last reader leaves nothing behind
        tensor = remade["tensor"] if remade["read"] else remade.pop("tensor")
        return tensor.as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return consume(normal)


class _ReluConvAtPoints(torch.autograd.Function):
    """``table @ relu(x)`` times the kernel, a group of channels at a time so that few taps exist at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, table: GatherTable) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(x, weight)
        result = 0
        for start in range(0, x.shape[1], GROUP):
            group = slice(start, start + GROUP)
            kernel = _rows(weight[:, group]).to(x.dtype)
            taps = table.apply(x[:, group].relu()).view(-1, len(kernel))
            product = taps @ kernel
            result = result + (product if product.dtype == torch.float64 else product.float())
        return result.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        for start in range(0, x.shape[1], GROUP):
            group = slice(start, start + GROUP)
            rectified, part = x[:, group].relu(), weight[:, group].permute(2, 3, 1, 0)
            kernel = _rows(weight[:, group]).to(x.dtype)
            taps = ctx.table.apply(rectified).view(-1, len(kernel))
            grad_weight[:, group] = (taps.T @ grad).view(part.shape).permute(3, 2, 0, 1)
            del taps  # as large as the group's part of the map; so is its gradient
            grad_group = ctx.table.transposed.apply((grad @ kernel.T).view(-1, rectified.shape[1]))
            torch.ops.aten.threshold_backward.grad_input(
                grad_group, rectified, 0, grad_input=grad_x[:, group]
            )
            del grad_group, rectified
        return grad_x, grad_weight, None


def _rows(weight: Tensor) -> Tensor:
    """Kernel [cout, cin, k, k] as a matrix [k * k * cin, cout]."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
