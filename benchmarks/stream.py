"""How long a scan of a stream takes, part by part: a network of random weights on drives of one's own, one processor.

    python benchmarks/stream.py CONFIG DRIVE [--types fp32 bf16] [--delay 0] [--turns 2] [--json FILE]

Streams a drive's folder (velodyne/*.bin, poses.txt) by with evaluate.py stream's own job, forth and back and forth
again, in fp32 and in bf16, and takes processor time, of a single thread. The first scans, which fill the windows of
motion, are not counted. The labels mean nothing; the times are those of trained weights.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import write_measurement
from core.config import Config, load_config
from core.datasets import dataset_class
from core.datasets.motion_config import MotionConfig
from core.engine.run.cli import run_command
from core.engine.run.distributed import World
from core.engine.score.stream import stream_checkpoint
from core.engine.score.stream_source import StreamOptions
from core.models import build_model

WINDOWS = MotionConfig().channels  # scans until both are full


def write_random(config: Config, path: Path) -> None:
    """Write random weights of the configured network as a training leaves them."""
    reader = dataset_class(config)
    labels = reader.label_space(config.parse(reader.Config, "dataset"))
    torch.manual_seed(0)
    network = build_model(config, labels.num_classes, pretrained=False)
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
    }
    torch.save({"model": network.state_dict(), "training_only": {}, "identity": identity}, path)


def turning(drive: Path, turns: int, target: Path) -> None:
    """Lay out a drive whose scans come forth and back: links to its files, and their poses."""
    scans = sorted((drive / "velodyne").glob("*.bin"))
    poses = (drive / "poses.txt").read_text().splitlines()
    order = list(range(len(scans)))
    for turn in range(turns):
        order += list(range(len(scans)))[:: -1 if turn % 2 == 0 else 1][1:]
    (target / "velodyne").mkdir(parents=True)
    for number, place in enumerate(order):
        (target / "velodyne" / f"{number:06d}.bin").symlink_to(scans[place].resolve())
    lines = [poses[int(scans[place].stem)] for place in order]
    (target / "poses.txt").write_text("\n".join(lines) + "\n")
    if (drive / "calib.txt").is_file():
        (target / "calib.txt").write_bytes((drive / "calib.txt").read_bytes())


def measure(config: Config, drive: Path, delay: int, number_type: str) -> dict[str, Any]:
    """Times in one number type, see :meth:`core.engine.score.latency.Latency.to_json`."""
    amp: dict[str, object] = {"enabled": number_type != "fp32"}
    if number_type != "fp32":
        amp["dtype"] = number_type
    config.merge({"amp": amp}, "--types")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "net.pt"
        write_random(config, checkpoint)
        options = StreamOptions(delay=delay, clock=time.process_time, warm=WINDOWS)
        out = Path(folder) / "out"
        return stream_checkpoint(World(), config, checkpoint, str(drive), out, options).to_json()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file of a network")
    parser.add_argument("drive", type=Path, help="folder of a drive")
    parser.add_argument("--types", nargs="+", default=["fp32", "bf16"], help="fp32, bf16")
    parser.add_argument("--delay", type=int, default=0, help="scans that are waited for")
    parser.add_argument("--turns", type=int, default=2, help="how often the drive turns back")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        drive = Path(folder) / "drive"
        turning(args.drive, args.turns, drive)
        for number_type in args.types:
            print(f"{number_type}, processor time of one thread", flush=True)
            config = load_config(args.config, overrides)
            found[number_type] = measure(config, drive, args.delay, number_type)
    if args.json:
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
