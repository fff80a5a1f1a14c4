"""What the network of 2DPASS costs on one scan on the CPU: stage by stage, next to MinkUNet, and with votes.

    python benchmarks/twodpass.py [CONFIG] [--scan FILE.bin] [--votes 12] [--vote-chunk M] [--repeats 3] [--threads N]
        [--cr 1.0] [--json FILE]

CONFIG is configs/semantickitti/2dpass/small.yaml unless named. Without ``--scan`` a scan of the synthetic town is cast
with the model of a 64-beam scanner. Weights are random; batch normalisation is folded, as ``evaluate.py`` does. Each
stage builds its own grids and kernel maps anew. All works take turns in one process, so that they meet the same load;
times are medians, of the clock and of the processor (all threads together). Passes and votes go from the file to a
score (random labels), through the loader and the loop of ``evaluate.py`` without its worker process.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import copy
import tempfile
import time
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from benchmarks.network import CLASSES, Timing, as_scan, infer
from benchmarks.sparse_conv import DTYPES, read_features, scan_parser, start
from benchmarks.timing import write_measurement
from core.config import Config, load_config
from core.contracts import Batch
from core.data import (
    ChosenScans,
    DataConfig,
    VotePlan,
    VoteSamples,
    build_loader,
    collate,
    make_sample,
)
from core.datasets.folder import FolderConfig, FolderDataset
from core.engine.run.cli import run_command
from core.engine.run.distributed import World
from core.engine.score.evaluation import Predictor, predictions, score_network
from core.engine.score.voting import Votes, voted_predictions
from core.errors import UserError
from core.labels import SEMANTICKITTI
from core.machine import processor_name
from core.models import build_model
from core.models.lidar.twodpass import TwoDPass
from core.sparse import fold_batch_norm

CONFIG = (
    Path(__file__).resolve().parent.parent / "configs" / "semantickitti" / "2dpass" / "small.yaml"
)
CPU = torch.device("cpu")


class Stages:
    """Notes when a network reaches its parts; the time up to each belongs to the part before.

    Args:
        network: folded. timings: where the milliseconds go, by stage.
    """

    def __init__(self, network: TwoDPass, timings: dict[str, Timing]) -> None:
        self.network, self.timings = network, timings
        self.names = ["grids, inputs per point", "network per point, mean per cell"]
        self.names += [
            f"encoder {i + 1}, cells of {scale} units"
            for i, scale in enumerate((1, *network.scales[:-1]))
        ]
        self.names += ["head"]
        self.marks: list[tuple[float, float]] = []
        for part in (network.voxel_mlp, *network.encoders, network.head):
            part.register_forward_pre_hook(lambda *_: self.marks.append(now()))

    def run(self, batch: Batch, dtype: str) -> None:
        """One inference."""
        self.marks = [now()]
        infer(self.network, batch, dtype)
        self.marks.append(now())
        for name, (begin, end) in zip(self.names, pairwise(self.marks), strict=True):
            timing = self.timings.setdefault(name, Timing())
            timing.clock.append((end[0] - begin[0]) * 1e3)
            timing.processor.append((end[1] - begin[1]) * 1e3)


def now() -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


class Course:
    """File to score, once or by votes, as ``evaluate.py`` goes.

    Args:
        network: not folded. folder: of one scan. data: how it becomes a sample.
    """

    def __init__(self, network: TwoDPass, folder: Path, data: DataConfig) -> None:
        config = FolderConfig(name="folder", root=folder, labels="{stem}.label")
        self.network, self.data, self.scans = network, data, FolderDataset(config, "val")

    def prepare(self) -> Batch:
        """Read the scan and make a batch of it."""
        return collate([make_sample(self.scans.load(0, cameras=False), 0, self.data)])

    def passes(self, count: int, dtype: str) -> None:
        """The scan ``count`` times, each on its own."""
        self._score(ChosenScans(self.scans, self.data, [0] * count), predictions, dtype)

    def votes(self, votes: Votes, dtype: str) -> None:
        """The scan's views, which vote."""
        samples = VoteSamples(
            self.scans, self.data, VotePlan(votes.count, votes.mode), votes.chunk_on(CPU)
        )
        self._score(samples, partial(voted_predictions, votes=votes), dtype)

    def _score(self, samples: ChosenScans | VoteSamples, predict: Predictor, dtype: str) -> None:
        loader = build_loader(samples, batch_size=1, workers=0, training=False)
        context = partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == "bf16")
        score_network(self.network, loader, CLASSES, World(), context, predict=predict)


def measure(
    network: TwoDPass, other: nn.Module, points: np.ndarray, args: argparse.Namespace
) -> dict[str, Any]:
    """dtype -> {"stages": by name, "preparation", "network", "minkunet", "passes", "votes"}: times."""
    data = args.config.parse(DataConfig, "data")
    votes = Votes(args.votes, chunk=args.vote_chunk)
    folded = fold_batch_norm(network)
    mink, mink_batch = fold_batch_norm(other), as_scan(points, args.minkunet_voxel)
    times: dict[str, Any] = {dtype: {"stages": {}} for dtype in DTYPES}
    with tempfile.TemporaryDirectory() as folder:
        points.tofile(Path(folder) / "scan.bin")
        raw = np.random.default_rng(0).choice(SEMANTICKITTI.train_to_raw, len(points))
        raw.astype("<u4").tofile(Path(folder) / "scan.label")
        course = Course(network, Path(folder), data)
        batch = course.prepare()
        for repeat in range(args.repeats + 1):
            for dtype in DTYPES:
                stages = Stages(copy.deepcopy(folded), times[dtype]["stages"] if repeat else {})
                works = {
                    "preparation": course.prepare,
                    "network": partial(infer, folded, batch, dtype),
                    "minkunet": partial(infer, mink, mink_batch, dtype),
                    "passes": partial(course.passes, votes.count, dtype),
                    "votes": partial(course.votes, votes, dtype),
                }
                stages.run(batch, dtype)
                for name, work in works.items():
                    timing = times[dtype].setdefault(name, Timing())
                    (timing if repeat else Timing()).measure(work)
    return times


# --- output -------------------------------------------------------------------------------------------------------


def shown(timing: Timing) -> str:
    """Clock, and processor in brackets."""
    return "{:,.0f} ({:,.0f})".format(*timing.medians())


def ratio(ours: Timing, theirs: Timing) -> str:
    """Ours as a share of theirs: clock, and processor in brackets."""
    return "{:.2f} ({:.2f})".format(*(a / b for a, b in zip(ours.medians(), theirs.medians())))


def time_table(times: dict[str, Any], args: argparse.Namespace) -> Table:
    """One row per stage, then the wholes, then the ratios."""
    table = Table(
        title="ms of the clock (of the processor)", title_justify="left", title_style="bold"
    )
    table.add_column("work")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    fp32 = times["fp32"]
    table.add_row(
        "read, points, batch", *(shown(times[d]["preparation"]) for d in DTYPES), end_section=True
    )
    for stage in fp32["stages"]:
        table.add_row(stage, *(shown(times[d]["stages"][stage]) for d in DTYPES))
    table.add_section()
    wholes = {
        "network": "network, whole",
        "minkunet": f"MinkUNet, cr {args.cr:g}, {args.minkunet_voxel * 100:g} cm",
        "passes": f"file to score, {args.votes} times",
        "votes": f"file to score, {args.votes} votes",
    }
    for key, name in wholes.items():
        table.add_row(name, *(shown(times[d][key]) for d in DTYPES), end_section=key == "votes")
    table.add_row(
        "network / MinkUNet", *(ratio(times[d]["network"], times[d]["minkunet"]) for d in DTYPES)
    )
    votes = f"{args.votes} votes / {args.votes} passes"
    table.add_row(votes, *(ratio(times[d]["votes"], times[d]["passes"]) for d in DTYPES))
    return table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = scan_parser(__doc__, 3)
    parser.add_argument(
        "config", type=Path, nargs="?", default=CONFIG, help="YAML of a twodpass network"
    )
    parser.add_argument("--votes", type=int, default=12, help="views of the scan")
    parser.add_argument("--vote-chunk", type=int, help="views at a time (1)")
    parser.add_argument("--cr", type=float, default=1.0, help="factor on MinkUNet's channel counts")
    parser.add_argument("--minkunet-voxel", type=float, default=0.05, help="m")
    return parser.parse_args()


def as_plain(times: dict[str, Any]) -> dict[str, Any]:
    """Timings as plain values."""
    return {k: asdict(v) if isinstance(v, Timing) else as_plain(v) for k, v in times.items()}


def main() -> None:
    """Measure and print."""
    args = arguments()
    console, status = start(args.threads)
    args.config = load_config(args.config)
    source, points = read_features(args.scan)
    torch.manual_seed(0)
    network = build_model(args.config, CLASSES)
    if not isinstance(network, TwoDPass):
        raise UserError(
            "its network has other stages",
            where="model.name",
            cure="Name a YAML with model.name twodpass",
        )
    other = build_model(Config({"model": {"name": "minkunet", "cr": args.cr}}), CLASSES)
    console.print(f"{source}: {len(points):,} points", markup=False)
    console.print(
        f"{processor_name()}, {args.threads} threads, torch {torch.__version__}, {status}",
        markup=False,
    )
    times = measure(network, other, points, args)
    console.print(time_table(times, args))
    if args.json:
        machine = {
            "cpu": processor_name(),
            "threads": args.threads,
            "torch": torch.__version__,
            "kernels": status,
        }
        write_measurement(
            args.json, {"scan": source, "machine": machine, "times_ms": as_plain(times)}
        )


if __name__ == "__main__":
    run_command(main)
