"""Weights as safetensors to hand on, and checkpoints of weights from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger
from safetensors.torch import save
from torch import Tensor

from core.config import Config
from core.datasets import dataset_class
from core.distill import network_outputs
from core.engine.exchange.foreign import Weights
from core.engine.exchange.published import check_training_part, read_published
from core.engine.run.adopted import changes_between
from core.engine.run.checkpoint import load_weights
from core.engine.run.experiment import Experiment
from core.engine.run.exported import METADATA, read_exported, tensors_hash
from core.engine.run.store import write_torch
from core.engine.run.trained import read_network
from core.errors import UserError
from core.io import sha256, write_bytes
from core.labels import LabelSpace
from core.models import build_model

__all__ = ["export_weights", "import_weights"]

# an absolute path, also as the default of ``${NAME:-path}``; the group holds its last part
_ABSOLUTE = re.compile(
    r"(?:(?<=:-)|^)(?:[/~\\]|[A-Za-z]:[/\\])(?:[^}]*[/\\])?([^/\\}]+)[/\\]*(?=\}|$)"
)


def export_weights(source: Path, out: Path, *, lidar_only: bool = False) -> dict[str, Any]:
    """Write the deployed network of a run folder or checkpoint to a safetensors file, atomically.

    Args:
        source: also such a file, for ``lidar_only``.
        lidar_only: of a LiDAR-camera student whose voxels never see an image (``model.c2l: false``), the LiDAR network.

    Returns:
        the metadata.

    Raises:
        UserError: no checkpoint, one of another project, or a student that cannot do without its image branch.
    """
    found = read_network(source, "RUN_OR_CHECKPOINT")
    if found.tree is None:
        raise UserError(
            "this checkpoint does not say which network it holds",
            where=str(found.path),
            cure="If another project published it, import it first: python -m core.engine.exchange import",
        )
    config = Config(tree=_portable(found.tree), source=f"configuration in {found.path}")
    weights = found.weights
    if lidar_only:
        weights = _lidar_part(config, weights, found.path)
    network = build_model(config, found.outputs, pretrained=False)
    load_weights(network, weights, str(found.path))
    metadata = {
        "format": 1,
        "config": config.tree,
        "classes": list(found.classes),
        "fingerprint": found.fingerprint,
        "sensor": None if found.sensor is None else found.sensor.to_json(),
        "source_sha256": found.sha256,
        "teacher_sha256": found.teacher_sha256,
        "trained_on": found.trained_on,
    }
    tensors = {
        key.removeprefix("module."): value.detach().clone().contiguous()
        for key, value in weights.items()
    }
    metadata["weights_sha256"] = tensors_hash(tensors)
    write_bytes(out, save(tensors, {METADATA: json.dumps(metadata, sort_keys=True)}))
    return metadata


def _lidar_part(config: Config, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The LiDAR network's own weights; ``config`` becomes one of that network."""
    model = config.tree["model"]
    if model.get("name") != "lidar_camera":
        raise UserError(
            f"'{model.get('name')}' has no image branch to leave out",
            where=str(path),
            cure="Drop --lidar-only",
        )
    if model.get("c2l", True):
        raise UserError(
            "this student's voxels take in image features, or features learned in their place, after every stage; "
            "its LiDAR network alone would be another network",
            where=f"{path}, key 'model.c2l'",
            cure="Export it whole: it also runs without images (--data.images false)",
        )
    config.tree["model"] = model["lidar"]
    config.tree["data"] = config.tree.get("data", {}) | {"images": False}
    return {
        key.removeprefix("lidar."): value
        for key, value in weights.items()
        if key.startswith("lidar.")
    }


def _portable(value: Any) -> Any:
    """A copy in which absolute paths are file names: they mean nothing elsewhere, and tell of the machine."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return _ABSOLUTE.sub(r"\1", value) if isinstance(value, str) else value


@dataclass(frozen=True)
class _Incoming:
    """Weights for a checkpoint of this project; see :class:`Published`.

    Attributes:
        known: what the checkpoint will say of their source.
    """

    config: Config
    network: Weights
    training: Weights
    known: dict[str, Any]


def import_weights(
    source: Path,
    config: Config,
    out: Path,
    *,
    part: str | None = None,
    family: str | None = None,
    names: Path | None = None,
) -> dict[str, Any]:
    """Write a checkpoint of this project from weights that came from elsewhere, atomically.

    Args:
        source: ``.safetensors`` written by :func:`export_weights`, or published weights of another project.
        config: what the checkpoint will remember: the network, how scans become samples, and the data set, which need
            not be on disk. Settings that published weights need are added where it is silent.
        part: ``teacher`` or ``student`` of a published file that holds both; None = what ``model.name`` says.
        family: whose weights they are, one of ``FAMILIES``; None = told by their names.
        names: a table of the file's names, where no family knows them.

    Returns:
        the checkpoint.

    Raises:
        UserError: the file is damaged, or is not the network or label space of ``config``; or that is not whole.
    """
    Experiment.from_config(config)  # what the checkpoint remembers has to be right
    reader = dataset_class(config)
    labels = reader.label_space(config.parse(reader.Config, "dataset"))
    if source.suffix != ".safetensors":
        found = _of_another_project(source, config, labels, part, family, names)
    elif part is None and family is None and names is None:
        found = _read_exported(source, config, labels)
    else:
        raise UserError(
            "--part, --from and --names are for published checkpoints",
            where=str(source),
            cure="Leave them out",
        )
    outputs = network_outputs(found.config, labels)
    model = build_model(found.config, outputs, pretrained=False)
    load_weights(model, found.network, str(source))
    training = check_training_part(
        found.training, model, found.config, labels.num_classes, str(source)
    )
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": found.config.tree,
    }
    if found.known.get("teacher_sha256"):
        identity["teacher"] = {"sha256": found.known["teacher_sha256"]}
    if found.known.get("sensor"):
        identity["sensor"] = found.known["sensor"]
    identity["imported"] = {"file": source.name, "sha256": sha256(source), **found.known}
    state = {"model": model.state_dict(), "training_only": training, "identity": identity}
    write_torch(out, state)
    return state


def _of_another_project(
    source: Path,
    config: Config,
    labels: LabelSpace,
    part: str | None,
    family: str | None,
    names: Path | None,
) -> _Incoming:
    found = read_published(source, config, labels, family=family, part=part, names=names)
    for why, unused in found.unused.items():
        logger.info("not used: {} ({})", _shown(unused), why)
    known = {"family": found.family, "part": found.part, "unused": found.unused}
    return _Incoming(found.config, found.network, found.training, known)


def _shown(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read_exported(path: Path, config: Config, labels: LabelSpace) -> _Incoming:
    weights, metadata = read_exported(path)
    if metadata["fingerprint"] != labels.fingerprint:
        raise UserError(
            f"these weights know other classes ({', '.join(metadata['classes'][1:5])}, …) than '{labels.name}' "
            f"({', '.join(labels.classes[1:5])}, …)",
            where=str(path),
            cure="Give a configuration of the data set the network was trained on",
        )
    _warn_of_differences(Config(tree=metadata["config"], source=f"metadata of {path}"), config)
    known = {key: metadata.get(key) for key in ("source_sha256", "teacher_sha256", "sensor")}
    return _Incoming(config, weights, {}, known)


def _warn_of_differences(trained: Config, config: Config) -> None:
    """Options that shapes do not show, e.g. the voxel size."""
    changes = changes_between(trained, config)
    if changes:
        logger.warning(
            "the network was trained with other settings: {}", "; ".join(map(str, changes))
        )
