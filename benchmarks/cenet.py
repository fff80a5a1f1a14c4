"""Frames per second of CENet on the CPU from file to labels, its neighbours' votes included, and where the time goes.

    python benchmarks/cenet.py [CONFIG] [--scan FILE.bin] [--repeats 9] [--threads N] [--json FILE]

CONFIG is configs/semantickitti/cenet/w512.yaml unless named. Without ``--scan`` a scan of the synthetic town is cast
with the model of a 64-beam scanner. Weights are random. The parts take turns in one process; medians, of the clock and
of the processor (all threads together). "network" ends with logits per pixel, "votes" with the class of each point.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from benchmarks.gain.experiment import ROOT
from benchmarks.network import CLASSES, Timing
from benchmarks.sparse_conv import DTYPES, read_features, scan_parser, start
from benchmarks.timing import write_measurement
from core.config import load_config
from core.contracts import Batch, Output, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.engine.run.cli import run_command
from core.engine.score.evaluation import predict_points
from core.io import write_bytes
from core.machine import processor_name
from core.models import build_model
from core.sparse import fold_batch_norm

CONFIG = ROOT / "configs" / "semantickitti" / "cenet" / "w512.yaml"
WHOLE = "file to labels"


def read_batch(source: Path, data: DataConfig) -> Batch:
    """A batch of the scan in a file of float32 quadruples."""
    points = np.fromfile(source, np.float32).reshape(-1, 4)
    columns = Points(
        xyz=np.ascontiguousarray(points[:, :3]), intensity=np.ascontiguousarray(points[:, 3])
    )
    return collate([make_sample(Scan("scan", columns), 0, data)])


def infer(network: nn.Module, batch: Batch, dtype: str) -> Output:
    """The network's output; neighbours have not voted."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        output: Output = network(batch)
    return output


def write_labels(network: nn.Module, batch: Batch, dtype: str, target: Path) -> None:
    """Infer, let neighbours vote, write one uint32 per point."""
    labels = predict_points(infer(network, batch, dtype), batch)
    write_bytes(target, labels.numpy().astype(np.uint32).tobytes())


def measure(
    network: nn.Module, points: np.ndarray, data: DataConfig, repeats: int
) -> dict[str, dict[str, Timing]]:
    """Part -> dtype -> times, after one turn to warm up."""
    times: dict[str, dict[str, Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scan.bin", Path(folder) / "scan.label"
        points.tofile(source)
        batch = read_batch(source, data)
        for repeat in range(repeats + 1):
            for dtype in DTYPES:

                def whole(dtype: str = dtype) -> None:
                    write_labels(network, read_batch(source, data), dtype, target)

                output = infer(network, batch, dtype)
                works = {
                    "read, range image": partial(read_batch, source, data),
                    "network": partial(infer, network, batch, dtype),
                    "votes": partial(predict_points, output, batch),
                    WHOLE: whole,
                }
                for name, work in works.items():
                    timing = times.setdefault(name, {}).setdefault(dtype, Timing())
                    (timing if repeat else Timing()).measure(work)
    return times


def time_table(times: dict[str, dict[str, Timing]]) -> Table:
    """One row per part, and the frames per second."""
    table = Table(
        title="ms of the clock (of the processor)", title_justify="left", title_style="bold"
    )
    table.add_column("part")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    for name, found in times.items():
        cells = ["{:,.1f} ({:,.1f})".format(*found[dtype].medians()) for dtype in DTYPES]
        table.add_row(name, *cells)
    rates = frames_per_second(times)
    table.add_row("frames per second", *(f"{rates[dtype]:.2f}" for dtype in DTYPES))
    return table


def frames_per_second(times: dict[str, dict[str, Timing]]) -> dict[str, float]:
    """By type, from file to labels by the clock."""
    return {dtype: 1e3 / timing.medians()[0] for dtype, timing in times[WHOLE].items()}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = scan_parser(__doc__, 9)
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG, help="YAML of a CENet")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    console, _ = start(args.threads)
    config = load_config(args.config)
    data = config.parse(DataConfig, "data").model_copy(update={"augment": None})
    source, points = read_features(args.scan)
    torch.manual_seed(0)
    network = fold_batch_norm(build_model(config, CLASSES))
    console.print(
        f"{source}: {len(points):,} points; {processor_name()}, {args.threads} threads, "
        f"torch {torch.__version__}",
        markup=False,
    )
    times = measure(network, points, data, args.repeats)
    console.print(time_table(times))
    if args.json:
        found: dict[str, Any] = {"scan": source, "threads": args.threads}
        found["frames_per_second"] = frames_per_second(times)
        found["times_ms"] = {
            name: {dtype: asdict(timing) for dtype, timing in by_type.items()}
            for name, by_type in times.items()
        }
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
