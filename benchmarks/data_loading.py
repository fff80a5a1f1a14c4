"""How fast scans become batches, stage by stage.

    python benchmarks/data_loading.py CONFIG [--split train] [--scans 32] [--workers 0 1 2] [--json FILE]

Each stage runs alone in this process; a rate is 1 / the median over the scans. The loader's rates are of whole batches
after the workers have started; ``start`` is the time from building the loader to its first batch. ``paste`` is measured
if ``data.paste`` names an instance database; "whole sample" begins after it.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import write_measurement
from core.config import Config, load_config
from core.data import DataConfig, ScanSamples, build_loader, collate, make_sample, voxelize
from core.data.augment import augment
from core.data.sample import decode_image, project_points
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.engine.run.cli import run_command


def median_time(work: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Median seconds of ``work`` over ``items``, after one call to warm up."""
    times = []
    for number, item in enumerate(items):
        if number == 0:
            work(item)
        start = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def without_sweeps(config: Config) -> Config | None:
    """The configuration with no sweeps, None if it has none already."""
    sweeps = config.tree.get("dataset", {}).get("multisweeps", {})
    if not sweeps.get("num_sweeps"):
        return None
    alone = deepcopy(config)
    alone.merge({"num_sweeps": 0}, "benchmark", "dataset.multisweeps")
    return alone


def time_stages(config: Config, dataset: ScanDataset, split: str, count: int) -> dict[str, float]:
    """Median seconds per scan of each stage."""
    data = config.parse(DataConfig, "data")
    indices = [i % len(dataset) for i in range(count)]
    stages = {"read": median_time(lambda i: dataset.load(i, cameras=False), indices)}
    alone = without_sweeps(config)
    if alone is not None:
        keyframes = build_dataset(alone, split)
        keyframe_time = median_time(lambda i: keyframes.load(i, cameras=False), indices)
        stages = {"read": keyframe_time, "sweeps": max(0.0, stages["read"] - keyframe_time)}
    scans = [dataset.load(i, cameras=data.images) for i in indices[: min(count, len(dataset), 8)]]
    if data.paste is not None:
        paste = data.paste.paster(dataset.labels)
        draws = [(scan, seed) for scan in scans for seed in range(4)]
        stages["paste"] = median_time(
            lambda draw: paste(draw[0], np.random.default_rng(draw[1])), draws
        )
    if data.augment is not None:
        stages["augment"] = median_time(
            lambda s: augment(s.xyz, np.random.default_rng(0), data.augment), scans
        )
    stages["voxelise"] = median_time(lambda s: voxelize(s.xyz, data.voxel_size), scans)
    if data.images:
        pairs = [(s, s.xyz[voxelize(s.xyz, data.voxel_size)[1]]) for s in scans]
        stages["project"] = median_time(
            lambda pair: [project_points(pair[1], c, c.size) for c in pair[0].cameras], pairs
        )
        stages["decode images"] = median_time(
            lambda s: [decode_image(camera, data.image_size) for camera in s.cameras], scans
        )
    stages["whole sample"] = median_time(
        lambda s: make_sample(s, 0, data, training=True, rng=np.random.default_rng(0)), scans
    )
    size = config.tree.get("batch_size", 1)
    samples = [make_sample(s, 0, data) for s in scans]
    stages["collate"] = median_time(lambda _: collate((samples * size)[:size]), range(8)) / size
    return stages


def time_loader(config: Config, dataset: ScanDataset, count: int, workers: int) -> dict[str, float]:
    """Scans per second and start-up seconds of the loader."""
    size = config.tree.get("batch_size", 1)
    samples = ScanSamples(dataset, config.parse(DataConfig, "data"), training=True)
    begin = time.perf_counter()
    loader = build_loader(samples, batch_size=size, workers=workers, training=True)
    next(iter(loader))
    started = time.perf_counter()
    seen = epoch = 0
    while seen < count:
        epoch += 1
        loader.set_epoch(epoch)
        for batch in loader:
            seen += len(batch)
            if seen >= count:
                break
    rate = seen / (time.perf_counter() - started)
    loader.close()
    return {"scans_per_second": rate, "start_seconds": started - begin}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file with dataset: and data: sections")
    parser.add_argument("--split", default="train", help="train, val or test")
    parser.add_argument("--scans", type=int, default=32, help="scans per measurement")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[0, 1, 2], help="loader workers to try"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args, overrides = parser.parse_known_args()
    config = load_config(args.config, overrides)
    dataset = build_dataset(config, args.split)
    print(f"{dataset.describe()}; this process alone, median of {args.scans} scans")
    stages = time_stages(config, dataset, args.split, args.scans)
    for name, seconds in stages.items():
        rate = f"{1 / seconds:8.1f} scans/s" if seconds else "  (nothing to measure)"
        print(f"  {name:14s} {seconds * 1e3:8.2f} ms {rate}")
    loaders = {}
    for workers in args.workers:
        loaders[workers] = time_loader(config, dataset, args.scans, workers)
        rate, start = loaders[workers]["scans_per_second"], loaders[workers]["start_seconds"]
        print(f"  loader, {workers} workers {rate:8.1f} scans/s  (start {start:.2f} s)")
    if args.json:
        write_measurement(
            args.json, {"config": args.config, "seconds_per_scan": stages, "loader": loaders}
        )


if __name__ == "__main__":
    run_command(main)
