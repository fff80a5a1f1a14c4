"""Wider start points: the channels of a trained network, tiled into a wider one of its kind or one of more classes.

What the published loader of PVKD does on the way to larger models, as a command of its own: a channel that is not
there is a copy of an existing one, from the first on, and nothing is rescaled. The wider network does not predict what
the narrow one did; it is a beginning for ``train.init_from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from core.config import Config
from core.datasets import dataset_class
from core.engine.exchange.foreign import Weights
from core.engine.run.adopted import changes_between
from core.engine.run.checkpoint import load_weights
from core.engine.run.experiment import Experiment
from core.engine.run.store import write_torch
from core.engine.run.trained import TrainedNetwork, read_network
from core.errors import UserError
from core.labels import LabelSpace
from core.models import build_model

__all__ = ["Tiled", "tile", "tile_weights", "widen_checkpoint"]

_KERNEL_AXES = 3  # [K, in, out] of a sparse kernel


@dataclass(frozen=True)
class Tiled:
    """A tensor that was tiled.

    Attributes:
        name: of the tensor. before, after: its shapes.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __str__(self) -> str:
        grown = []
        for axis, (old, new) in enumerate(zip(self.before, self.after)):
            if new > old:
                grown.append(f"axis {axis} {_copies(old, new)}")
        return f"{self.name} {list(self.before)} -> {list(self.after)}: {', '.join(grown)}"


def _copies(old: int, new: int) -> str:
    """What the channels behind the first ``old`` ones are: ``16..31 are 0..15``."""
    runs = []
    for start in range(old, new, old):
        end = min(start + old, new)
        runs.append(f"{start}..{end - 1} are 0..{end - start - 1}")
    return ", ".join(runs)


def tile(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Enlarge a tensor: channel i of a longer axis is channel i modulo its old length.

    Args:
        shape: no axis is shorter than that of ``values``.
    """
    for axis, length in enumerate(shape):
        if length > values.shape[axis]:
            channels = torch.arange(length) % values.shape[axis]
            values = values.index_select(axis, channels)
    return values


def tile_weights(given: Weights, network: nn.Module, where: str) -> tuple[Weights, list[Tiled]]:
    """Bring weights to the shapes of a network of the same kind.

    Names that one of the two lacks are left to whoever loads the weights.

    Args:
        network: its values are not looked at.
        where: the file, for errors.

    Returns:
        the weights, and what was tiled.

    Raises:
        UserError: a tensor would have to shrink, a kernel has other taps, or a linear layer another size.
    """
    wanted = network.state_dict()
    made: Weights = {}
    tiled = []
    for name, values in given.items():
        made[name] = values
        if name not in wanted or wanted[name].shape == values.shape:
            continue
        step = Tiled(name, tuple(values.shape), tuple(wanted[name].shape))
        _check(step, where)
        made[name] = tile(values, step.after)
        tiled.append(step)
    return made, tiled


def _check(step: Tiled, where: str) -> None:
    """Refuse what cannot be tiled."""
    axes = len(step.after)
    what = f"'{step.name}' is {list(step.before)} here and {list(step.after)} there"
    if len(step.before) != axes or axes not in (1, _KERNEL_AXES):
        raise UserError(
            f"{what}; only kernels of sparse convolutions and vectors are tiled, no linear layers",
            where=where,
            cure="Keep the widths of linear layers, of cylinder3d model.point_features and model.voxel_features",
        )
    if any(new < old for old, new in zip(step.before, step.after)):
        raise UserError(f"{what}; weights are widened, never shrunk", where=where)
    if axes == _KERNEL_AXES and step.before[0] != step.after[0]:
        raise UserError(
            f"{what}; the kernels have other numbers of taps",
            where=where,
            cure="Keep model.asym_mode: weights released by others need 'released'",
        )


def widen_checkpoint(source: Path, config: Config, out: Path) -> list[Tiled]:
    """Write a checkpoint for a wider network, or one of more classes, from a narrower one's, atomically.

    Args:
        source: run folder, checkpoint or exported file; published weights are imported first.
        config: of the wider network; its data set need not be on disk.

    Returns:
        what was tiled.

    Raises:
        UserError: the two networks differ in more than width, the classes of the old one are not the first ones of the
            new one, or there is nothing to widen.
    """
    Experiment.from_config(config)  # what the checkpoint remembers has to be right
    found = read_network(source, "RUN_OR_CHECKPOINT")
    reader = dataset_class(config)
    labels = reader.label_space(config.parse(reader.Config, "dataset"))
    _check_classes(found, labels)
    _check_kind(found, config)
    network = build_model(config, labels.num_classes, pretrained=False)
    given = {name.removeprefix("module."): values for name, values in found.weights.items()}
    weights, tiled = tile_weights(given, network, str(found.path))
    load_weights(network, weights, str(found.path))
    if not tiled:
        raise UserError(
            "this network is as wide already",
            where=str(found.path),
            cure="Use it as it is, or give the configuration of a wider one",
        )
    identity: dict[str, Any] = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
        "widened": {"sha256": found.sha256, "tiled": [str(step) for step in tiled]},
    }
    state = {"model": network.state_dict(), "training_only": {}, "identity": identity}
    write_torch(out, state)
    return tiled


def _check_classes(found: TrainedNetwork, labels: LabelSpace) -> None:
    """Compare the classes by name, and by their ids where none is new; say what new ones begin as."""
    known = len(found.classes)
    if known == labels.num_classes:
        found.check_labels(labels)
    if not known or tuple(labels.classes[:known]) != found.classes:
        raise UserError(
            f"its classes ({_some(found.classes)}) are not the first ones of the configuration's "
            f"({_some(labels.classes)})",
            where=str(found.path),
            cure="Give a configuration whose label space goes on where this one ends, or has the same classes",
        )
    for new in range(known, labels.num_classes):
        logger.info("class '{}' begins as '{}'", labels.classes[new], labels.classes[new % known])


def _some(classes: Sequence[str]) -> str:
    return f"{len(classes)}: {', '.join(classes[:4])}, …"


def _check_kind(found: TrainedNetwork, config: Config) -> None:
    """Refuse another network; tell which settings differ, widths and others."""
    trained, wanted = found.config.get("model.name"), config.get("model.name")
    if trained != wanted:
        raise UserError(
            f"a '{trained}' is no narrower '{wanted}'",
            where=str(found.path),
            cure=f"Give a configuration of '{trained}'",
        )
    for change in changes_between(found.config, config):
        logger.info("{}", change)
