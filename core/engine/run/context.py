"""What every job needs: the typed configuration, this process, and builders that know both."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger
from torch import nn

from core.config import Config
from core.data import DataConfig, Samples, ScanSamples, build_loader
from core.data.loader import useful_workers
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.datasets.official import check_complete
from core.distill import Method
from core.engine.run.distributed import World, rank_zero_first
from core.engine.run.experiment import Experiment
from core.engine.run.memory import keep_freed_memory
from core.errors import counted
from core.machine import usable_cores
from core.models import build_model

if TYPE_CHECKING:
    from core.engine.run.trained import TrainedNetwork

__all__ = ["Context", "autocast", "configure_logging"]


@dataclass(frozen=True)
class Context:
    """What every job needs: the typed configuration, this process, and builders that know both."""

    config: Config
    experiment: Experiment
    world: World

    @classmethod
    def open(cls, config: Config, world: World) -> Context:
        """Validate the whole configuration, seed this process, set the determinism level.

        Raises:
            UserError: anything the configuration gets wrong.
        """
        experiment = Experiment.from_config(config)
        configure_logging(world)
        keep_freed_memory()
        seed = experiment.train.seed + world.rank
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if experiment.train.deterministic == "strict":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = experiment.train.deterministic == "off"
        return cls(config, experiment, world)

    @property
    def data(self) -> DataConfig:
        """The ``data:`` section."""
        return self.experiment.data

    def dataset(self, split: str, *, training: bool = False) -> ScanDataset:
        """One split; rank 0 opens it first, so that an index is built once.

        Args:
            training: it is trained on, and its view may have images where that of evaluation has none.

        Raises:
            UserError: it cannot be opened, is an incomplete official split (see ``dataset.partial``), or lacks images
                that its view needs.
        """
        with rank_zero_first(self.world):
            dataset = build_dataset(self.config, split)
        check_complete(dataset)
        if self.data.uses_images(training) and self.data.on_bad_sample != "skip":
            dataset.check_images()
        return dataset

    def loader(self, dataset: ScanDataset, training: bool) -> Any:
        """Batches of one view, of this rank."""
        samples = ScanSamples(
            dataset, self.data, training=training, seed=self.experiment.train.seed
        )
        return self.loader_of(samples, training)

    def loader_of(self, samples: Samples, training: bool, batch_size: int | None = None) -> Any:
        """Batches of these samples, of this rank; as large as the configuration says if not told otherwise."""
        e = self.experiment
        if training and self.world.rank == 0:
            _tell_useful(e.workers_per_gpu, len(samples))
        return build_loader(
            samples,
            batch_size=batch_size or (e.batch_size if training else e.eval.batch_size),
            workers=e.workers_per_gpu,
            training=training,
            seed=e.train.seed,
            rank=self.world.rank,
            world=self.world.size,
            pin_memory=self.world.device.type == "cuda",
        )

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """What is initialised inside is alike on every rank, whatever was drawn before."""
        state = torch.get_rng_state()
        torch.manual_seed(self.experiment.train.seed)
        yield
        torch.set_rng_state(state)

    def model(self, num_classes: int, *, pretrained: bool = True) -> nn.Module:
        """The network, initialised alike on every rank; files of pretrained weights are read on request."""
        with self.seeded():
            return build_model(self.config, num_classes, pretrained=pretrained)

    def start_from_other_run(self, method: Method) -> TrainedNetwork | None:
        """Load the weights ``train.init_from`` names, if it does, into what is about to be trained."""
        train = self.experiment.train
        if train.init_from is None:
            return None
        from core.engine.run.starting_weights import start_from

        return start_from(method, train.init_from, train.init_skip)

    def autocast(self) -> Any:
        """The mixed-precision context."""
        return autocast(self.experiment, self.world.device)


def _tell_useful(asked: int, scans: int) -> None:
    useful = useful_workers(asked, scans)
    if useful < asked:
        logger.info(
            "workers_per_gpu {} -> {}: the split has {} and this machine {}",
            asked,
            useful,
            counted(scans, "scan"),
            counted(usable_cores(), "core"),
        )


def configure_logging(world: World) -> None:
    """Messages of rank 0 go to stderr; torchpack's own are switched off, ours say the same with less."""
    logger.remove()
    logger.disable("torchpack")
    if world.rank == 0:
        logger.add(
            sys.stderr,
            level="INFO",
            format="<green>{time:HH:mm:ss}</green> <level>{message}</level>",
        )


def autocast(experiment: Experiment, device: torch.device) -> contextlib.AbstractContextManager:
    """The run's mixed-precision context."""
    number_type = experiment.amp.number_type(device.type)
    dtype = torch.float16 if number_type == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=number_type != "fp32")
