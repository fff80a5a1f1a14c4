"""How long motion maps take, and how large they are, on scans of one's own.

    python benchmarks/motion.py CONFIG [--split val] [--workers 2] [--rounds 4] [--json FILE]

Each worker streams the scans of the split by, --rounds times: reads a scan, pushes it, writes the maps of the one that
is finished into a folder that is deleted again. Published: 0.4 s a scan on two cores, float32 [points, 8] on disk.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import median_ms, write_measurement
from core.config import load_config
from core.data.motion import FinishedScan, MotionStream
from core.data.motion_job import scans_of
from core.datasets.base import ScanDataset
from core.datasets.motion_config import MotionConfig
from core.datasets.motion_maps import MotionSource, motion_column, scanner_pose, write_motion
from core.engine.run.cli import run_command
from core.machine import usable_cores
from core.processes import WorkerPool

_PUBLISHED = 0.4  # s per scan of 120,000 points, two cores


@dataclass(frozen=True)
class Streaming:
    """Streams the scans of a split by, in any process."""

    dataset: ScanDataset
    settings: MotionConfig
    folder: Path

    def __call__(self, task: int) -> tuple[list[int], float]:
        """Sizes of the files of one round, B, and the processor time it took, s."""
        start = time.process_time()
        stream = MotionStream(self.settings)
        sizes = []
        for index in range(len(self.dataset)):
            scan = self.dataset.read(index, cameras=False)
            finished = stream.push(scan.xyz, scanner_pose(scan, ()))
            if finished is not None:
                sizes.append(self._write(finished, task))
        sizes += [self._write(finished, task) for finished in stream.finish()]
        return sizes, time.process_time() - start

    def _write(self, finished: FinishedScan, task: int) -> int:
        path = self.folder / f"{task}" / f"{finished.number}.npz"
        token = self.dataset.token(finished.number)
        source = MotionSource(token, len(finished.xyz), "", self.settings)
        write_motion(path, source, finished.motion)
        return path.stat().st_size


def load_ms(work: Streaming) -> float:
    """Median time of reading the features of a scan from its file, ms."""
    scan = work.dataset.read(0, cameras=False)
    path = work.folder / "0" / "0.npz"
    return median_ms(lambda: motion_column(path, work.settings, scan, len(scan.points), ()), 20)


def measure(work: Streaming, workers: int, rounds: int) -> tuple[float, float, Sequence[int]]:
    """Seconds per scan of all workers together, processor seconds per scan, and the sizes of a round."""
    with WorkerPool(work, workers, "--workers") as pool:
        list(pool.run(range(workers)))  # processes start and loops are compiled
        start = time.perf_counter()
        done = list(pool.run(range(workers * rounds)))
        elapsed = time.perf_counter() - start
    scans = sum(len(sizes) for sizes, _ in done)
    busy = sum(seconds for _, seconds in done)
    return elapsed / scans, busy / scans, done[0][0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file with a dataset: section")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--workers", type=int, default=usable_cores(most=16), help="processes")
    parser.add_argument("--rounds", type=int, default=4, help="over the split, by each worker")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args, overrides = parser.parse_known_args()
    dataset = scans_of(load_config(args.config, overrides), args.split)
    with tempfile.TemporaryDirectory() as folder:
        work = Streaming(dataset, MotionConfig(), Path(folder))
        seconds, busy, sizes = measure(work, args.workers, args.rounds)
        load = load_ms(work)
    points = statistics.median(dataset.num_points(i) for i in range(len(dataset)))
    raw = points * MotionConfig().channels * 4
    size = statistics.mean(sizes)
    print(f"{dataset.describe()}; {points:,.0f} points a scan, {args.workers} processes")
    print(f"  made and written   {1e3 * seconds:8.1f} ms a scan   {_PUBLISHED / seconds:.1f} x")
    print(f"  processor time     {1e3 * busy:8.1f} ms a scan")
    print(f"  size               {size / 1e3:8.1f} kB a scan   {raw / size:.1f} x")
    print(f"  read to features   {load:8.1f} ms a scan, one process")
    if args.json:
        found = {
            "workers": args.workers,
            "points": points,
            "seconds": seconds,
            "processor_seconds": busy,
        }
        write_measurement(args.json, found | {"bytes": size, "load_ms": load})


if __name__ == "__main__":
    run_command(main)
