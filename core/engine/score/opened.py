"""A trained network opened for a job: its weights, and the configuration it is used with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger
from torch import nn

from core.config import Config
from core.data import DataConfig
from core.data.sensor_record import first_scans, worst_differences
from core.datasets import dataset_class
from core.datasets.base import ScanDataset
from core.engine.run.adopted import CHANGES, Change, adopt
from core.engine.run.checkpoint import load_weights
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.trained import TrainedNetwork, read_network
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["Opened", "check_features"]


@dataclass(frozen=True)
class Opened:
    """A trained network and the job's configuration.

    Attributes:
        found: what was read. context: of the job, its configuration completed by the checkpoint's.
        changes: settings of the network and its view that are others than in the training.
    """

    found: TrainedNetwork
    context: Context
    changes: tuple[Change, ...] = field(default=())

    @classmethod
    def of(cls, world: World, config: Config, checkpoint: Path) -> Opened:
        """Read a checkpoint (file, run folder, or exported file), and warn once of all settings that differ.

        Raises:
            UserError: no such checkpoint, a damaged one, other motion features than in the training, or anything else
                that the configuration gets wrong.
        """
        found = read_network(checkpoint, "--checkpoint")
        adopted = adopt(config, found)
        context = Context.open(adopted.config, world)
        if adopted.changes:
            check_features(found.config, adopted.config)
        if adopted.changes and world.rank == 0:
            logger.warning(
                "other settings than the network was trained with: {}",
                "; ".join(map(str, adopted.changes)),
            )
        return cls(found, context, adopted.changes)

    @property
    def record(self) -> dict[str, Any]:
        """What scores and predictions remember of settings that differ; empty where none do."""
        if not self.changes:
            return {}
        return {CHANGES: [change.to_json() for change in self.changes]}

    def network(self, labels: LabelSpace) -> nn.Module:
        """The network with its weights, on this rank's device.

        Raises:
            UserError: the checkpoint belongs to another model or label space.
        """
        self.found.check_labels(labels)
        model = self.context.model(labels.num_classes, pretrained=False)
        load_weights(model, self.found.weights, str(self.found.path))
        return model.to(self.context.world.device)

    def compare_scans(self, scans: ScanDataset) -> None:
        """Warn, on rank 0, where a few of the scans differ from those of the training in units or scanner."""
        trained = self.found.sensor
        if trained is None or self.context.world.rank > 0:
            return
        for sentence in worst_differences(
            trained,
            first_scans(scans, beams=self.context.data.beams),
            self.found.intensity_divisor,
            self.context.data.intensity_divisor,
        ):
            logger.warning("{}; expect poor labels", sentence)


def check_features(trained: Config, used: Config) -> None:
    """Refuse motion features that look ahead otherwise than those of the training, or are of another kind.

    Raises:
        UserError: they do; names the column and both.
    """
    if "dataset" not in trained.tree:
        return
    before, now = _motion_read(trained), _motion_read(used)
    if [said for _, said in before] == [said for _, said in now]:
        return
    told = [
        " and ".join(f"'{name}', {said}" for name, said in read) or "none" for read in (before, now)
    ]
    raise UserError(
        f"the network was trained on other motion features ({told[0]}) than it is to read ({told[1]})",
        where="key 'dataset.columns' or 'data.features'",
        cure="Leave these keys out: they come from the checkpoint; or train a network on these features",
    )


def _motion_read(config: Config) -> list[tuple[str, str]]:
    """The columns of motion that a network reads: name, kind and delay, in the order of its features."""
    section = config.parse(dataset_class(config).Config, "dataset")
    found = []
    for name in config.parse(DataConfig, "data").features:
        column = section.columns.get(name)
        if column is not None and column.motion is not None:
            found.append((name, f"{column.motion.kind} of delay {column.motion.delay}"))
    return found
