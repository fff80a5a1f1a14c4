"""How fast frames of the Waymo Open Dataset are read, beside the plain way, and how fast a segment is indexed.

    python benchmarks/waymo.py [v1 v2] [--repeats 9] [--frames 198] [--folder DIR] [--cpu-time] [--json FILE]

A frame has Waymo's true size: 64 x 2650 pixels of TOP in two returns, labels of both, a pose per pixel, five images of
400 kB. It shows a made-up street; ranges carry noise of 2 cm, intensities have the 8 significant bits and elongations
the 255 steps that real points show, the poses are those of a vehicle at 10 m/s that turns.
A segment of ``--frames`` such frames (198: about a gigabyte) is written into ``--folder`` (by default the system's
temporary folder), indexed, and removed. Times are medians in ms; memory is the peak of one reading, in MiB, each in a
fresh process. "plain" parses messages byte by byte in Python (benchmarks/waymo_plain.py) and verifies no checksum; both
give the same arrays. "not cached" drops the file from the page cache first.

v2: 52 such frames with four lidars of 200 x 600 pixels more, so that a row group has 256 rows as the official ones;
"plain" is pyarrow's read_table with filters and to_pylist (benchmarks/waymo_tables.py). The segment that is indexed has
few pixels, since an index reads the keys of its rows alone.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import waymo_plain, waymo_tables
from benchmarks.timing import measured_peak_mib, median_ms, write_measurement
from core.datasets.waymo.frame import (
    CAMERAS,
    TOP,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    LaserCalibration,
    RangeImage,
)
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v1.segment import RecordSegment
from core.datasets.waymo.v1.tfrecord import write_record
from core.datasets.waymo.v1.writer import encode_frame, segment_file
from core.datasets.waymo.v2.segment import TableSegment
from core.datasets.waymo.wire.message import Message
from core.datasets.waymo.wire.writer import Writer
from core.engine.run.cli import run_command
from core.engine.run.memory import keep_freed_memory

NAME = "10023947602400723454_1120_000_1140_000"
ROWS, COLUMNS = 64, 2650
IMAGE = 400_000  # bytes
FIRST, STEP = 1_553_735_853_462_203, 100_000  # microseconds
TIMESTAMP = 2  # field of Frame


# --- a frame of true size ---------------------------------------------------------------------------------------------
def true_size(rng: np.random.Generator) -> tuple[Context, Frame, dict[str, CameraImage]]:
    """A frame of a street 2 m below the lidar with walls 8 m beside it."""
    inclinations = np.linspace(-0.31, 0.04, ROWS)
    context = Context(
        NAME, {TOP: LaserCalibration(np.eye(4), inclinations, (-0.32, 0.05))}, cameras(), {}
    )
    azimuth = np.linspace(np.pi, -np.pi, COLUMNS)
    ground = 2 / np.maximum(np.sin(-inclinations[::-1, None]), 1e-3)
    walls = 8 / np.maximum(np.abs(np.sin(azimuth)), 1e-3) / np.cos(inclinations[::-1, None])
    nearest = np.minimum(ground, walls)
    first = returned(nearest, nearest < 75, rng)
    second = returned(nearest + 2, (nearest < 73) & (rng.random(nearest.shape) < 0.06), rng)
    frame = Frame(NAME, FIRST, np.eye(4), {TOP: (first, second)}, pixel_poses())
    images = {}
    for name in CAMERAS.values():
        images[name] = CameraImage(b"\xff\xd8" + rng.bytes(IMAGE - 2), np.eye(4))
    return context, frame, images


def pixel_poses() -> np.ndarray:
    """Poses at the times of 2650 columns of a turn; the beams of a column fire within 0.1 ms."""
    seconds = np.arange(COLUMNS) / COLUMNS / 10 + np.arange(ROWS)[:, None] / ROWS * 1e-4
    found = np.empty((ROWS, COLUMNS, 6), np.float32)
    found[..., :3] = np.stack(
        [0.01 + 0.02 * seconds, 0.005 - 0.03 * seconds, 0.7 + 0.2 * seconds], 2
    )
    found[..., 3:] = np.stack([-25211 + 8 * seconds, 42391 + 6 * seconds, -160 + 0.2 * seconds], 2)
    return found


def cameras() -> dict[str, CameraCalibration]:
    matrix = np.array([[2044.5, 0, 949.6], [0, 2044.5, 633.2], [0, 0, 1]])
    one = CameraCalibration(matrix, np.zeros(5), np.eye(4), (1920, 1280), 2)
    return dict.fromkeys(CAMERAS.values(), one)


def returned(ranges: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> RangeImage:
    """A return: noisy ranges; classes in patches, instances of two bytes here and there."""
    values = np.empty((ROWS, COLUMNS, 4), np.float32)
    values[..., 0] = ranges + rng.normal(0, 0.02, ranges.shape)
    values[..., 1] = rng.gamma(0.5, 0.4, ranges.shape)
    bits = values[..., 1].view(np.uint32)
    bits &= 0xFFFF0000
    values[..., 2] = np.rint(rng.gamma(0.5, 10, ranges.shape)).clip(0, 255) * (1.493107 / 255)
    values[..., 3] = 0
    values[~there] = -1
    patches = np.add.outer(np.arange(ROWS) // 8, np.arange(COLUMNS) // 50)
    labels = np.stack([np.where(patches % 7 == 0, 300 + patches, 0), patches % 23], 2)
    return RangeImage(values, np.where(there[..., None], labels, 0).astype(np.int32))


def write_full_segment(path: Path, payload: bytes, frames: int) -> None:
    """The same frame again and again, each with its own timestamp."""
    message = Message(memoryview(payload), "Frame")
    (field,) = message.all(TIMESTAMP)
    before = Writer().integer(TIMESTAMP, field.value).size
    with open(path, "wb") as stream:
        for number in range(frames):
            timestamp = Writer().integer(TIMESTAMP, FIRST + number * STEP).tobytes()
            write_record(stream, payload[: field.stop - before] + timestamp + payload[field.stop :])


# --- readers ----------------------------------------------------------------------------------------------------------
def read_ours(path: Path) -> Callable[[], Frame]:
    segment = RecordSegment(NAME, path)
    row = segment.frames()[0]
    return lambda: segment.read(row)


def read_tables(folder: Path) -> Callable[[], Frame]:
    segment = TableSegment(folder, NAME)
    row = waymo_tables.labelled_row(segment)
    return lambda: segment.read(row)


def read_tables_plainly(folder: Path) -> Callable[[], Frame]:
    row = waymo_tables.labelled_row(TableSegment(folder, NAME))
    return lambda: waymo_tables.read_plain(folder, NAME, int(row["timestamp"]))


def read_plain(path: Path) -> Callable[[], Frame]:
    return lambda: waymo_plain.read_frame(path, 0)


READERS = {
    "v1": {"plain": read_plain, "ours": read_ours},
    "v2": {"plain": read_tables_plainly, "ours": read_tables},
}


def measure(kind: str, reader: str, path: Path, args: argparse.Namespace) -> tuple[float, float]:
    """(ms, peak MiB) of one reading; call it in a fresh process."""
    work = READERS[kind][reader](path)
    peak = measured_peak_mib(work)
    keep_freed_memory()  # as every run of the project has it; only now, since kept memory hides what a reading needs
    return median_ms(work, args.repeats, clock_of(args)), peak


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if args.cpu_time else time.perf_counter


def index_ms(segment: Segment, args: argparse.Namespace, *, cached: bool) -> float:
    """Milliseconds to go through a segment."""

    def work() -> None:
        for path in segment.sources():
            os.utime(path)  # nothing is kept of a file that has changed
            if not cached:
                with open(path, "rb") as stream:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        segment.frames()

    return median_ms(work, 3, clock_of(args))


def check_same(kind: str, path: Path) -> None:
    """Both readers give the same arrays."""
    ours, plain = (READERS[kind][reader](path)() for reader in ("ours", "plain"))
    assert ours.pixel_pose is not None and plain.pixel_pose is not None
    pairs = [(ours.pixel_pose, plain.pixel_pose), (ours.pose, plain.pose)]
    for one, other in zip(ours.returns[TOP], plain.returns[TOP], strict=True):
        assert one.labels is not None and other.labels is not None
        pairs += [(one.values, other.values), (one.labels, other.labels)]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


# --- the command ------------------------------------------------------------------------------------------------------
def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "formats", nargs="*", default=["v1", "v2"], help="v1, v2, or both (default)"
    )
    parser.add_argument("--repeats", type=int, default=9, help="readings per measurement")
    parser.add_argument("--frames", type=int, default=198, help="of the segment that is indexed")
    parser.add_argument("--folder", type=Path, help="where files are written and removed again")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, not elapsed time: for a machine in use"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def measure_frame(
    path: Path, kind: str, args: argparse.Namespace, console: Console
) -> dict[str, dict[str, float]]:
    """Read one frame by each reader, in processes of their own."""
    found = {}
    for reader in READERS[kind]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            milliseconds, peak = pool.apply(measure, (kind, reader, path, args))
        found[reader] = {"ms": milliseconds, "mib": peak}
    table = Table(f"one frame of {kind}", "ms", "peak MiB")
    for reader, values in found.items():
        table.add_row(reader, f"{values['ms']:.1f}", f"{values['mib']:.0f}")
    console.print(table)
    console.print(f"{found['plain']['ms'] / found['ours']['ms']:.1f} times as fast")
    return found


def measure_index(segment: Segment, args: argparse.Namespace, console: Console) -> dict[str, float]:
    """Go through a segment, with its files in the page cache and without."""
    index = {
        "cached": index_ms(segment, args, cached=True),
        "not_cached": index_ms(segment, args, cached=False),
    }
    size = sum(path.stat().st_size for path in segment.sources()) / 1e6
    console.print(
        f"index of {args.frames} frames of {segment.format}, {size:.1f} MB: {index['cached']:.0f} ms, "
        f"not cached {index['not_cached']:.0f} ms"
    )
    return index


def measure_records(folder: Path, args: argparse.Namespace, console: Console) -> dict[str, object]:
    """All of v1."""
    path = folder / segment_file(NAME)
    payload = encode_frame(*true_size(np.random.default_rng(0)))
    write_full_segment(path, payload, 1)
    check_same("v1", path)
    console.print(f"v1: {len(payload) / 1e6:.2f} MB, of which images {5 * IMAGE / 1e6:.2f} MB")
    frame = measure_frame(path, "v1", args, console)
    write_full_segment(path, payload, args.frames)
    index = measure_index(RecordSegment(NAME, path), args, console)
    return {"frame": frame, "index_ms": index, "bytes": len(payload)}


def measure_tables(folder: Path, args: argparse.Namespace, console: Console) -> dict[str, object]:
    """All of v2."""
    context, *taken = true_size(np.random.default_rng(0))
    true, many = folder / "true", folder / "many"
    waymo_tables.write_true_size(true, context, (taken[0], taken[1]))
    check_same("v2", true)
    size = TableSegment(true, NAME).path.stat().st_size
    console.print(f"v2: lidar of {waymo_tables.FRAMES} frames, {size / 1e6:.1f} MB")
    frame = measure_frame(true, "v2", args, console)
    waymo_tables.write_many(many, context, (taken[0], taken[1]), args.frames)
    index = measure_index(TableSegment(many, NAME), args, console)
    return {"frame": frame, "index_ms": index, "bytes": size}


def main() -> None:
    """Measure and print."""
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    found: dict[str, object] = {"frames": args.frames}
    with tempfile.TemporaryDirectory(prefix="waymo-", dir=args.folder) as folder:
        if "v1" in args.formats:
            found["v1"] = measure_records(Path(folder), args, console)
        if "v2" in args.formats:
            found["v2"] = measure_tables(Path(folder), args, console)
    if args.json:
        write_measurement(args.json, found)


if __name__ == "__main__":
    run_command(main)
