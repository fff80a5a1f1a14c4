"""A trained network's logits at every point of a split, on disk, for ``distill.logits``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from core.config import Config
from core.contracts import Batch
from core.data import VotePlan, VoteSamples
from core.datasets import build_dataset, dataset_class
from core.datasets.base import ScanDataset
from core.datasets.columns import Column, column_file
from core.datasets.stored_logits import LOGITS, logits_header
from core.distill import TeacherOutput
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.forward import infer
from core.engine.run.trained import TrainedNetwork, read_network
from core.engine.score.opened import Opened
from core.engine.score.prediction import view_of
from core.engine.score.pseudo_labels import own_view
from core.engine.score.tally import Visits, shown_points
from core.engine.score.voting import check_visits
from core.errors import UserError
from core.io import atomic_path
from core.sparse import fold_batch_norm

__all__ = ["LogitsWriter", "write_teacher_logits"]

_AGAIN = "Delete the file and start prepare_teacher_logits.py again"


def write_teacher_logits(
    world: World,
    config: Config,
    checkpoint: Path,
    *,
    split: str = "train",
    name: str | None = None,
    workers: int | None = None,
    visits: int = 1,
) -> LogitsWriter:
    """Ask a network about every scan of a split that has no file yet.

    Args:
        config: of the student; its ``dataset`` names the scans and the column. name: of the column; None = that of
            ``distill.logits``. workers: processes that read scans; None = as many as in the network's training.
        visits: passes over each scan, of which each shows another point of every voxel.

    Returns:
        what wrote the files, which knows how many.

    Raises:
        UserError: there is no such column or network, it knows other classes, a scan is damaged, or a file holds logits
            of another network or scan.
    """
    found = read_network(checkpoint, "--checkpoint")
    if workers is not None:
        found.config.merge({"workers_per_gpu": workers}, "--workers")
    writer = LogitsWriter.of(world, config, found, split, _column(config, name), visits)
    missing = writer.missing()
    for index, logits in zip(missing, writer.logits(missing)):
        writer.write(index, logits)
    return writer


@dataclass(frozen=True)
class LogitsWriter:
    """Writes f16 [N, classes] of each scan's points: logarithms of probabilities, rows of zeros where it has none.

    Attributes:
        opened: the network, in the configuration of its training but for where scans lie.
        scans: the split as the network sees it, without labels. column: says where the files lie.
        visits: passes over each scan; a point's logits are the mean over those that showed it, else over all.
    """

    opened: Opened
    scans: ScanDataset
    column: Column
    visits: int

    @classmethod
    def of(
        cls,
        world: World,
        config: Config,
        found: TrainedNetwork,
        split: str,
        column: Column,
        visits: int,
    ) -> LogitsWriter:
        """Open the scans of ``config`` as the network was shown those of its training.

        Raises:
            UserError: the network knows other classes, or the scans cannot be opened.
        """
        own = own_view(found, deepcopy(config))
        without: dict[str, Any] = {
            "use_labels": False,
            "labelled": None,
            "drop_static": None,
            "unlabelled": [],
            "pseudo_labels": None,
        }
        own.merge(without, "prepare_teacher_logits.py", "dataset")
        scans = build_dataset(own, split)
        found.check_labels(scans.labels, "--checkpoint")
        if column.channels != scans.labels.num_classes or column.key != LOGITS:
            raise UserError(
                f"the column has {column.channels} channels and the key {column.key}; the network gives "
                f"{scans.labels.num_classes} values under '{LOGITS}'",
                where="key 'dataset.columns'",
                cure=f"Write key: {LOGITS}, channels: {scans.labels.num_classes}",
            )
        context = Context.open(own, world)
        if visits > 1:
            check_visits(context.data, "--visits")
        return cls(Opened(found, context), scans, column, visits)

    def path(self, index: int) -> Path:
        """The file of scan ``index``."""
        return column_file(self.column, self.scans.root, self.scans.token(index))

    def missing(self) -> list[int]:
        """Scans without a file.

        Raises:
            UserError: a file is not one that this network would write for its scan.
        """
        missing = []
        for index in range(len(self.scans)):
            if self.path(index).is_file():
                self._check(index)
            else:
                missing.append(index)
        return missing

    def _check(self, index: int) -> None:
        path = self.path(index)
        found = {"visits": 1} | logits_header(path)  # earlier files do not say it
        for key, value in self._header(index).items():
            if found.get(key) != value:
                raise UserError(
                    f"these logits have another {key} ({found.get(key, 'none')}) than those to be written ({value})",
                    where=str(path),
                    cure=f"{_AGAIN}, or name another file in dataset.columns",
                )

    def _header(self, index: int) -> dict[str, Any]:
        return {
            "scan": self.scans.token(index),
            "classes": list(self.scans.labels.classes),
            "checkpoint": self.opened.found.sha256,
            "visits": self.visits,
        }

    def logits(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Those of scans of the split, in this order."""
        if not indices:
            return
        context = self.opened.context
        network = fold_batch_norm(self.opened.network(self.scans.labels))
        self.opened.compare_scans(self.scans)
        plan = VotePlan(self.visits, "points")
        samples = VoteSamples(self.scans, view_of(context, self.scans), plan, 1, indices)
        loader = context.loader_of(samples, training=False, batch_size=1)
        loader.set_epoch(0, 0)
        bar = tqdm(loader, desc="teacher", unit="visit", disable=not sys.stderr.isatty())
        tally = Visits()
        for count, batch in enumerate(bar):
            index = indices[count // self.visits]
            assert batch.tokens == (self.scans.token(index),), "a scan's visits, in its turn"
            on_device = batch.to(context.world.device)
            with torch.no_grad(), context.autocast():
                output = infer(network, on_device)
            logits, known = TeacherOutput.shared(on_device, output).at_points(on_device)
            tally.add(logits.float(), shown_points(on_device))
            if tally.seen == self.visits:
                yield _rows(tally.total() / self.visits, known, on_device)
                tally = Visits()

    def write(self, index: int, logits: np.ndarray) -> None:
        """Write the file of a scan, atomically."""
        path = self.path(index)
        header = json.dumps(self._header(index), sort_keys=True).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, logits=logits, header=np.frombuffer(header, np.uint8))


def _rows(logits: Tensor, known: Tensor, batch: Batch) -> np.ndarray:
    """F16 [N, classes] of the keyframe's points, zeros where not ``known``."""
    logs = logits.log_softmax(1)
    rows = torch.where(known[:, None], logs, 0.0)[batch.keyframe]
    lowest = float(np.finfo(np.float16).min)
    return rows.clamp_min(lowest).cpu().numpy().astype(np.float16)


def _column(config: Config, name: str | None) -> Column:
    """The column that is to be written."""
    name = name or config.get("distill.logits")
    section = config.parse(dataset_class(config).Config, "dataset")
    column = section.columns.get(str(name))
    if column is None or column.motion is not None:
        raise UserError(
            "nothing says where the logits go"
            if name is None
            else f"'{name}' is no column of numbers",
            where="key 'dataset.columns'",
            cure="Write dataset: {columns: {teacher: {file: 'logits/{token}.npz', key: logits, channels: 4, "
            "train_only: true}}} and distill: {logits: teacher}, or name it with --column",
        )
    return column
