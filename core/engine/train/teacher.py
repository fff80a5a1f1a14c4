"""The frozen teacher: found by ``teacher_pretrain`` and checked against the student's configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn

from core.config import Config
from core.contracts import Batch
from core.data import DataConfig
from core.data.config import CELLS
from core.datasets import dataset_class
from core.datasets.base import Multisweeps
from core.distill import TeacherOutput
from core.engine.run.checkpoint import load_weights
from core.engine.run.experiment import TeacherSection
from core.engine.run.forward import infer
from core.engine.run.trained import TrainedNetwork, read_network
from core.errors import UserError
from core.labels import LabelSpace
from core.models import build_model

__all__ = ["FrozenTeacher", "load_teacher", "sweeps_of"]

KEY = "teacher_pretrain"


@dataclass(frozen=True)
class FrozenTeacher:
    """A trained network in eval mode, without gradients.

    Attributes:
        network: on its device. data: how a scan becomes its view.
        found: what was read: the file, the configuration of its training, what the scans looked like there.
    """

    network: nn.Module
    data: DataConfig
    found: TrainedNetwork

    @property
    def checkpoint(self) -> Path:
        """The file it came from."""
        return self.found.path

    @property
    def sha256(self) -> str:
        """Of that file."""
        return self.found.sha256

    @property
    def identity(self) -> dict[str, Any]:
        """What a student's checkpoint remembers of its teacher."""
        return {
            "sha256": self.sha256,
            "checkpoint": str(self.checkpoint),
            "config": self.found.tree,
        }

    @torch.no_grad()
    def output(self, batch: Batch) -> TeacherOutput:
        """Run the network on a batch of its own view."""
        return TeacherOutput.of(batch, infer(self.network, batch))

    @torch.no_grad()
    def output_on(self, student: Batch) -> TeacherOutput:
        """Run the network on the student's very batch."""
        return TeacherOutput.shared(student, infer(self.network, student))


def load_teacher(config: Config, labels: LabelSpace, device: torch.device) -> FrozenTeacher:
    """Build the teacher from its checkpoint alone and load every weight.

    Raises:
        UserError: no ``teacher_pretrain``, another label space, or another network than ``teacher.model`` says.
    """
    given, section = config.tree.get(KEY), config.parse(TeacherSection, "teacher")
    if given is None:
        raise UserError(
            f"key '{KEY}' is missing: this method learns from a trained teacher",
            where=config.origin(KEY),
            cure=f"Pass --{KEY} RUN_FOLDER, or switch the teacher's terms off (distill.w_kl and distill.w_feat 0)",
        )
    found = read_network(Path(str(given)), f"key '{KEY}'")
    found.check_labels(labels, f"key '{KEY}'")
    own = found.config
    _compare_model(section.model, own.tree["model"], config, found.path)
    _compare_cells(section.data, own, config, found.path)
    values = {key: value for key, value in section.data.items() if key not in CELLS}
    own.merge(values, config.origin("teacher.data"), "data")
    data = own.parse(DataConfig, "data")
    if data.sweeps:
        _warn_of_sweeps(own, config)
    network = build_model(own, labels.num_classes, pretrained=False)
    load_weights(network, found.weights, f"{found.path}, key '{KEY}'")
    network.requires_grad_(False)
    found = replace(found, weights={}, training_only={})  # the network has them
    return FrozenTeacher(network.eval().to(device), data, found)


def _compare_model(
    wanted: dict[str, Any], found: dict[str, Any], config: Config, path: Path
) -> None:
    for key, value in wanted.items():
        if not _same(found.get(key), value):
            raise UserError(
                f"key 'teacher.model.{key}' is {value!r}, but the teacher was trained with "
                f"{found.get(key, 'its default')!r}",
                where=f"{config.origin(f'teacher.model.{key}')} and {path}",
                cure=f"Give another checkpoint with --{KEY}, or correct teacher.model.{key}",
            )


def _same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return math.isclose(a, b) if numbers else a == b


def _compare_cells(data: dict[str, Any], own: Config, config: Config, path: Path) -> None:
    """Refuse other cells than those the teacher was trained with, whichever key names them."""
    given = {key: data[key] for key in CELLS if key in data}
    if not given:
        return
    trained = own.parse(DataConfig, "data")
    if given.get("partition") is None:
        given.setdefault("voxel_size", trained.voxel_size)
    source = config.origin("teacher.data")
    wanted = Config(tree={"data": given}, source=source).parse(DataConfig, "data").cells
    if wanted != trained.cells:
        key = "partition" if "partition" in data else "voxel_size"
        raise UserError(
            f"key 'teacher.data.{key}' asks for {wanted!r}, but the teacher was trained with {trained.cells!r}",
            where=f"{config.origin(f'teacher.data.{key}')} and {path}",
            cure="Leave the key out; the teacher's view has its own cells, the student's may differ",
        )


def _warn_of_sweeps(own: Config, config: Config) -> None:
    """Tell of other sweeps than the teacher was trained with; what the configurations mean counts, not their words."""
    trained, given = sweeps_of(own), sweeps_of(config)
    if trained != given:
        logger.warning(
            "the teacher was trained with dataset.multisweeps {}, this run reads {}",
            trained or "none",
            given or "none",
        )


def sweeps_of(config: Config) -> dict[str, Any]:
    """The sweeps that a configuration reads, parsed; empty where it reads none."""
    kind = dataset_class(config).Config.model_fields.get("multisweeps")
    if kind is None:
        return {}
    section: type[Multisweeps] = kind.annotation or Multisweeps
    sweeps = config.parse(section, "dataset.multisweeps")
    return sweeps.model_dump() if sweeps.num_sweeps else {}
