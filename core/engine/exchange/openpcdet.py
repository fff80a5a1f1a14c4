"""OpenPCDet: the 3D backbone of its detectors as ``voxelnet``, and a ``voxelnet`` as the start of a detector."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from loguru import logger
from torch import Tensor, nn

from core.config import Config
from core.data import DataConfig
from core.data.partitions.grid import Grid
from core.engine.exchange.families import Family, Target, Translated
from core.engine.exchange.foreign import Weights
from core.engine.exchange.voxel_backbone import (
    HEAD,
    backbone_shapes,
    from_backbone,
    is_backbone,
    to_backbone,
)
from core.engine.run.checkpoint import load_weights
from core.engine.run.store import write_torch
from core.engine.run.trained import read_network
from core.errors import UserError
from core.models import build_model
from core.models.lidar.voxelnet import VoxelNet
from core.sparse import Conv3d

__all__ = ["DetectorReport", "OpenPCDetWeights", "export_openpcdet"]

_PREFIX = "backbone_3d."
_FEATURES = ("xyz", "intensity")  # what its detectors read on KITTI
_SEED = 0  # of a head that no file has


class OpenPCDetWeights(Family):
    """Checkpoints of detectors with a VoxelBackBone8x (SECOND, PV-RCNN, …), and what :func:`export_openpcdet` wrote."""

    title: ClassVar[str] = "OpenPCDet"
    networks: ClassVar[tuple[str, ...]] = ("voxelnet",)

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By the prefix of its 3D backbone."""
        return any(name.startswith(_PREFIX) for name in names)

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename the backbone; its head begins anew, for detectors have none.

        Raises:
            UserError: the backbone is another one.
        """
        made = Translated()
        backbone: Weights = {}
        for name, tensor in weights.items():
            if name.startswith(_PREFIX):
                backbone[name.removeprefix(_PREFIX)] = tensor
            else:
                made.unused[name] = "the detector behind its 3D backbone"
        if not is_backbone(backbone):
            raise UserError(
                "the 3D backbone of this detector is no VoxelBackBone8x, and 'voxelnet' is",
                where=target.file,
                cure="Take a detector with BACKBONE_3D: {NAME: VoxelBackBone8x}",
            )
        made.network = from_backbone(backbone, target.network, target.file)
        made.network |= _new_head(target.network)
        made.notes.append("the network's head begins anew, for a detector has none")
        return made


def _new_head(network: nn.Module) -> Weights:
    """The head as a network has it in the beginning, the same each time."""
    head = network.get_submodule(HEAD.removesuffix("."))
    assert isinstance(head, Conv3d), "VoxelNet's"
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(_SEED)
        made = Conv3d(head.in_channels, head.out_channels, head.kernel_size)
    return {HEAD + name: value for name, value in made.state_dict().items()}


# --- export -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class DetectorReport:
    """What a detector finds in a file.

    Attributes:
        loaded: names that its backbone looks for and finds, of their shape. expected: how many it looks for.
        left_out: names of the network's other tensors.
        data, grid: what the network was trained on. version: of spconv.
    """

    loaded: tuple[str, ...]
    expected: int
    left_out: tuple[str, ...]
    data: DataConfig
    grid: Grid
    version: str

    def text(self) -> str:
        """Lines for a person."""
        size = " x ".join(f"{edge:g}" for edge in self.grid.size)
        return (
            f"{len(self.loaded)} of {self.expected} tensors of VoxelBackBone8x, as {_PREFIX}*, for spconv "
            f"{self.version}; left out: {', '.join(self.left_out) or 'nothing'}\n"
            f"trained on boxes of {size} m, {', '.join(self.data.features)}, intensity / "
            f"{self.data.intensity_divisor:g}; OpenPCDet logs 'loaded {len(self.loaded)}/N', the rest begins anew"
        )


def export_openpcdet(source: Path, out: Path, version: str = "2") -> DetectorReport:
    """Write the 3D backbone of a trained ``voxelnet`` for OpenPCDet's ``--pretrained_model``, atomically.

    The file is ``{"model_state": {"backbone_3d.…": …}}``; the head stays here.

    Args:
        source: run folder, checkpoint or exported file. version: of the spconv that OpenPCDet runs with, "1" or "2".

    Raises:
        UserError: no checkpoint, or a network that OpenPCDet has no counterpart of.
    """
    found = read_network(source, "RUN_OR_CHECKPOINT")
    config = found.config
    name = config.get("model.name")
    if name != "voxelnet":
        raise UserError(
            f"OpenPCDet has no backbone that '{name}' could become; it has VoxelBackBone8x, which is 'voxelnet'",
            where=f"{found.path}, key 'model.name'",
            cure="Train one with pretrain.py configs/nuscenes/slidr/voxelnet.yaml, or export as safetensors",
        )
    network = build_model(config, found.outputs, pretrained=False)
    assert isinstance(network, VoxelNet), "the name says so"
    load_weights(network, found.weights, str(found.path))
    backbone = to_backbone(network.state_dict(), network, version)
    report = _report(backbone, network, config, version)
    _warn_of_inputs(config)
    write_torch(out, {"model_state": {_PREFIX + key: value for key, value in backbone.items()}})
    return report


def _report(backbone: Weights, network: VoxelNet, config: Config, version: str) -> DetectorReport:
    """Compare what is exported with what VoxelBackBone8x looks for.

    Raises:
        UserError: a tensor is lacking or of another shape.
    """
    expected = backbone_shapes(network.config.in_channel, version)
    loaded = _loaded(backbone, expected)
    if len(loaded) < len(expected) or len(backbone) > len(expected):
        raise UserError(
            f"{len(loaded)} of {len(expected)} tensors would be loaded, of {len(backbone)} that the backbone has",
            where="export",
            cure="Please report it: voxelnet and VoxelBackBone8x have grown apart",
        )
    data = config.parse(DataConfig, "data")
    assert isinstance(data.cells, Grid), "voxelnet reads no other"
    left_out = tuple(key for key in network.state_dict() if key.startswith(HEAD))
    return DetectorReport(tuple(loaded), len(expected), left_out, data, data.cells, version)


def _loaded(backbone: Weights, expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Names of tensors that a detector takes: those of its own names and shapes."""
    loaded = []
    for name, shape in expected.items():
        tensor: Tensor | None = backbone.get(name)
        if tensor is not None and tuple(tensor.shape) == shape:
            loaded.append(name)
    return loaded


def _warn_of_inputs(config: Config) -> None:
    """Say where the detector has to be told of other values per point than KITTI's."""
    features = tuple(config.parse(DataConfig, "data").features)
    if features != _FEATURES:
        logger.warning(
            "the first convolution reads {}; the detector's used_feature_list needs the same values in this order, "
            "or it loads all but that one",
            ", ".join(features),
        )
