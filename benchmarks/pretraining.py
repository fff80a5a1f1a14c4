"""A step of SLidR's pre-training beside the straightforward one: processor time and peak memory.

    python benchmarks/pretraining.py [--scans 1] [--repeats 3] [--encoder resnet50] [--parts region] [--json FILE]

The straightforward step has image features at every pixel of every image, and sparse matrices of ones that pool them to
superpixels, as they pool points to superpoints. All steps share weights, and see the same random street and images of
published size; their losses are compared. The last row of each part is ours in bfloat16.

"region" is everything after the image encoder that images cause: decoder, means of superpixels, contrast, and the
way back. "method" has the LiDAR network besides, "step" the frozen encoder. Times are medians of processor time on one
thread; memory is the peak above what was resident before, each in a process of its own.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import measured_peak_mib, median_ms, write_measurement
from core.config import Config
from core.contracts import Batch, BatchCameras, Cells
from core.data import DataConfig
from core.distill.images import Pairs, info_nce
from core.distill.slidr import SLidR
from core.engine.run.cli import run_command
from core.engine.run.memory import keep_freed_memory
from core.losses import CrossEntropyLovasz
from core.models import build_model
from core.models.image.features import encoder_width
from core.models.probe import Inputs, random_batch

SIZE = (224, 416)  # px, height and width of the images
CAMERAS = 6
SEGMENTS = (10, 15)  # superpixels of an image, down and across
WIDTH = 64  # of an embedding
PARTS = ("region", "method", "step")
DATA = {"partition": {"name": "cylinder", "cell": [0.1, 1.0, 0.1]}, "features": ["intensity"]}
Step = Callable[[], Tensor]


class Plain(SLidR):
    """The same loss on full-size features, with one-hot matrices for the pooling."""

    def forward(self, batch: Batch, teacher: None = None) -> dict[str, Tensor]:
        """See :meth:`SLidR.forward`."""
        pairs = Pairs.of(batch)
        assert batch.cameras is not None
        labels = batch.cameras.planes["superpixels"].flatten(0, 1)
        images = batch.cameras.images.flatten(0, 1)
        segments = SEGMENTS[0] * SEGMENTS[1]
        slots = labels + segments * torch.arange(len(labels))[:, None, None]
        feats, rows = self.embeddings(batch)
        raised = F.interpolate(self.image.maps(images), SIZE, mode="bilinear", align_corners=True)
        unit = F.normalize(raised, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        of_pair = slots[pairs.image, pairs.row, pairs.column]
        count = segments * len(labels)
        points = _mean_by_ones(feats[rows[pairs.point]], of_pair, count)
        pixels = _mean_by_ones(unit, slots.flatten(), count)
        kept = points[:, 0] != 0
        return {"contrast": info_nce(points[kept], pixels[kept], self.config.temperature)}


def _mean_by_ones(feats: Tensor, group: Tensor, count: int) -> Tensor:
    """Mean of the rows of each group, by a sparse matrix of ones, [count, C]."""
    places = torch.stack([group, torch.arange(len(group))])
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        ones = torch.sparse_coo_tensor(places, torch.ones(len(group)), (count, len(group)))
    return torch.sparse.mm(ones, feats) / (torch.sparse.sum(ones, 1).to_dense()[:, None] + 1e-6)


KINDS: dict[str, tuple[type[SLidR], torch.dtype]] = {
    "plain": (Plain, torch.float32),
    "ours": (SLidR, torch.float32),
    "ours_bf16": (SLidR, torch.bfloat16),
}
TOLERANCE = {"ours": 1e-3, "ours_bf16": 3e-2}  # of the loss


def make_batch(scans: int) -> Batch:
    """Random streets; each camera sees its own sector, superpixels are blocks of slanted borders."""
    rng = torch.Generator().manual_seed(0)
    inputs = Inputs(DataConfig.model_validate(DATA | {"augment": None}))
    made = [random_batch(12_000, seed, inputs) for seed in range(scans)]
    coords = [F.pad(scan.coords[:, 1:], (1, 0), value=i) for i, scan in enumerate(made)]
    points = {name: torch.cat([scan.points[name] for scan in made]) for name in made[0].points}
    first = torch.tensor([0, *(len(scan.coords) for scan in made)]).cumsum(0)
    offsets = torch.tensor([0, *(len(scan.points["lag"]) for scan in made)]).cumsum(0)
    of_point = torch.cat([scan.cells.of_point + first[i] for i, scan in enumerate(made)])
    point = torch.cat([scan.cells.point + offsets[i] for i, scan in enumerate(made)])
    count = len(of_point)
    azimuth = torch.atan2(points["xyz"][:, 1], points["xyz"][:, 0])
    sector = torch.arange(CAMERAS)[:, None] * (2 * torch.pi / CAMERAS)
    aside = torch.remainder(azimuth - sector + torch.pi, 2 * torch.pi) - torch.pi
    pixels = torch.rand(CAMERAS, count, 2, generator=rng) * 1.96 - 0.98
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij")
    down = ((rows + columns // 8) * SEGMENTS[0] // (SIZE[0] + SIZE[1] // 8)).clamp_max(9)
    across = columns * SEGMENTS[1] // SIZE[1]
    labels = (down * SEGMENTS[1] + across).expand(scans, CAMERAS, *SIZE).contiguous()
    images = torch.rand(scans, CAMERAS, 3, *SIZE, generator=rng)
    cells = Cells(
        made[0].cells.partition,
        torch.cat(coords),
        of_point,
        point,
        torch.zeros(len(point), dtype=torch.int64),
        first,
    )
    areas = torch.zeros(CAMERAS, count, 2, dtype=torch.int16)  # nobody looks
    return Batch(
        tokens=tuple(str(i) for i in range(scans)),
        indices=tuple(range(scans)),
        padded=(False,) * scans,
        points=points,
        point_offsets=offsets,
        features=made[0].features,
        cells=cells,
        origins=torch.zeros(scans, 3),
        cameras=BatchCameras(
            torch.arange(scans), images, pixels, aside.abs() < 0.6, areas, {"superpixels": labels}
        ),
    )


def make_method(kind: str, encoder: str) -> SLidR:
    """The method with SR-UNet of published size."""
    torch.manual_seed(0)
    tree = {"model": {"name": "srunet", "bn_momentum": 0.05}, "data": DATA}
    student = build_model(Config(tree, source="benchmark"), WIDTH)
    image = {"encoder": encoder, "dilated": encoder == "resnet50"}
    config = SLidR.Config.model_validate({"name": "slidr", "image": image})
    method = KINDS[kind][0](config, student, None, CrossEntropyLovasz())
    method.freeze()
    return method.train()


def random_features(method: SLidR, images: int, dtype: torch.dtype) -> Tensor:
    """In place of what the encoder makes of the images, of its size."""
    config = method.image.config
    stride = 4 if config.dilated else 32
    shape = (images, encoder_width(config), SIZE[0] // stride, SIZE[1] // stride)
    rng = torch.Generator().manual_seed(1)
    features = torch.rand(shape, generator=rng).to(dtype)
    return features.contiguous(memory_format=torch.channels_last)


def step_of(part: str, kind: str, args: argparse.Namespace) -> Step:
    """A function that does one step of ``part`` and returns its loss; what it is given is made here."""
    method, batch = make_method(kind, args.encoder), make_batch(args.scans)
    dtype = KINDS[kind][1]
    amp = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    if part != "step":
        features = random_features(method, args.scans * CAMERAS, dtype)
        vars(method.image)["_encoded"] = lambda images: features
    if part == "region":
        with torch.no_grad(), amp:
            known = method.embeddings(batch)
        vars(method)["embeddings"] = lambda batch: known

    def step() -> Tensor:
        for parameter in method.parameters():
            parameter.grad = None
        with amp:
            loss = method(batch)["contrast"]
        loss.backward()
        return loss.detach()

    return step


def measure(part: str, kind: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """(ms, peak MiB above what was resident, loss) of a part; call it in a fresh process."""
    torch.set_num_threads(1)
    step = step_of(part, kind, args)
    losses: list[float] = []
    peak = measured_peak_mib(lambda: losses.append(float(step())))
    keep_freed_memory()  # as every run of the project has it; only now, since kept memory hides what a step needs
    return median_ms(step, args.repeats, time.process_time), peak, losses[0]


def measured(part: str, args: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """What :func:`measure` gives, by kind.

    Raises:
        ArithmeticError: the losses differ.
    """
    found = {}
    for kind in KINDS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[kind] = pool.apply(measure, (part, kind, args))
    plain = found["plain"][2]
    for kind, tolerance in TOLERANCE.items():
        if abs(plain - found[kind][2]) > tolerance * plain:
            raise ArithmeticError(f"the losses of {part} differ: {plain} and {found[kind][2]}")
    return found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=1, help="of six images each (1)")
    parser.add_argument("--encoder", default="resnet50", help="image network (resnet50, dilated)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=3, help="steps per measurement (3)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(words)


def main() -> None:
    """Measure and print."""
    args = arguments()
    title = f"{args.scans} x {CAMERAS} images of {SIZE[1]}x{SIZE[0]} px, {args.encoder}, one thread"
    table = Table("part", "kind", "ms", "times as fast", "MiB", "as little", title=title)
    numbers = {}
    for part in args.parts:
        found = measured(part, args)
        plain_ms, plain_mib, _ = found["plain"]
        numbers[part] = {}
        for kind, (ms, mib, loss) in found.items():
            faster, less = plain_ms / ms, plain_mib / max(mib, 0.1)
            table.add_row(part, kind, f"{ms:.0f}", f"{faster:.1f}", f"{mib:.0f}", f"{less:.1f}")
            numbers[part][kind] = {
                "ms": ms,
                "mib": mib,
                "faster": faster,
                "less": less,
                "loss": loss,
            }
    Console(highlight=False).print(table)
    if args.json:
        write_measurement(args.json, {"scans": args.scans, "encoder": args.encoder} | numbers)


if __name__ == "__main__":
    run_command(main)
