"""How fast a 3x3x3 sparse convolution runs on a whole scan, next to plain PyTorch and, where installed, spconv.

    python benchmarks/sparse_conv.py [--scan FILE.bin] [--channels 32 64 128] [--repeats 15] [--threads N] [--json FILE]
    python benchmarks/sparse_conv.py --device cuda [...]    also a whole MinkUNet, kernel maps included

Without ``--scan`` a scan of the synthetic town is cast with the model of a 64-beam scanner. Times are medians in ms.
"peak" is the share of what a large matrix product of the same type reaches on this machine. Every result is compared
with float64 first. spconv's CPU kernel is right with one thread only, so its error with more is shown. On a machine
that does other work too, OMP_WAIT_POLICY=passive keeps waiting threads from taking the processor from working ones.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import median_ms, write_measurement
from core.data.partitions import voxelize
from core.engine.run.cli import run_command
from core.engine.run.memory import keep_freed_memory
from core.errors import UserError
from core.machine import processor_name
from core.sparse import KernelMap, MapCache, convolve, kernel_map, library_status

KERNEL, STEP = (3, 3, 3), (1, 1, 1)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # greatest error / greatest value


@dataclass
class Layer:
    """Measurements of one width and type; ms, and greatest error / greatest value."""

    dtype: str
    channels: int
    gflop: float  # of one forward
    peak_gflops: float
    forward: float
    backward: float
    torch_forward: float
    torch_backward: float
    spconv_one_thread: float | None = None
    spconv_threads: float | None = None
    spconv_threads_error: float | None = None

    def share(self, passes: int, milliseconds: float) -> float:
        """Share of the peak of ``passes`` times the forward's work."""
        return passes * self.gflop / (milliseconds * 1e-3) / self.peak_gflops


@contextmanager
def threads(count: int):
    """Run with ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- input --------------------------------------------------------------------------------------------------------


def read_points(scan: Path | None) -> tuple[str, np.ndarray]:
    """What the scan is, and its points f32 [N, 3] m.

    Raises:
        UserError: the file is missing or does not hold float32 quadruples.
    """
    if scan is None:
        return "synthetic town, 64 beams", cast_points()
    try:
        values = np.fromfile(scan, np.float32)
    except OSError as error:
        raise UserError(f"cannot read this scan ({error.strerror})", where=str(scan)) from error
    if len(values) == 0 or len(values) % 4:
        raise UserError(
            f"{len(values)} float32 values are not (x, y, z, intensity) per point",
            where=str(scan),
            cure="Name a .bin file of SemanticKITTI's velodyne folder",
        )
    return str(scan), values.reshape(-1, 4)[:, :3]


def read_features(path: Path | None) -> tuple[str, np.ndarray]:
    """``read_points`` as f32 [N, 4], intensity 0: the numbers do not change the time."""
    source, positions = read_points(path)
    return source, np.pad(positions.astype(np.float32, copy=False), ((0, 0), (0, 1)))


def cast_points() -> np.ndarray:
    """Points f32 [N, 3] m of one turn of a 64-beam scanner in the synthetic town."""
    from core.datasets.synthetic.scene import Scene
    from core.datasets.synthetic.sensors import HDL64, KITTI_LIDAR, scan

    snapshot = Scene(0, 0, 1.0).snapshot(0.0, body=False)
    return scan(snapshot, KITTI_LIDAR, HDL64, 1.0, np.random.default_rng(0)).points


def as_batch(points: np.ndarray, voxel_size: float) -> Tensor:
    """Coordinates i32 [V, 4] of a batch of one scan."""
    coords = torch.from_numpy(voxelize(np.ascontiguousarray(points), voxel_size)[0])
    return torch.cat([coords.new_zeros(len(coords), 1), coords], 1)


# --- measurements -------------------------------------------------------------------------------------------------


def measure_peak(
    dtype: torch.dtype, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Best GFLOP/s of a square matrix product of 2048; ``clock`` gives seconds."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    times = [median_ms(lambda: torch.mm(a, b), 1, clock) for _ in range(repeats)]
    return 2 * 2048**3 / min(times) * 1e-6


def measure_maps(coords: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds to build kernel maps from nothing, compiled and in PyTorch."""

    def build(kernel: tuple, step: tuple) -> KernelMap:
        return kernel_map(MapCache(coords), (1, 1, 1), kernel, step, (1, 1, 1))

    def compiled(kernel: tuple, step: tuple) -> None:
        kmap = build(kernel, step)
        _ = kmap.tiles, kmap.offsets  # for forward and for the weights' gradient

    results = {}
    for name, kernel, step in (("3x3x3", KERNEL, STEP), ("2x2x2, stride 2", (2, 2, 2), (2, 2, 2))):
        ours = median_ms(lambda k=kernel, s=step: compiled(k, s), repeats)
        with (
            mock.patch("core.sparse.maps.library", return_value=None),
            mock.patch("core.sparse.tensor.library", return_value=None),
        ):
            plain = median_ms(lambda k=kernel, s=step: build(k, s).offsets, max(3, repeats // 3))
        results[name] = {"compiled": ours, "torch": plain}
    return results


def greatest_error(y: Tensor, reference: Tensor) -> float:
    """Greatest error / greatest value."""
    return float((y.double() - reference).abs().max() / reference.abs().max())


def measure_layer(
    coords: Tensor, kmap: KernelMap, dtype: str, channels: int, peak: float, args
) -> Layer:
    """Time one width; the engines see the same numbers."""
    torch.manual_seed(0)
    x = torch.randn(len(coords), channels).to(DTYPES[dtype])
    weight = (torch.randn(kmap.volume, channels, channels) / (27 * channels) ** 0.5).to(
        DTYPES[dtype]
    )
    reference = convolve(x.double(), weight.double(), None, kmap, "torch")
    times = {}
    for backend in ("native", "torch"):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = convolve(*leaves, None, kmap, backend)
        if (error := greatest_error(y.detach(), reference)) > TOLERANCE[dtype]:
            raise UserError(
                f"the {backend} engine is off by {error:.2g} in {dtype}", where="benchmark"
            )
        grad, repeats = (
            torch.randn_like(y),
            args.repeats if backend == "native" else max(3, args.repeats // 3),
        )
        with torch.no_grad():
            forward = median_ms(lambda b=backend: convolve(x, weight, None, kmap, b), repeats)
        backward = median_ms(
            lambda y=y, p=leaves, g=grad: torch.autograd.grad(y, p, g, retain_graph=True), repeats
        )
        times[backend] = forward, backward
    gflop = 2e-9 * kmap.num_pairs * channels**2
    layer = Layer(dtype, channels, gflop, peak, *times["native"], *times["torch"])
    if dtype == "fp32" and find_spec("spconv"):
        measure_spconv(layer, coords, x, weight, reference, args)
    return layer


def measure_spconv(
    layer: Layer, coords: Tensor, x: Tensor, weight: Tensor, reference: Tensor, args
) -> None:
    """spconv's CPU forward with its index pairs already built, with one thread and with all."""
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo

    channels = x.shape[1]
    module = spconv.SubMConv3d(
        channels, channels, 3, bias=False, indice_key="scan", algo=ConvAlgo.Native
    )
    cubes = weight.view(3, 3, 3, channels, channels)  # z, y, x (fastest), in, out
    repeats = max(3, args.repeats // 3)
    with torch.no_grad():
        module.weight.copy_(cubes.permute(4, 2, 1, 0, 3))
        tensor = spconv.SparseConvTensor(x, coords, (coords.amax(0)[1:] + 1).tolist(), 1)
        with threads(1):
            if (error := greatest_error(module(tensor).features, reference)) > TOLERANCE["fp32"]:
                raise UserError(
                    f"spconv is off by {error:.2g} even with one thread", where="benchmark"
                )
            layer.spconv_one_thread = median_ms(lambda: module(tensor), repeats)
        if args.threads > 1:
            errors = [greatest_error(module(tensor).features, reference) for _ in range(3)]
            layer.spconv_threads, layer.spconv_threads_error = (
                median_ms(lambda: module(tensor), repeats),
                max(errors),
            )


# --- output -------------------------------------------------------------------------------------------------------


def map_table(maps: dict[str, dict[str, float]]) -> Table:
    """Kernel maps, one row each."""
    table = Table(title="kernel map from nothing, ms", title_justify="left", title_style="bold")
    table.add_column("kernel")
    for column in ("compiled", "PyTorch", "times faster"):
        table.add_column(column, justify="right")
    for name, t in maps.items():
        table.add_row(
            name, f"{t['compiled']:.1f}", f"{t['torch']:.1f}", f"{t['torch'] / t['compiled']:.1f}"
        )
    return table


def layer_table(layers: list[Layer], count: int) -> Table:
    """Convolutions, one row each."""
    with_spconv = any(layer.spconv_one_thread for layer in layers)
    table = Table(
        title="3x3x3 convolution, ms (how many times ours)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("type")
    columns = ["channels", "forward", "peak", "backward", "peak", "PyTorch fwd", "PyTorch bwd"]
    for column in columns + (
        ["spconv fwd, 1 thread", f"{count} threads", "error"] if with_spconv else []
    ):
        table.add_column(column, justify="right")
    for a in layers:
        cells = [a.dtype, str(a.channels), f"{a.forward:.1f}", f"{a.share(1, a.forward):.0%}"]
        cells += [f"{a.backward:.1f}", f"{a.share(2, a.backward):.0%}"]
        cells += [compared(a.torch_forward, a.forward), compared(a.torch_backward, a.backward)]
        cells += [compared(a.spconv_one_thread, a.forward), compared(a.spconv_threads, a.forward)]
        cells.append("" if a.spconv_threads_error is None else f"{a.spconv_threads_error:.1e}")
        table.add_row(*cells[: len(table.columns)])
    return table


def compared(milliseconds: float | None, ours: float) -> str:
    """``12.3 (4.5x)``, or nothing."""
    return "" if milliseconds is None else f"{milliseconds:.1f} ({milliseconds / ours:4.1f}x)"


def warn_if_busy(console: Console) -> None:
    """Say so when other programs use the processor: the times are then not to be trusted."""
    load = os.getloadavg()[0]
    if load > 0.5:
        console.print(
            f"warning: other programs are running (load {load:.1f}); times vary and ratios mislead"
        )


def start(threads: int) -> tuple[Console, str]:
    """Set torch's threads and memory; where to print, and which kernels are measured.

    Raises:
        UserError: there are none.
    """
    torch.set_num_threads(threads)
    usable, status = library_status()
    if not usable:
        raise UserError(
            "there are no compiled kernels to measure",
            where="benchmark",
            cure="Run `make setup` first",
        )
    keep_freed_memory()
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    warn_if_busy(console)
    return console, status


def scan_parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark on a scan.

    Args:
        repeats: how many calls if not told otherwise.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scan", type=Path, help=".bin file of float32 (x, y, z, intensity); default: synthetic"
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="calls per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scan", type=Path, help=".bin file of float32 (x, y, z, intensity); default: synthetic"
    )
    parser.add_argument("--voxel-size", type=float, default=0.05, help="m")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[32, 64, 128], help="widths, in = out"
    )
    parser.add_argument(
        "--repeats", type=int, default=15, help="calls per measurement; a third for slow engines"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    console, status = start(args.threads)
    source, points = read_points(args.scan)
    coords = as_batch(points, args.voxel_size)
    if args.device == "cuda":
        from sparse_conv_gpu import measure_gpu

        results = measure_gpu(coords, args.channels, args.repeats, console)
        if args.json:
            write_measurement(
                args.json, {"source": source, "gpu": torch.cuda.get_device_name(), "ms": results}
            )
        return
    kmap = kernel_map(MapCache(coords), (1, 1, 1), KERNEL, STEP, (1, 1, 1))
    peaks = {name: measure_peak(dtype, 10) for name, dtype in DTYPES.items()}
    scan = {"source": source, "points": len(points), "voxels": len(coords), "pairs": kmap.num_pairs}
    machine = {
        "cpu": processor_name(),
        "threads": args.threads,
        "torch": torch.__version__,
        "kernels": status,
        "load": os.getloadavg()[0],
    }
    console.print(f"{source}: {len(points):,} points, {len(coords):,} voxels of {args.voxel_size} m, "
                  f"{kmap.num_pairs / len(coords):.2f} pairs per voxel", markup=False)  # fmt: skip
    console.print(f"{machine['cpu']}, torch {torch.__version__}, {status}", markup=False)
    console.print(
        "matrix product: " + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items())
    )
    maps = measure_maps(coords, args.repeats)
    console.print(map_table(maps))
    layers = [
        measure_layer(coords, kmap, name, channels, peaks[name], args)
        for name in DTYPES
        for channels in args.channels
    ]
    console.print(layer_table(layers, args.threads))
    if args.json:
        report = {"scan": scan, "machine": machine, "peak_gflops": peaks, "maps_ms": maps}
        write_measurement(args.json, report | {"layers": [asdict(layer) for layer in layers]})


if __name__ == "__main__":
    run_command(main)
