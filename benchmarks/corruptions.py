"""How long each corruption takes on scans of one's own.

    python benchmarks/corruptions.py CONFIG [--split val] [--scans 5] [--json FILE]

The median over the scans, after one call to warm up; "first" is the first call, in which snow draws its flakes. Reading
and voxels are not counted.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.timing import write_measurement
from core.config import load_config
from core.data.corruptions import PROFILES, Corruption, Scanner, corrupt
from core.datasets import build_dataset
from core.engine.run.cli import run_command


def seconds(corruption: Corruption, scans: list, sensor: Scanner) -> tuple[float, float]:
    """(first call, median of the others)."""
    times = []
    for scan in [scans[0], *scans]:
        start = time.perf_counter()
        corrupt(scan, corruption, sensor)
        times.append(time.perf_counter() - start)
    return times[0], statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file with a dataset: section")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--scans", type=int, default=5, help="scans per measurement")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args, overrides = parser.parse_known_args()
    config = load_config(args.config, overrides)
    dataset = build_dataset(config, args.split)
    sensor = Scanner.of(dataset)
    scans = [dataset.load(i, cameras=False) for i in range(min(args.scans, len(dataset)))]
    points = statistics.median(len(scan.points) for scan in scans)
    print(f"{dataset.describe()}; {len(scans)} scans of {points:,.0f} points, this process alone")
    found = {}
    for profile, corruptions in PROFILES.items():
        for corruption in corruptions:
            first, median = seconds(corruption, scans, sensor)
            found[f"{profile}/{corruption.name}"] = median
            print(
                f"  {profile:16} {corruption.name:26} {1e3 * median:7.1f} ms   first {1e3 * first:7.1f} ms"
            )
    if args.json:
        write_measurement(args.json, {"points": points, "seconds": found})


if __name__ == "__main__":
    run_command(main)
