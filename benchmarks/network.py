"""How fast a whole MinkUNet runs on one scan on the CPU: inference, training step, and file to labels.

    python benchmarks/network.py [--scan FILE.bin] [--cr 1.0] [--repeats 3] [--threads N] [--json FILE]

Without ``--scan`` a scan of the synthetic town is cast with the model of a 64-beam scanner. Ours takes turns with the
plain PyTorch engine (gather, multiply, add) in one process, so that both meet the same load; times are medians, of the
clock and of the processor (all threads together), which a busy machine disturbs less. Kernel maps are built anew
in each call. Ours infers with batch normalisation folded, as ``evaluate.py`` does. "peak" is what a large product
of the same type reaches on this machine; no engine that multiplies each pair once can be faster than it.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from benchmarks.convolutions import convolution_calls
from benchmarks.sparse_conv import DTYPES, measure_peak, read_features, scan_parser, start
from benchmarks.timing import median_ms, write_measurement
from core.config import Config
from core.contracts import Batch, Output, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.engine.run.cli import run_command
from core.engine.score.evaluation import predict_points
from core.io import atomic_path
from core.machine import processor_name
from core.models import build_model
from core.sparse import fold_batch_norm, set_backend

CLASSES = 20
ENGINES = {"ours": "native", "PyTorch": "torch"}


@dataclass
class Timing:
    """Milliseconds of one kind of work: of the clock and of the processor, one entry per repeat."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def measure(self, work: Callable[[], object]) -> None:
        """Run once and note."""
        wall, busy = time.perf_counter(), time.process_time()
        work()
        self.clock.append((time.perf_counter() - wall) * 1e3)
        self.processor.append((time.process_time() - busy) * 1e3)

    def medians(self) -> tuple[float, float]:
        """Clock, processor."""
        return statistics.median(self.clock), statistics.median(self.processor)


def as_scan(points: np.ndarray, voxel_size: float) -> Batch:
    """A batch of one scan: points f32 [N, 4] (x, y, z m, intensity), random labels."""
    xyz = np.ascontiguousarray(points[:, :3])
    scan = Scan("scan", Points(xyz=xyz, intensity=np.ascontiguousarray(points[:, 3])))
    batch = collate([make_sample(scan, 0, DataConfig(voxel_size=voxel_size))])
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, CLASSES, (len(batch.cells),), generator=generator)
    return replace(batch, cells=replace(batch.cells, labels=labels))


def infer(network: nn.Module, batch: Batch, dtype: str) -> Output:
    """The network's output."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        return network(batch)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, dtype: str) -> None:
    """One step of stochastic gradient descent."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        logits = network(batch).logits
    F.cross_entropy(logits.float(), batch.labels).backward()
    optimizer.step()


def file_to_labels(
    source: Path, target: Path, network: nn.Module, voxel_size: float, dtype: str
) -> None:
    """Read a scan, label its points, write one uint32 per point."""
    batch = as_scan(np.fromfile(source, np.float32).reshape(-1, 4), voxel_size)
    labels = predict_points(infer(network, batch, dtype), batch)
    with atomic_path(target) as temporary:
        labels.numpy().astype(np.uint32).tofile(temporary)


def measure(
    network: nn.Module, points: np.ndarray, args: argparse.Namespace
) -> dict[str, dict[str, Timing]]:
    """work -> "engine dtype" -> times; the engines take turns, ours runs once before to warm up."""
    batch, folded, plain = (
        as_scan(points, args.voxel_size),
        fold_batch_norm(network),
        copy.deepcopy(network).eval(),
    )
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3, momentum=0.9)
    times: dict[str, dict[str, Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scan.bin", Path(folder) / "scan.label"
        points.tofile(source)

        def works(engine: str, dtype: str) -> dict[str, Callable[[], object]]:
            inferring = folded if engine == "ours" else plain
            own = {
                "file to labels": lambda: file_to_labels(
                    source, target, folded, args.voxel_size, dtype
                )
            }
            return {
                "inference": lambda: infer(inferring, batch, dtype),
                "training step": lambda: train(network, optimizer, batch, dtype),
                **(own if engine == "ours" else {}),
            }

        for repeat in range(args.repeats + 1):
            for engine in ENGINES if repeat else ["ours"]:
                set_backend(ENGINES[engine])
                for dtype in DTYPES:
                    for name, work in works(engine, dtype).items():
                        timing = times.setdefault(name, {}).setdefault(
                            f"{engine} {dtype}", Timing()
                        )
                        (timing if repeat else Timing()).measure(work)
    set_backend(None)
    return times


def measure_convolutions(
    network: nn.Module, batch: Batch, dtype: str, repeats: int
) -> tuple[float, float]:
    """GFLOP of all convolutions of one inference, and their milliseconds with the kernel maps built."""
    gflop = milliseconds = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        for call in convolution_calls(network, batch):
            gflop += 2e-9 * call.macs
            milliseconds += median_ms(call, repeats)
    return gflop, milliseconds


# --- output -------------------------------------------------------------------------------------------------------


def ratio(times: dict[str, Timing], ours: str, theirs: str) -> str:
    """Our time as a share of theirs: clock, and processor in brackets."""
    shares = [a / b for a, b in zip(times[ours].medians(), times[theirs].medians())]
    return f"{shares[0]:.2f} ({shares[1]:.2f})"


def time_table(times: dict[str, dict[str, Timing]]) -> Table:
    """One row per kind of work and type."""
    table = Table(
        title="whole network, ms of the clock (of the processor)",
        title_justify="left",
        title_style="bold",
    )
    for column in ("work", "type"):
        table.add_column(column)
    for column in ("ours", "PyTorch, same type", "ours / same type", "ours / PyTorch fp32"):
        table.add_column(column, justify="right")
    for name, by_engine in times.items():
        for dtype in DTYPES:
            row = [name, dtype, "{:,.0f} ({:,.0f})".format(*by_engine[f"ours {dtype}"].medians())]
            if f"PyTorch {dtype}" in by_engine:
                row.append("{:,.0f} ({:,.0f})".format(*by_engine[f"PyTorch {dtype}"].medians()))
                row += [
                    ratio(by_engine, f"ours {dtype}", f"PyTorch {other}")
                    for other in (dtype, "fp32")
                ]
            table.add_row(*row)
    return table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = scan_parser(__doc__, 3)
    parser.add_argument("--voxel-size", type=float, default=0.05, help="m")
    parser.add_argument("--cr", type=float, default=1.0, help="factor on MinkUNet's channel counts")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    console, status = start(args.threads)
    source, points = read_features(args.scan)
    torch.manual_seed(0)
    network = build_model(Config({"model": {"name": "minkunet", "cr": args.cr}}), CLASSES)
    batch = as_scan(points, args.voxel_size)
    console.print(
        f"{source}: {len(points):,} points, {len(batch.coords):,} voxels of {args.voxel_size} m",
        markup=False,
    )
    console.print(f"{processor_name()}, torch {torch.__version__}, {status}", markup=False)
    times = measure(network, points, args)
    console.print(time_table(times))
    shares = {}
    for name, dtype in DTYPES.items():
        peak = measure_peak(dtype, 10)
        gflop, milliseconds = measure_convolutions(
            fold_batch_norm(network), batch, name, max(3, args.repeats)
        )
        shares[name] = {
            "gflop": gflop,
            "ms": milliseconds,
            "peak_gflops": peak,
            "share": gflop / milliseconds / peak * 1e3,
            "floor_ms": 1e3 * gflop / peak,
        }
        floor = shares[name]["floor_ms"]
        console.print(f"convolutions in {name}: {gflop:.0f} GFLOP in {milliseconds:,.0f} ms, "
                      f"{shares[name]['share']:.0%} of {peak:.0f} GFLOP/s; at the peak {floor:,.0f} ms, "
                      f"and {3 * floor:,.0f} ms of a training step")  # fmt: skip
    if args.json:
        raw = {
            name: {key: asdict(t) for key, t in by_engine.items()}
            for name, by_engine in times.items()
        }
        scan = {"source": source, "points": len(points), "voxels": len(batch.coords)}
        machine = {
            "cpu": processor_name(),
            "threads": args.threads,
            "torch": torch.__version__,
            "kernels": status,
        }
        write_measurement(
            args.json, {"scan": scan, "machine": machine, "times_ms": raw, "convolutions": shares}
        )


if __name__ == "__main__":
    run_command(main)
