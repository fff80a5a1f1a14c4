"""What Cylinder3D costs on one scan on the CPU in the published grid: time, arithmetic and memory, 0.5x and 1.0x.

    python benchmarks/cylinder.py [--scan FILE.bin] [--widths 0.5x 1.0x] [--parts times kernels memory] [--repeats 3]
        [--threads N] [--cpu-time] [--json FILE]

Without ``--scan`` a scan of the synthetic town is cast with the model of a 64-beam scanner. "times": ours takes turns
with the plain PyTorch engine (gather, multiply, add) in one process, and with losses on the dense grid as published;
medians, of the clock and of the processor (all threads together). Kernel maps are built anew in each call.
"kernels": each convolution alone, summed by the shape of its kernel, beside the machine's matrix product and
products of the same rows. "memory": the peak of a process of its own that takes three training steps.
Multiply-accumulates are counted from the kernel maps.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.cylinder3d.kernels import Work, count_macs, measure_kernels
from benchmarks.cylinder3d.scene import WIDTHS, cylinder_batch, network_of
from benchmarks.cylinder3d.steps import LOSSES, check_losses, infer, train
from benchmarks.cylinder3d.weight import peak_gb
from benchmarks.network import ENGINES, Timing
from benchmarks.sparse_conv import DTYPES, measure_peak, read_features, scan_parser, start
from benchmarks.timing import write_measurement
from core.contracts import Batch
from core.engine.run.cli import run_command
from core.machine import processor_name
from core.sparse import fold_batch_norm, set_backend

PARTS = ("times", "kernels", "memory")
DENSE = "training step, dense losses"


def works_of(
    network: nn.Module, folded: nn.Module, batch: Batch, engine: str, dtype: str
) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    step = partial(train, network, optimizer, batch, dtype)
    works: dict[str, Callable[[], object]] = {
        "inference": partial(infer, folded, batch, dtype),
        "training step": step,
    }
    if engine == "ours":
        works[DENSE] = partial(step, "dense")
    return works


def measure_times(network: nn.Module, batch: Batch, repeats: int) -> dict[str, dict[str, Timing]]:
    """Work -> "engine dtype" -> times; the engines take turns, after one call each to warm up."""
    folded = fold_batch_norm(network)
    network.train()
    times: dict[str, dict[str, Timing]] = {}
    for repeat in range(repeats + 1):
        for engine, backend in ENGINES.items():
            set_backend(backend)
            for dtype in DTYPES:
                for name, work in works_of(network, folded, batch, engine, dtype).items():
                    timing = times.setdefault(name, {}).setdefault(f"{engine} {dtype}", Timing())
                    (timing if repeat else Timing()).measure(work)
    set_backend(None)
    return times


def measure_memory(points: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Width -> "losses dtype" -> GB."""
    found: dict[str, Any] = {}
    for name in args.widths:
        for loss in LOSSES:
            for dtype in DTYPES:
                gb = peak_gb(name, points, dtype, loss, args.threads)
                found.setdefault(name, {})[f"{loss} {dtype}"] = gb
    return found


# --- output -------------------------------------------------------------------------------------------------------


def titled(title: str, *columns: str) -> Table:
    """An empty table whose numbers stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def time_table(times: dict[str, dict[str, Timing]], name: str) -> Table:
    """One row per work and engine."""
    table = titled(f"{name}, ms of the clock (of the processor)", "work", "engine", *DTYPES)
    for work, found in times.items():
        for engine in ENGINES:
            if f"{engine} fp32" in found:
                cells = [found[f"{engine} {dtype}"].medians() for dtype in DTYPES]
                table.add_row(work, engine, *("{:,.0f} ({:,.0f})".format(*cell) for cell in cells))
    return table


def kernel_table(works: dict[str, Work], peak: float, title: str) -> Table:
    """One row per kernel, and the whole."""
    columns = ("kernel", "number", "GFLOP", "forward ms", "of the peak", "product ms")
    table = titled(title, *columns, "backward ms", "of the peak")
    for name, work in (*works.items(), ("all", total(works))):
        forward, backward = work.shares(peak)
        table.add_row(
            name,
            str(work.count),
            f"{work.gflop:.1f}",
            f"{work.forward:.1f}",
            f"{forward:.0%}",
            f"{work.product:.1f}",
            f"{work.backward:.1f}",
            f"{backward:.0%}",
        )
    return table


def total(works: dict[str, Work]) -> Work:
    """The sum over kernels."""
    whole = Work()
    for work in works.values():
        for key, value in asdict(work).items():
            setattr(whole, key, getattr(whole, key) + value)
    return whole


def memory_table(memory: dict[str, Any]) -> Table:
    """One row per width, losses and type."""
    table = titled(
        "training at batch 1, GB (1e9 bytes)", "network", "losses", "process", "training"
    )
    for name, found in memory.items():
        for key, gb in found.items():
            table.add_row(name, key, f"{gb['process']:.2f}", f"{gb['training']:.2f}")
    return table


# --- command line -------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = scan_parser(__doc__, 3)
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="kernels in time of the processor, for a machine in use; of one thread",
    )
    return parser.parse_args()


def measure_network(
    name: str, batch: Batch, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Everything of one width but its memory, printed and as plain values."""
    network = network_of(name).eval()
    check_losses(network, batch)
    macs = count_macs(network, batch)
    found: dict[str, Any] = {"gmacs": {key: count * 1e-9 for key, count in macs.items()}}
    counted = ", ".join(f"{key} {value:.2f}" for key, value in found["gmacs"].items())
    console.print(f"{name}: GMACs of an inference: {counted}")
    if "kernels" in args.parts:
        found |= kernels_of(name, network, batch, args, console)
    if "times" in args.parts:
        times = measure_times(network, batch, args.repeats)
        console.print(time_table(times, name))
        found["times_ms"] = {
            work: {key: asdict(timing) for key, timing in by_engine.items()}
            for work, by_engine in times.items()
        }
    return found


def kernels_of(
    name: str, network: nn.Module, batch: Batch, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Convolutions by kernel and in all, and the machine's peak; by type, printed and as plain values."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    found: dict[str, Any] = {"kernels": {}, "peak_gflops": {}, "convolutions": {}}
    for dtype, type_ in DTYPES.items():
        peak = measure_peak(type_, 10, clock)
        works = measure_kernels(network, batch, dtype, max(3, args.repeats), clock)
        console.print(kernel_table(works, peak, f"{name}, {dtype}, peak {peak:.0f} GFLOP/s"))
        found["peak_gflops"][dtype] = peak
        found["kernels"][dtype] = {kernel: work.to_json(peak) for kernel, work in works.items()}
        found["convolutions"][dtype] = total(works).to_json(peak)
    return found


def main() -> None:
    """Measure and print."""
    args = arguments()
    console, status = start(args.threads)
    source, points = read_features(args.scan)
    batch = cylinder_batch(points)
    console.print(
        f"{source}: {len(points):,} points, {len(batch.cells):,} cells; {processor_name()}, "
        f"{args.threads} threads, torch {torch.__version__}, {status}",
        markup=False,
    )
    found: dict[str, Any] = {"scan": source, "cells": len(batch.cells), "threads": args.threads}
    for name in args.widths:
        found[name] = measure_network(name, batch, args, console)
    if "memory" in args.parts:
        found["memory_gb"] = measure_memory(points, args)
        console.print(memory_table(found["memory_gb"]))
    if args.json:
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
