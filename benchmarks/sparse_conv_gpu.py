"""The GPU part of ``sparse_conv.py --device cuda``: our engine next to plain PyTorch and, where installed, spconv.

A layer's kernel map is there already; the network's are built in every call, as in training. Times are medians in ms.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from core.errors import UserError
from core.models.lidar.minkunet import MinkUNet
from core.sparse import MapCache, convolve, kernel_map, set_backend

TOLERANCE = 2e-2  # greatest error / greatest value, for the widest of the types


def median_gpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median milliseconds between two events around ``work``, gaps between launches included."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def measure_gpu_layer(
    coords: Tensor, dtype: torch.dtype, channels: int, repeats: int
) -> dict[str, list[float]]:
    """[forward, backward] ms of one 3x3x3 layer whose map is there already, per engine."""
    torch.manual_seed(0)
    kmap = kernel_map(MapCache(coords), (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    x = torch.randn(len(coords), channels, device="cuda").to(dtype).requires_grad_()
    weight = (
        (torch.randn(27, channels, channels, device="cuda") / (27 * channels) ** 0.5)
        .to(dtype)
        .requires_grad_()
    )
    engines = {
        name: lambda n=name: convolve(x, weight, None, kmap, n) for name in ("native", "torch")
    }
    inputs = {name: [x, weight] for name in engines}
    if find_spec("spconv"):
        import spconv.pytorch as spconv

        layer = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key="scan").to(
            "cuda", dtype
        )
        origin = coords - coords.amin(0)
        scan = spconv.SparseConvTensor(x, origin, (origin.amax(0)[1:] + 1).tolist(), 1)
        engines["spconv"], inputs["spconv"] = lambda: layer(scan).features, [x, layer.weight]
    reference = convolve(x.detach().double(), weight.detach().double(), None, kmap, "torch")
    if (error := greatest_error(engines["native"]().detach(), reference)) > TOLERANCE:
        raise UserError(f"the native engine is off by {error:.2g} in {dtype}", where="benchmark")
    times = {}
    for name, forward in engines.items():
        y = forward()
        grad = torch.randn_like(y)
        backward = median_gpu_ms(
            lambda y=y, p=inputs[name], g=grad: torch.autograd.grad(y, p, g, retain_graph=True),
            repeats,
        )
        with torch.no_grad():
            times[name] = [median_gpu_ms(forward, repeats), backward]
    return times


def measure_gpu_network(coords: Tensor, dtype: torch.dtype, repeats: int) -> dict[str, list[float]]:
    """[forward, training step] ms of MinkUNet cr 1.0 from coordinates, kernel maps included, per engine."""
    torch.manual_seed(0)
    network = MinkUNet(MinkUNet.Config(name="minkunet"), 20).cuda()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    batch = SimpleNamespace(coords=coords, feats=torch.randn(len(coords), 4, device="cuda"))
    labels = torch.randint(0, 20, (len(coords),), device="cuda")

    def forward() -> Tensor:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return network(batch).logits

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward().float(), labels).backward()
        optimizer.step()

    times = {}
    for name in ("native", "torch", *(["spconv"] if find_spec("spconv") else [])):
        set_backend(name)
        with torch.no_grad():
            inference = median_gpu_ms(forward, repeats)
        times[name] = [inference, median_gpu_ms(step, repeats)]
    set_backend(None)
    return times


def measure_gpu(
    coords: Tensor, widths: list[int], repeats: int, console: Console
) -> dict[str, dict[str, list[float]]]:
    """Time layers and the network in fp32, fp16 and bf16, and print them.

    Raises:
        UserError: there is no GPU, or the native engine is wrong.
    """
    if not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but there is no GPU", where="benchmark")
    coords, results = coords.cuda(), {}
    console.print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}", markup=False)
    for name, dtype in {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
    }.items():
        for channels in widths:
            results[f"{name} layer {channels}"] = measure_gpu_layer(
                coords, dtype, channels, repeats
            )
        results[f"{name} MinkUNet"] = measure_gpu_network(coords, dtype, max(3, repeats // 3))
    table = Table(
        title="forward / backward or step, ms (how many times ours)", title_justify="left"
    )
    for column in ("", "native", "torch", "spconv"):
        table.add_column(column, justify="right")
    for name, engines in results.items():
        ours = engines["native"]
        cells = [
            " / ".join(f"{t:.2f} ({t / o:.1f}x)" for t, o in zip(engines.get(e, ()), ours))
            for e in ("torch", "spconv")
        ]
        table.add_row(name, " / ".join(f"{t:.2f}" for t in ours), *cells)
    console.print(table)
    return results


def greatest_error(y: Tensor, reference: Tensor) -> float:
    """Greatest error / greatest value."""
    return float((y.double() - reference).abs().max() / reference.abs().max())
