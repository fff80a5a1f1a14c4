"""Networks. A new one is a file in ``lidar/``, ``image/`` or ``fusion/`` and a line in its registry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from core.config import Config, Section
from core.data import COLUMN_WIDTHS, DataConfig
from core.datasets import DATASETS, dataset_class
from core.errors import UserError
from core.models.probe import Inputs, set_inputs
from core.registry import look_up

__all__ = [
    "LIDAR_MODELS",
    "MODELS",
    "Adapting",
    "NetworkClass",
    "Pretrained",
    "adapt",
    "build_model",
    "column_widths",
    "input_width",
    "model_class",
    "model_section",
    "with_input_width",
]

LIDAR_MODELS: dict[str, str] = {  # model.name -> module:class; imported when asked for
    "minkunet": "core.models.lidar.minkunet:MinkUNet",
    "spvcnn": "core.models.lidar.spvcnn:SPVCNN",
    "spvcnn_spformer": "core.models.lidar.sphereformer:SPVCNNSphereFormer",
    "sphereformer": "core.models.lidar.sphereformer:SphereFormerUNet",
    "twodpass": "core.models.lidar.twodpass:TwoDPass",
    "cylinder3d": "core.models.lidar.cylinder3d:Cylinder3D",
    "srunet": "core.models.lidar.srunet:SRUNet",
    "voxelnet": "core.models.lidar.voxelnet:VoxelNet",
    "cenet": "core.models.lidar.cenet:CENet",
    "motionbev": "core.models.lidar.motionbev:MotionBEV",
    "mambamos": "core.models.lidar.mambamos:MambaMOS",
}
MODELS = LIDAR_MODELS | {"lidar_camera": "core.models.fusion.student:LidarCamera"}


class NetworkClass(Protocol):
    """What a class of networks in the registry offers.

    A network of it maps a :class:`core.contracts.Batch` to an :class:`core.contracts.Output`.

    Attributes:
        Config: its ``model:`` section.
        partitions: names of the partitions (``data.partition``) that it can read.
    """

    Config: type[Section]
    partitions: tuple[str, ...]

    def __call__(self, config: Section, num_classes: int) -> nn.Module:
        """Build a network of ``num_classes`` outputs, class 0 (ignore) included."""


@runtime_checkable
class Pretrained(Protocol):
    """A network whose section may name files of pretrained weights."""

    def load_pretrained(self) -> None:
        """Read the files that the section names."""


@runtime_checkable
class Adapting(Protocol):
    """A module that can take on the form that older weights have."""

    def adapt_to(self, names: Collection[str]) -> None:
        """Change its parameters to those of weights of these names, as in its ``state_dict()``."""


def adapt(network: nn.Module, names: Collection[str]) -> None:
    """Give every part that can change the form that weights of these names have; an optimiser comes after it."""
    for path, module in network.named_modules():
        if isinstance(module, Adapting):
            beginning = f"{path}." if path else ""
            below = [name for name in names if name.startswith(beginning)]
            module.adapt_to([name.removeprefix(beginning) for name in below])


def model_class(config: Config) -> NetworkClass:
    """The network that ``model.name`` asks for; its options are its ``Config``.

    Raises:
        UserError: no name, or an unknown one.
    """
    return look_up(MODELS, config, "model.name", "models")


def build_model(config: Config, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """Build ``model.name`` with the options its own ``Config`` section allows.

    Args:
        config: the whole configuration; the ``model`` section is read.
        num_classes: outputs including class 0 (ignore).
        pretrained: read the files of weights that the section names; needless where a checkpoint follows.

    Raises:
        UserError: unknown model or option, or a file of weights that is missing, damaged or another network's.
    """
    model = model_class(config)(model_section(config), num_classes)
    set_inputs(model, Inputs(config.parse(DataConfig, "data"), column_widths(config)))
    if pretrained and isinstance(model, Pretrained):
        model.load_pretrained()
    return model


def model_section(config: Config) -> Section:
    """The ``model:`` section of the network that it names, with the input width that ``data.features`` gives.

    Raises:
        UserError: unknown model or option, features that do not exist, or a partition that the network cannot read.
    """
    kind = model_class(config)
    section = with_input_width(config.parse(kind.Config, "model"), config)
    _check_partition(kind, config)
    return section


def with_input_width(section: Section, config: Config) -> Section:
    """A network's section, whose ``in_channel`` follows from ``data.features``.

    Raises:
        UserError: the YAML gives another ``in_channel`` than its features have columns.
    """
    lidar = getattr(section, "lidar", None)
    if isinstance(lidar, Section):  # a network built around a LiDAR network
        return section.model_copy(update={"lidar": with_input_width(lidar, config)})
    in_channel = getattr(section, "in_channel", None)
    if in_channel is None:
        return section
    width = input_width(config)
    if "in_channel" in section.model_fields_set and in_channel != width:
        raise UserError(
            f"key 'in_channel' is {in_channel}, but data.features has {width} values per point",
            where=config.origin("model"),
            cure="Leave in_channel out: it follows from data.features",
        )
    return section.model_copy(update={"in_channel": width})


def input_width(config: Config) -> int:
    """Values per point of ``data.features``, those of ``dataset.columns`` included.

    Raises:
        UserError: a feature that no column has.
    """
    data = config.parse(DataConfig, "data")
    widths = column_widths(config)
    for name in data.features:
        if name not in widths:
            raise UserError(
                f"key 'data.features' names '{name}', which no point has",
                where=config.origin("data.features"),
                cure=f"Columns are {', '.join(widths)}; dataset.columns adds others from disk",
            )
    return sum(widths[name] for name in data.features)


def column_widths(config: Config) -> dict[str, int]:
    """Values per point of every column that networks may read, those of ``dataset.columns`` included."""
    widths = dict(COLUMN_WIDTHS)
    if config.section("dataset").get("name") in DATASETS:
        widths |= dataset_class(config).own_columns
    for name in config.section("dataset.point_columns"):  # of the scan files themselves
        if name not in ("x", "y", "z"):
            widths.setdefault(name, 1)
    for name, column in config.section("dataset.columns").items():
        widths[name] = _channels(column, f"dataset.columns.{name}", config)
    return widths


def _channels(column: object, key: str, config: Config) -> int:
    """Values per point of a column from disk."""
    found = column.get("channels", 1) if isinstance(column, Mapping) else None
    if type(found) is not int or found < 1:
        what = f"key '{key}' has the value {column!r:.100}; expected e.g. {{channels: 1}}"
        raise UserError(what, where=config.origin(key))
    return found


def _check_partition(kind: NetworkClass, config: Config) -> None:
    """Refuse a partition that the network cannot read."""
    name = config.parse(DataConfig, "data").cells.name
    if name not in kind.partitions:
        raise UserError(
            f"'{config.tree['model']['name']}' does not read the partition '{name}'",
            where=config.origin("data.partition"),
            cure=f"It reads {', '.join(kind.partitions)}",
        )
