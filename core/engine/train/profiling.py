"""Where the time of a step goes: ``--profile N`` of the training and evaluation commands.

Ranges named ``lidistill::...``, PyTorch's own operators and autograd's sequence numbers tell to which part every moment
of a step belongs, a gradient to the layer that asked for it. Processors count by the main thread's clock, GPUs by the
duration of their kernels. The model starts from its first weights; nothing of the run folder but ``profile/`` changes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from core.config import Config
from core.data import ScanSamples
from core.data.sampler import SampleKey
from core.distill import LAST
from core.engine.run.distributed import World
from core.engine.score.evaluation import score_network
from core.engine.score.opened import Opened
from core.engine.train.callbacks import HeapTrimming
from core.engine.train.profile_parts import Parts, parts_of
from core.engine.train.progress import Progress
from core.engine.train.trainer import Trainer
from core.errors import UserError
from core.io import atomic_path, write_text

__all__ = ["WARM_UP", "SampleCost", "WatchedLoader", "profile_evaluation", "profile_training"]

WARM_UP = 2  # steps before the first measured one: lazy initialisation, empty loader queues
_TIMED_SCANS = 5
# Level "silent": on a machine without a GPU driver the tracer would report that as an error.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class WatchedLoader:
    """A loader's batches, ``WARM_UP + steps`` of them, the last ``steps`` under the profiler.

    Args:
        loader: has ``set_epoch(epoch)`` and iterates; begun anew when an epoch is too short.
        steps: measured steps, at least 1.
        world: only rank 0 measures.

    Raises:
        UserError: fewer than one step.
    """

    def __init__(self, loader: Any, steps: int, world: World) -> None:
        if steps < 1:
            raise UserError(
                f"{steps} steps cannot be measured",
                where="--profile",
                cure="Give 1 or more, e.g. 10",
            )
        self.loader, self.steps = loader, steps
        self.device = world.device
        activities = [
            ProfilerActivity.CPU,
            *([ProfilerActivity.CUDA] if self.device.type == "cuda" else []),
        ]
        self.profiler = profile(activities=activities, acc_events=True) if world.rank == 0 else None

    def __len__(self) -> int:
        return WARM_UP + self.steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Accepted and ignored: the epochs of a profile are its own."""

    def __iter__(self) -> Iterator[Any]:
        """Each measured step is the range from asking for its batch until asking for the next."""
        source = self._endless()
        for _ in range(WARM_UP):
            yield next(source)
        self._synchronize()
        with self.profiler or contextlib.nullcontext():
            for _ in range(self.steps):
                with record_function("lidistill::step"):
                    with record_function("lidistill::data"):
                        batch = next(source)
                    yield batch
                    self._synchronize()

    def _endless(self) -> Iterator[Any]:
        for epoch in itertools.count(1):
            self.loader.set_epoch(epoch, 0)
            yield from self.loader

    def _synchronize(self) -> None:
        """Wait for the GPU, so that a kernel belongs to the step that asked for it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def module_ranges(name: str, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Mark the forward passes of ``modules`` as ranges called ``name``."""
    opened: list[record_function] = []

    def enter(*_: Any) -> None:
        opened.append(record_function(name))
        opened[-1].__enter__()

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    handles = [
        h
        for m in modules
        for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class SampleCost:
    """Milliseconds of one process for one scan: reading files, then augmentation, voxels and pixels."""

    reading: float
    making: float

    @classmethod
    def of(cls, samples: Any) -> SampleCost:
        """Mean over a few scans, after one untimed; ``samples`` as :class:`core.data.ScanSamples`."""
        seconds = [0.0, 0.0]
        count = min(_TIMED_SCANS, len(samples))
        samples[SampleKey(0, 0, False)]
        for index in range(count):
            samples.dataset.load(
                index, cameras=samples.cameras
            )  # now the files are in memory for both measurements
            start = time.perf_counter()
            samples.dataset.load(index, cameras=samples.cameras)
            middle = time.perf_counter()
            samples[SampleKey(0, index, False)]
            seconds[0] += middle - start
            seconds[1] += time.perf_counter() - middle
        reading, whole = (1000 * s / count for s in seconds)
        return cls(reading, max(whole - reading, 0.0))

    def line(self, scans: int, workers: int) -> str:
        """One sentence for ``scans`` per step made by ``workers`` processes."""
        whole = self.reading + self.making
        return (
            f"a sample takes {whole:.1f} ms of one process: {self.reading:.1f} reading, {self.making:.1f} augmentation "
            f"and voxels; {scans * whole / max(workers, 1):.1f} ms per step with {workers or 'no'} workers"
        )


def profile_training(trainer: Trainer, steps: int) -> Parts | None:
    """Train ``WARM_UP + steps`` optimiser steps from the first weights, measure the last ``steps``, stop.

    Writes ``profile/trace.json`` (ui.perfetto.dev or chrome://tracing) and ``profile/table.txt`` into the run folder on
    rank 0, and prints the table.

    Returns:
        the parts of a step on rank 0, None on others.
    """
    e = trainer.experiment
    watched = WatchedLoader(trainer.steps, steps, trainer.world)
    teacher = trainer.source.network
    teachers = [] if teacher is None else [teacher]
    # what a method computes outside of its deployed network is loss
    with (
        module_ranges("lidistill::network", [trainer.method.deployed]),
        module_ranges("lidistill::teacher", teachers),
    ):
        trainer.train(watched, num_epochs=1, callbacks=[Progress("profile", LAST), HeapTrimming()])
    loader = trainer.steps.loader
    loader.close()
    scans = e.batch_size * e.train.accumulate
    return _report(
        watched, trainer.world, trainer.run_dir.path, loader.samples, scans, e.workers_per_gpu
    )


def profile_evaluation(
    world: World, config: Config, checkpoint: Path, run_path: Path, *, split: str, steps: int
) -> Parts | None:
    """``evaluate.py --profile``: as :func:`profile_training`, for batches that are predicted and scored."""
    opened = Opened.of(world, config, checkpoint)
    context = opened.context
    dataset = context.dataset(split)
    model = opened.network(dataset.labels)
    loader = context.loader(dataset, training=False)
    watched = WatchedLoader(loader, steps, world)
    with module_ranges("lidistill::network", [model]):
        score_network(model, watched, dataset.labels.num_classes, world, context.autocast)
    loader.close()
    e = context.experiment
    return _report(watched, world, run_path, loader.samples, e.eval.batch_size, e.workers_per_gpu)


def _report(
    watched: WatchedLoader,
    world: World,
    run_path: Path,
    samples: ScanSamples,
    scans: int,
    workers: int,
) -> Parts | None:
    if watched.profiler is None:
        return None
    folder = run_path / "profile"
    with atomic_path(folder / "trace.json") as path:
        watched.profiler.export_chrome_trace(str(path))
    parts = parts_of(watched.profiler.events())
    head = (
        f"{watched.steps} steps of {scans} scans per process after {WARM_UP} warm-up steps, {world.size} process"
        f"{'' if world.size == 1 else 'es'}, {torch.get_num_threads()} threads, {_device_name(world.device)}"
    )
    text = "\n".join(
        [head, "", *parts.lines(), "", SampleCost.of(samples).line(scans, workers), ""]
    )
    write_text(folder / "table.txt", text)
    sys.stdout.write(f"{text}trace: {folder / 'trace.json'} (open in ui.perfetto.dev)\n")
    sys.stdout.flush()
    return parts


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
