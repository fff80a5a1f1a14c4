"""How fast fused window attention trains, and how little memory it needs, next to the operators on explicit pairs.

    python benchmarks/window_attention.py [--scan FILE.bin] [--stages 4 3 2 1] [--repeats 5] [--threads N] [--json FILE]
    python benchmarks/window_attention.py --device cuda --dtypes float32 float16 --stages 4 3 2 1 --repeats 20
    python benchmarks/window_attention.py --one-window 200000 [--kinds radial] [--dtypes bfloat16] [--threads N]

Without ``--scan`` a scan of the synthetic town is cast with the model of a 64-beam scanner. Stage s of the network has
voxels of 2^s * --voxel-size, and half of its heads on cubic, half on radial windows. Times are medians in ms of one
forward and backward; memory is the peak above what was resident (on a GPU: allocated) before, in MiB. TFLOP/s of the
fused path count the seven products of forward and backward, 14 d per pair and head, not the relative positions. Both
results are compared first. ``--one-window`` puts that many random tokens into a single window of one head on the CPU:
the unfused path could not hold its pairs.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sptr
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import resident_kib, write_measurement
from core.engine.run.cli import run_command
from core.errors import UserError

LEVELS, HEAD_DIM, BASE = 24, 16, 0.0125
TOLERANCE = {
    "float32": 1e-4,
    "bfloat16": 3e-2,
    "float16": 5e-3,
}  # greatest difference / greatest value
PATHS = {"fused": sptr.fused_window_attention, "unfused": sptr.operator_window_attention}


@dataclass
class Branch:
    """Windows of one branch, and measurements of both paths."""

    stage: int
    kind: str
    dtype: str
    heads: int
    tokens: int
    windows: int
    largest: int  # tokens in the fullest window
    pairs: int
    fused_ms: float
    unfused_ms: float
    fused_mib: float
    unfused_mib: float
    tflops: float


# --- input --------------------------------------------------------------------------------------------------------


def read_points(scan: Path | None) -> tuple[str, Tensor]:
    """What the scan is, and its points f32 [N, 3] m.

    Raises:
        UserError: the file is missing or does not hold float32 quadruples.
    """
    if scan is None:
        from core.datasets.synthetic.scene import Scene
        from core.datasets.synthetic.sensors import HDL64, KITTI_LIDAR
        from core.datasets.synthetic.sensors import scan as cast

        snapshot = Scene(0, 0, 1.0).snapshot(0.0, body=False)
        points = cast(snapshot, KITTI_LIDAR, HDL64, 1.0, np.random.default_rng(0)).points
        return "synthetic town, 64 beams", torch.from_numpy(
            np.ascontiguousarray(points, np.float32)
        )
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
    return str(scan), torch.from_numpy(values.reshape(-1, 4)[:, :3].copy())


def voxel_means(points: Tensor, size: float) -> Tensor:
    """Mean point f32 [V, 3] of every voxel of ``size`` m."""
    owner = torch.unique(torch.floor(points / size).long(), dim=0, return_inverse=True)[1]
    count = torch.bincount(owner)
    sums = [torch.bincount(owner, weights=points[:, axis].double()) for axis in range(3)]
    return (torch.stack(sums, 1) / count[:, None]).float()


def branch_index(xyz: Tensor, stage: int, kind: str, voxel_size: float) -> sptr.WindowIndex:
    """Windows of a stage: 3 voxels wide, or cones of 2^stage degrees."""
    batch = torch.zeros(len(xyz), dtype=torch.long, device=xyz.device)
    if kind == "cubic":
        window = torch.full((3,), 3 * voxel_size * 2**stage)
        return sptr.window_index(xyz, batch, window, window / LEVELS, levels=LEVELS)
    window = torch.tensor([2.0**stage, 2.0**stage, 120.0])
    return sptr.window_index(
        sptr.spherical(xyz), batch, window, window / LEVELS, levels=LEVELS, kind=kind, base=BASE
    )


def inputs(
    index: sptr.WindowIndex, heads: int, dtype: str = "float32"
) -> tuple[list[Tensor], Tensor]:
    """Leaves (q, k, v of ``dtype`` and the three tables f32) and the gradient of the output, where the index is."""
    generator = torch.Generator().manual_seed(0)
    n, length = len(index.order), index.table_length
    shapes = [(n, heads, HEAD_DIM)] * 3 + [(length, 3, heads, HEAD_DIM)] * 3
    scales = (HEAD_DIM**-0.5, 1.0, 1.0, 0.1, 0.1, 0.1)
    where, kind = index.order.device, getattr(torch, dtype)
    types = [kind] * 3 + [torch.float32] * 3
    leaves = [
        (torch.randn(shape, generator=generator) * scale).to(where, type_).requires_grad_()
        for shape, scale, type_ in zip(shapes, scales, types)
    ]
    return leaves, torch.randn(shapes[0], generator=generator).to(where, kind)


# --- measurements -------------------------------------------------------------------------------------------------


def step(path: str, index: sptr.WindowIndex, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Forward and backward; the output and the six gradients."""
    out = PATHS[path](*leaves[:3], index, *leaves[3:])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def median_ms(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median milliseconds of ``work`` over ``repeats`` calls."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def peak_mib(path: str, index: sptr.WindowIndex, heads: int, dtype: str, threads: int) -> float:
    """Peak memory of one step above what was resident before; on the CPU call it in a fresh process."""
    if index.order.is_cuda:
        leaves, grad = inputs(index, heads, dtype)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(path, index, leaves, grad)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    torch.set_num_threads(threads)
    tiny = sptr.WindowIndex(
        torch.arange(2), torch.tensor([0, 2]), index.positions[:2], index.kind, index.levels
    )
    step(
        path, tiny, *inputs(tiny, heads, dtype)
    )  # code and thread pools are not the algorithm's memory
    leaves, grad = inputs(index, heads, dtype)
    before = resident_kib("VmRSS")
    step(path, index, leaves, grad)
    return max(0, resident_kib("VmHWM") - before) / 1024


def one_window(tokens: int, kind: str, dtype: str, threads: int) -> tuple[float, float, float]:
    """Seconds of forward and of backward, and peak MiB of both, of one window; call it in a fresh process."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def window(n: int) -> sptr.WindowIndex:
        positions = torch.randint(0, LEVELS, (n, 3), generator=generator).float()
        if kind == "radial":
            positions[:, 2] = torch.rand(n, generator=generator) * 50 / BASE
        return sptr.WindowIndex(
            torch.randperm(n, generator=generator), torch.tensor([0, n]), positions, kind, LEVELS
        )

    tiny = window(2)
    step("fused", tiny, *inputs(tiny, 1, dtype))
    index = window(tokens)
    leaves, grad = inputs(index, 1, dtype)
    before, start = resident_kib("VmRSS"), time.perf_counter()
    out = sptr.fused_window_attention(*leaves[:3], index, *leaves[3:])
    middle = time.perf_counter()
    torch.autograd.grad(out, leaves, grad)
    end = time.perf_counter()
    return middle - start, end - middle, max(0, resident_kib("VmHWM") - before) / 1024


def peaks(index: sptr.WindowIndex, heads: int, dtype: str, threads: int) -> dict[str, float]:
    """:func:`peak_mib` of both paths."""
    if index.order.is_cuda:
        return {path: peak_mib(path, index, heads, dtype, threads) for path in PATHS}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {path: pool.apply(peak_mib, (path, index, heads, dtype, threads)) for path in PATHS}


def measure(xyz: Tensor, stage: int, kind: str, dtype: str, args: argparse.Namespace) -> Branch:
    """Compare, time and weigh both paths on one branch.

    Raises:
        UserError: the two paths disagree.
    """
    index, heads = branch_index(xyz.to(args.device), stage, kind, args.voxel_size), 2 ** (stage - 1)
    leaves, grad = inputs(index, heads, dtype)
    results = [step(path, index, leaves, grad) for path in PATHS]  # also warms up
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results))
    if worst > TOLERANCE[dtype]:
        where = f"stage {stage}, {kind}, {dtype}"
        raise UserError(f"the fused and the unfused path differ by {worst:.2g}", where=where)
    del results
    repeats = {"fused": args.repeats, "unfused": max(1, args.repeats // 5)}
    times = {
        path: median_ms(lambda p=path: step(p, index, leaves, grad), repeats[path], args.device)
        for path in PATHS
    }
    memory = peaks(index, heads, dtype, args.threads)
    counts = index.ptr.diff()
    pairs = int((counts * counts).sum())
    return Branch(
        stage, kind, dtype, heads, len(xyz), len(counts), int(counts.max()), pairs, times["fused"], times["unfused"],
        memory["fused"], memory["unfused"], 14 * HEAD_DIM * pairs * heads / times["fused"] * 1e-9,
    )  # fmt: skip


# --- output -------------------------------------------------------------------------------------------------------


def report(branches: list[Branch]) -> Table:
    """One row per branch."""
    table = Table(title="forward + backward", title_justify="left", title_style="bold")
    for column in (
        "stage",
        "windows",
        "tokens",
        "fullest",
        "pairs",
        "heads",
        "dtype",
        "fused ms",
        "unfused ms",
    ):
        table.add_column(column, justify="right")
    for column in ("faster", "TFLOP/s", "fused MiB", "unfused MiB", "less"):
        table.add_column(column, justify="right")
    for b in branches:
        table.add_row(
            str(b.stage), f"{b.windows:,} {b.kind}", f"{b.tokens:,}", str(b.largest), f"{b.pairs:,}", str(b.heads),
            b.dtype, f"{b.fused_ms:.1f}", f"{b.unfused_ms:.0f}", f"{b.unfused_ms / b.fused_ms:.1f}x",
            f"{b.tflops:.3f}", f"{b.fused_mib:.0f}", f"{b.unfused_mib:.0f}",
            f"{b.unfused_mib / max(b.fused_mib, 0.1):.1f}x",
        )  # fmt: skip
    return table


def report_one_window(args: argparse.Namespace) -> tuple[Table, list[dict[str, object]]]:
    """Measure :func:`one_window` for every kind and type: what to print, and what to save."""
    table, rows, tokens = (
        Table(title="one window, one head", title_justify="left"),
        [],
        args.one_window,
    )
    for column in (
        "kind",
        "dtype",
        "tokens",
        "forward s",
        "Mpairs/s",
        "backward s",
        "Mpairs/s",
        "MiB",
        "bytes/token",
    ):
        table.add_column(column, justify="right")
    for kind in args.kinds:
        for dtype in args.dtypes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                forward, backward, mib = pool.apply(one_window, (tokens, kind, dtype, args.threads))
            rate = [f"{tokens * tokens / seconds * 1e-6:.0f}" for seconds in (forward, backward)]
            table.add_row(
                kind, dtype, f"{tokens:,}", f"{forward:.1f}", rate[0], f"{backward:.1f}", rate[1], f"{mib:.0f}",
                f"{mib * 2**20 / tokens:.0f}",
            )  # fmt: skip
            rows.append({"kind": kind, "dtype": dtype, "tokens": tokens, "forward_s": forward, "backward_s": backward,
                         "mib": mib})  # fmt: skip
    return table, rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scan", type=Path, help=".bin file of float32 (x, y, z, intensity); default: synthetic"
    )
    parser.add_argument("--voxel-size", type=float, default=0.05, help="m, of the finest voxels")
    parser.add_argument("--stages", type=int, nargs="+", default=[4], help="1 to 4")
    parser.add_argument(
        "--kinds", nargs="+", default=["radial", "cubic"], choices=["radial", "cubic"]
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], choices=sorted(TOLERANCE), help="of q, k and v"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="steps per measurement; a fifth for the unfused path"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--one-window", type=int, metavar="N", help="N tokens in one window, CPU, fused path only"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def kernels(device: str) -> str:
    """Which compiled kernels run, and where.

    Raises:
        UserError: there are none, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no CUDA device",
            where="--device cuda",
            cure="Leave the option out for the CPU",
        )
    usable, status = sptr.cuda_library_status() if device == "cuda" else sptr.library_status()
    if not usable:
        raise UserError(
            f"there are no compiled kernels to measure ({status})",
            where="benchmark",
            cure="`make setup`",
        )
    return f"{status}, {torch.cuda.get_device_name()}" if device == "cuda" else status


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    status = kernels(args.device)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    if args.one_window:
        table, rows = report_one_window(args)
        console.print(f"{status}, {args.threads} threads", table)
        if args.json:
            write_measurement(args.json, {"kernels": status, "windows": rows})
        return
    source, points = read_points(args.scan)
    console.print(
        f"{source}: {len(points):,} points; {status}, {args.threads} threads", markup=False
    )
    if (load := os.getloadavg()[0]) > 0.5:
        console.print(
            f"warning: other programs are running (load {load:.1f}); times vary and ratios mislead"
        )
    branches = []
    for stage in args.stages:
        xyz = voxel_means(points, args.voxel_size * 2**stage)
        branches += [
            measure(xyz, stage, kind, dtype, args) for kind in args.kinds for dtype in args.dtypes
        ]
    console.print(report(branches))
    if args.json:
        write_measurement(
            args.json,
            {"source": source, "kernels": status, "branches": [asdict(b) for b in branches]},
        )


if __name__ == "__main__":
    run_command(main)
