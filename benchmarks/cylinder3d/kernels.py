"""What Cylinder3D's convolutions cost by the shape of their kernel, beside matrix products of as much arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.convolutions import Call, convolution_calls
from benchmarks.sparse_conv import DTYPES
from benchmarks.timing import median_ms
from core.contracts import Batch

Clock = Callable[[], float]
Median = Callable[[Callable[[], object]], float]

__all__ = ["Work", "count_macs", "measure_kernels"]


@dataclass
class Work:
    """All convolutions of one kernel.

    Attributes:
        gflop: of their forward passes; their backward passes have twice as many.
        forward, backward, product: ms, kernel maps built; of the products of their forward passes.
    """

    count: int = 0
    gflop: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    product: float = 0.0

    def shares(self, peak: float) -> tuple[float, float]:
        """Of the peak (GFLOP/s), forward and backward."""
        each = self.gflop / peak * 1e3
        return each / self.forward, 2 * each / self.backward

    def to_json(self, peak: float) -> dict[str, float]:
        """Its fields and shares."""
        forward, backward = self.shares(peak)
        return asdict(self) | {"forward_share": forward, "backward_share": backward}


def kernel_name(call: Call) -> str:
    """Extents along range, azimuth and height, and the stride."""
    module = call.module
    name = "x".join(str(length) for length in module.kernel_size)
    if module.transposed:
        return f"{name}, transposed"
    if max(module.stride) > 1:
        return f"{name}, stride {max(module.stride)}"
    return name


def measure_kernels(
    network: nn.Module, batch: Batch, dtype: str, repeats: int, clock: Clock = time.perf_counter
) -> dict[str, Work]:
    """The network's convolutions, each alone, summed by kernel.

    Args:
        network: in evaluation mode. clock: gives seconds.
    """
    found: dict[str, Work] = {}
    median = partial(median_ms, repeats=repeats, clock=clock)
    for call in convolution_calls(network, batch):
        work = found.setdefault(kernel_name(call), Work())
        forward, backward = _times(call, dtype, median)
        work.count += 1
        work.gflop += 2e-9 * call.macs
        work.forward += forward
        work.backward += backward
        work.product += _product(call, dtype, median)
    return dict(sorted(found.items()))


def _times(call: Call, dtype: str, median: Median) -> tuple[float, float]:
    """Ms of forward and backward, with the features in the type."""
    feats = call.x.feats.detach().to(DTYPES[dtype])
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        with torch.no_grad():
            x = call.x.replace(feats)
            forward = median(lambda: call.module(x))
        leaf = feats.clone().requires_grad_()
        y = call.module(call.x.replace(leaf)).feats
    leaves = (leaf, call.module.kernel)
    grad = torch.randn_like(y)
    backward = median(lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True))
    return forward, backward


def _product(call: Call, dtype: str, median: Median) -> float:
    """Ms of [pairs, cin] x [cin, cout]: the arithmetic of the forward pass without any gathering."""
    module = call.module
    rows = torch.randn(call.pairs, module.in_channels).to(DTYPES[dtype])
    weight = torch.randn(module.in_channels, module.out_channels).to(DTYPES[dtype])
    return median(lambda: torch.mm(rows, weight))


@torch.no_grad()
def count_macs(network: nn.Module, batch: Batch) -> dict[str, int]:
    """Multiply-accumulates of one inference: of ``convolutions``, from their kernel maps, and of ``linear`` layers.

    Args:
        network: in evaluation mode.
    """
    linear = 0

    def note(module: nn.Linear, inputs: Sequence[Tensor]) -> None:
        nonlocal linear
        linear += inputs[0].numel() * module.out_features

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    convolutions = sum(call.macs for call in convolution_calls(network, batch))
    for hook in hooks:
        hook.remove()
    return {"convolutions": convolutions, "linear": linear}
