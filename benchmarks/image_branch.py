"""How fast the LiDAR-camera student's image branch trains, and how little memory its decoder needs, next to a plain
version: loops over scans, cameras and scales, features sampled camera by camera, logits at the full image size.

    python benchmarks/image_branch.py [--size 640 360] [--cameras 3] [--parts branch] [--threads N]
                                      [--plain-heap] [--cpu-time] [--json FILE]

Both versions share all weights and see the same random street. "branch" is one forward and backward of everything the
images cause (encoder, both fusions' image side, decoder, pixel loss), "fusion" the drawing and reading of points alone,
"decoder" decoder and pixel classifier, "student" a whole step. Times are medians in ms; memory is the part's peak
above what was resident before, in MiB, in a process of its own. Each type is compared with itself; the last rows hold
ours in bfloat16 against the plain version in float32.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import measured_peak_mib, median_ms, write_measurement
from core.config import Config
from core.contracts import Batch, BatchCameras, Cells
from core.engine.run.cli import run_command
from core.engine.run.memory import keep_freed_memory
from core.models import build_model
from core.models.fusion.l2c import grid_sizes
from core.models.fusion.student import Exchange, LidarCamera
from core.models.image.layers import NormReluConv, Pointwise
from core.models.image.swiftnet import upsample
from core.models.probe import random_batch

CLASSES = 17
TORCHS_OWN = {
    Pointwise: nn.Conv2d,
    NormReluConv: nn.Sequential,
}  # what a plain author would have written
PARTS = ("fusion", "decoder", "branch", "student")


# --- the plain version --------------------------------------------------------------------------------------------


class Plain(Exchange):
    """The same exchange, written straightforwardly on torch's dense operators."""

    def __init__(self, model: LidarCamera, batch: Batch) -> None:
        super().__init__(model, batch)
        self.batch, self.size = batch, tuple(batch.images.shape[3:])
        self.image = self.image.contiguous()  # torch's default order; every convolution keeps it
        for module in model.modules():
            module.__class__ = TORCHS_OWN.get(type(module), type(module))

    def _pairs(self) -> list[tuple[int, Tensor, Tensor]]:
        """(image, points it shows, their pixel coordinates) for each scan and camera."""
        cameras, found = self.batch.images.shape[1], []
        for scan in range(len(self.batch)):
            for camera in range(cameras):
                mine = self.batch.visible[camera] & (self.batch.coords[:, 0] == scan)
                rows = mine.nonzero()[:, 0]
                found.append((scan * cameras + camera, rows, self.batch.pixels[camera, rows]))
        return found

    def draw(self, points: Tensor, size: tuple[int, int], scales: tuple[int, ...]) -> Tensor:
        """Points in the images, one image and one scale at a time."""
        maps = []
        for _, rows, uv in self._pairs():
            total = points.new_zeros(1, points.shape[1], *size)
            for height, width in grid_sizes(size, scales):
                column = ((uv[:, 0] + 1) / 2 * (width - 1)).floor().long()
                row = ((uv[:, 1] + 1) / 2 * (height - 1)).floor().long()
                cell = row * width + column
                sums = points.new_zeros(height * width, points.shape[1]).index_add(
                    0, cell, points[rows]
                )
                counts = torch.bincount(cell, minlength=height * width).clamp(min=1)
                mean = (sums / counts[:, None]).to(points.dtype)
                total = total + upsample(mean.T.reshape(1, -1, height, width), size)
            maps.append(total / len(scales))
        return torch.cat(maps)

    def read(self, features: Tensor) -> Tensor:
        """Features at the points, one image at a time; the later camera wins."""
        result = features.new_zeros(len(self.batch.coords), features.shape[1])
        for image, rows, uv in self._pairs():
            grid = uv[None, None].to(features.dtype)
            values = F.grid_sample(
                features[image : image + 1], grid, mode="bilinear", align_corners=True
            )
            result = result.index_put((rows,), values[0, :, 0].T.to(result.dtype))
        return result

    def pixel_logits(self) -> Tensor:
        """Logits of every pixel of the full image, then read at the points."""
        head = self.model.classifier_pix
        full = upsample(self.model.pix_branch.decode(self.skips), self.size)
        normal = F.batch_norm(full, None, None, head.norm.weight, head.norm.bias, training=True)
        logits = F.conv2d(F.relu(normal), head.linear.weight[:, :, None, None], head.linear.bias)
        return self.read(logits)


VERSIONS = {"ours": Exchange, "plain": Plain}


# --- one step of each part ----------------------------------------------------------------------------------------


def make_model(stem_stride: int) -> LidarCamera:
    """The student at cr 1 with ResNet-18."""
    torch.manual_seed(0)
    section = {
        "name": "lidar_camera",
        "lidar": {"name": "spvcnn_spformer", "cr": 1.0},
        "image": {"encoder": "resnet18", "stem_stride": stem_stride},
    }
    return build_model(Config({"model": section}), CLASSES).train()


def make_batch(args: argparse.Namespace) -> Batch:
    """Random streets; each camera sees its own sector of the points, with some overlap."""
    generator = torch.Generator().manual_seed(0)
    scans = [random_batch(args.voxels, seed) for seed in range(args.batch)]
    coords, sizes = [], [0]
    for number, scan in enumerate(scans):
        coords.append(F.pad(scan.coords[:, 1:], (1, 0), value=number))
        sizes.append(len(scan.coords))
    points = {name: torch.cat([scan.points[name] for scan in scans]) for name in scans[0].points}
    count, offsets = sum(sizes), torch.tensor(sizes).cumsum(0)
    centre = points["xyz"][:, :2] - points["xyz"][:, :2].mean(0)
    azimuth = torch.atan2(centre[:, 1], centre[:, 0])
    sector = torch.arange(args.cameras)[:, None] * (2 * torch.pi / 6)
    offset = torch.remainder(azimuth - sector + torch.pi, 2 * torch.pi) - torch.pi
    pixels = torch.rand(args.cameras, count, 2, generator=generator) * 1.96 - 0.98
    shape = (args.batch, args.cameras, 3, args.size[1], args.size[0])
    images = torch.rand(shape, generator=generator)
    areas = torch.zeros(args.cameras, count, 2, dtype=torch.int16)  # this network does not look
    labels, rows = torch.randint(1, CLASSES, (count,), generator=generator), torch.arange(count)
    return Batch(
        tokens=tuple(str(number) for number in range(args.batch)),
        indices=tuple(range(args.batch)),
        padded=(False,) * args.batch,
        points=points,
        point_offsets=offsets,
        features=scans[0].features,
        cells=Cells(scans[0].cells.partition, torch.cat(coords), rows, rows, labels, offsets),
        origins=torch.zeros(args.batch, 3),
        cameras=BatchCameras(torch.arange(args.batch), images, pixels, offset.abs() < 0.6, areas),
    )


def stage_points(model: LidarCamera, batch: Batch) -> list[Tensor]:
    """Leaves [SV, C] of the four stages' widths."""
    widths = [block.l2c_ai_layer.fc2.in_channels for block in model.l2c_fusion_blocks]
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(len(batch.coords), w, generator=generator).requires_grad_() for w in widths]


def pixel_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy at the points in sight."""
    labels = torch.where(batch.visible.any(0), batch.labels, 0)
    return F.cross_entropy(logits.float(), labels, ignore_index=0)


def branch_step(kind: str, model: LidarCamera, batch: Batch, points: Sequence[Tensor]) -> None:
    """Everything the images cause."""
    exchange, loss = VERSIONS[kind](model, batch), 0.0
    for stage, p in enumerate(points):
        skip = exchange.image_stage(stage, p)
        loss = loss + exchange.read(skip).float().square().mean()
    (loss + pixel_loss(exchange.pixel_logits(), batch)).backward()


def fusion_step(
    kind: str, exchange: Exchange, skips: Sequence[Tensor], points: Sequence[Tensor]
) -> None:
    """Drawing points into images and reading images at points, at all four stages."""
    if kind == "ours":
        exchange.links.tables.clear()  # they belong to one batch
    loss = 0.0
    for stage, (p, skip) in enumerate(zip(points, skips)):
        drawn = exchange.draw(p, tuple(skip.shape[2:]), tuple(2**i for i in range(4 - stage)))
        loss = loss + drawn.float().mean() + exchange.read(skip).float().mean()
    loss.backward()


def decoder_step(exchange: Exchange, skips: Sequence[Tensor], batch: Batch) -> None:
    """Decoder and classifier, from the skips on."""
    exchange.skips = list(skips)
    pixel_loss(exchange.pixel_logits(), batch).backward()


def student_step(kind: str, model: LidarCamera, batch: Batch) -> None:
    """The whole network."""
    exchange = VERSIONS[kind](model, batch)
    output = model.lidar(batch, exchange)
    loss = F.cross_entropy(output.logits.float(), batch.labels) + pixel_loss(
        exchange.pixel_logits(), batch
    )
    loss.backward()


def skips_for(exchange: Exchange, points: Sequence[Tensor]) -> list[Tensor]:
    """Skips as leaves."""
    with torch.no_grad():
        skips = [exchange.image_stage(stage, p) for stage, p in enumerate(points)]
    return [skip.detach().requires_grad_() for skip in skips]


def step_of(
    part: str, kind: str, args: argparse.Namespace, dtype: torch.dtype
) -> Callable[[], None]:
    """A function that does one step of ``part``; everything it needs is made here."""
    model, batch = make_model(args.stem_stride), make_batch(args)
    amp = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with amp:
        points = stage_points(model, batch)
        exchange = VERSIONS[kind](model, batch)
        skips = skips_for(exchange, points) if part in ("fusion", "decoder") else []
        exchange.image = None
    work = {
        "fusion": lambda: fusion_step(kind, exchange, skips, points),
        "decoder": lambda: decoder_step(exchange, skips, batch),
        "branch": lambda: branch_step(kind, model, batch, points),
        "student": lambda: student_step(kind, model, batch),
    }[part]

    def step() -> None:
        for tensor in (*model.parameters(), *points, *skips):
            tensor.grad = None
        with amp:
            work()

    return step


# --- measurements -------------------------------------------------------------------------------------------------


def measure(
    part: str, kind: str, args: argparse.Namespace, dtype: torch.dtype
) -> tuple[float, float]:
    """(ms, peak MiB above what was resident) of a part; call it in a fresh process."""
    torch.set_num_threads(args.threads)
    step = step_of(part, kind, args, dtype)
    peak = measured_peak_mib(step)
    if kind == "ours" or not args.plain_heap:
        keep_freed_memory()  # as every run of the project has it; only now, since kept memory hides what a step needs
    clock = time.process_time if args.cpu_time else time.perf_counter
    return median_ms(step, args.repeats, clock), peak


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=[640, 360], help="px, width and height of the images"
    )
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="scans")
    parser.add_argument(
        "--voxels", type=int, default=20_000, help="about half as many as each scan has"
    )
    parser.add_argument("--stem-stride", type=int, default=1, choices=[1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"]
    )
    parser.add_argument("--repeats", type=int, default=3, help="steps per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--plain-heap",
        action="store_true",
        help="no heap settings of the project's for the plain one",
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, not elapsed time: for a machine in use"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    width, height = args.size
    console.print(
        f"{args.batch} x {args.cameras} images of {width}x{height} px, {args.threads} threads"
    )
    if (load := os.getloadavg()[0]) > 0.5:
        console.print(
            f"warning: other programs are running (load {load:.1f}); times vary and ratios mislead"
        )
    table = Table(
        "part", "plain", "ours", "plain ms", "ours ms", "faster", "plain MiB", "ours MiB", "less"
    )
    for column in table.columns[3:]:
        column.justify = "right"
    records = []
    for part in args.parts:
        found = {}
        for name in args.dtypes:
            for kind in VERSIONS:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found[kind, name] = pool.apply(
                        measure, (part, kind, args, getattr(torch, name))
                    )
        for plain, ours in dict.fromkeys(
            [*((n, n) for n in args.dtypes), (args.dtypes[0], args.dtypes[-1])]
        ):
            (plain_ms, plain_mib), (ours_ms, ours_mib) = found["plain", plain], found["ours", ours]
            table.add_row(
                part, plain, ours, f"{plain_ms:.0f}", f"{ours_ms:.0f}", f"{plain_ms / ours_ms:.1f}x",
                f"{plain_mib:.0f}", f"{ours_mib:.0f}", f"{plain_mib / max(ours_mib, 0.1):.1f}x",
            )  # fmt: skip
            records.append({"part": part, "dtype": {"plain": plain, "ours": ours},
                            "ms": {"plain": plain_ms, "ours": ours_ms},
                            "mib": {"plain": plain_mib, "ours": ours_mib}})  # fmt: skip
    console.print(table)
    if args.json:
        write_measurement(
            args.json,
            {"size": args.size, "cameras": args.cameras, "batch": args.batch, "parts": records},
        )


if __name__ == "__main__":
    run_command(main)
