"""Published weights of other projects as a network of ours: which family, which settings, which tensor is what."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn

from core.config import Config
from core.distill import Method, method_class, network_outputs
from core.engine.exchange.families import Family, Target, Translated, chosen_family
from core.engine.exchange.foreign import Weights, read_foreign
from core.engine.exchange.named import NamedWeights, read_table
from core.engine.run.checkpoint import load_weights
from core.engine.run.experiment import Experiment
from core.errors import UserError
from core.labels import LabelSpace
from core.models import build_model

__all__ = ["Published", "check_training_part", "read_published"]


@dataclass(frozen=True)
class Published:
    """What a published file gives.

    Attributes:
        config: with the settings that its weights need, where the given one had none.
        network, training: weights, see :class:`Translated`.
        unused: why tensors are not used -> their published names.
        family: one of ``FAMILIES``. part: of the file, None where it holds one network alone.
    """

    config: Config
    network: Weights
    training: Weights
    unused: dict[str, list[str]]
    family: str
    part: str | None


def read_published(
    path: Path,
    config: Config,
    labels: LabelSpace,
    *,
    family: str | None,
    part: str | None,
    names: Path | None = None,
) -> Published:
    """Read another project's checkpoint for the network of a configuration.

    Args:
        family: one of ``FAMILIES``; None = whose names the weights have.
        part: of a file that holds several networks; None = what ``model.name`` says.
        names: a table of the file's names in place of a family, see :mod:`core.engine.exchange.named`.

    Raises:
        UserError: the file is damaged, of no known family or holds no such network; or the table is wrong.
    """
    found = read_foreign(path)
    known, project = _project(path, found.weights, family, names)
    name = str(config.get("model.name"))
    if name not in project.networks:
        raise UserError(
            f"weights of {project.title} are no '{name}'",
            where=config.origin("model.name"),
            cure=f"They can be {', '.join(project.networks)}; see configs/*/published_*.yaml",
        )
    if part is not None and part not in project.parts:
        raise UserError(
            f"files of {project.title} hold one network alone",
            where=str(path),
            cure="Leave --part out",
        )
    config = _with_needed_settings(config, project)
    with torch.device("meta"):  # names and shapes are enough
        network = build_model(config, network_outputs(config, labels), pretrained=False)
    origin = config.origin("model.name")
    target = Target(name, network, labels.num_classes, part, str(path), origin, found.settings)
    made = project.translate(found.weights, target)
    for note in made.notes:
        logger.info("{}: {}", project.title, note)
    return Published(config, made.network, made.training, _by_reason(made), known, part)


def _project(
    path: Path, weights: Weights, family: str | None, names: Path | None
) -> tuple[str, Family]:
    """The family of the weights, and what to call it."""
    if names is None:
        return chosen_family(family, weights, str(path))
    if family is not None:
        raise UserError(
            "--names and --from both say whose weights these are",
            where=str(path),
            cure="Leave one of them out",
        )
    table = read_table(names)
    return table.title, NamedWeights(table)


def _by_reason(made: Translated) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in made.unused.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def check_training_part(
    training: Weights, network: nn.Module, config: Config, classes: int, where: str
) -> Weights:
    """What learns beside the network, compared with the configuration's method by name and shape.

    Without a ``distill`` section there is nothing to compare with, and a method with a teacher cannot be built without
    one: then it is taken as it is.

    Returns:
        the same weights; none where the method has no such part.

    Raises:
        UserError: names or shapes differ from the method's.
    """
    if not training or config.get("distill") is None:
        return training
    kind = method_class(config)
    settings = config.parse(kind.Config, "distill")
    if settings.needs.teacher:
        return training
    criterion = Experiment.from_config(config).criterion_for(classes)
    method = kind(settings, network, None, criterion)
    if not method.training_state():
        logger.info(
            "not used: {} tensors that this configuration's method does not have", len(training)
        )
        return {}
    load_weights(method, Method.joined_state(network.state_dict(), training), where)
    return training


# --- settings ---------------------------------------------------------------------------------------------------------
def _with_needed_settings(config: Config, family: Family) -> Config:
    """A copy that says what the weights were trained with where the given one is silent; warns where it differs."""
    config = Config(deepcopy(config.tree), dict(config.origins), config.source)
    filled = []
    differing = []
    for prefix, section in _sections(config).items():
        kind = "image" if prefix.endswith(".image") else str(section.get("name"))
        for key, value in family.needed.get(kind, {}).items():
            written = f"{prefix}.{key}: {str(value).lower()}"
            if key not in section:
                config.merge({key: value}, f"published weights of {family.title}", prefix)
                filled.append(written)
            elif section[key] != value:
                differing.append(written)
    if filled:
        logger.info(
            "{}'s weights were trained with {}; so it is set", family.title, ", ".join(filled)
        )
    if differing:
        logger.warning(
            "{}'s own training ran with {}; set it, or scores suffer",
            family.title,
            ", ".join(differing),
        )
    return config


def _sections(config: Config) -> dict[str, Mapping[str, Any]]:
    """The sections of networks below ``model``, by dotted key."""
    model = config.get("model")
    sections = {"model": model}
    if isinstance(model.get("lidar"), Mapping):
        sections = {"model.lidar": model["lidar"], "model.image": model.get("image") or {}}
    return sections
