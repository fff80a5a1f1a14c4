"""Weights of CENet: ``SENet``, ``SENet_train_best`` and ``SENet_valid_best``.

Its trainer puts ``arch_cfg.yaml`` and ``data_cfg.yaml`` beside them; where they are, the configuration is compared with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from loguru import logger

from core.config.strict_yaml import read_yaml
from core.data.partitions.range_image import RangeImage
from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights
from core.errors import UserError
from core.labels import label_space
from core.models.lidar.cenet import CENet
from core.models.probe import inputs_of

__all__ = ["CENetWeights"]


def _counted(ours: str) -> Callable[[Any], str]:
    """Our lists count from 0."""
    return lambda match: ours.format(int(match[1]) - 1, *match.groups()[1:])


_STAGE = r"layer([1-4])\.(\d+)\."
_TABLE = Table(
    rules=(
        (r"conv([1-4])\.conv\.", _counted("stem.{}.0.")),
        (r"conv([1-4])\.bn\.", _counted("stem.{}.1.")),
        (_STAGE + r"conv1\.", _counted("stages.{}.{}.net.0.")),
        (_STAGE + r"bn1\.", _counted("stages.{}.{}.net.1.")),
        (_STAGE + r"conv2\.", _counted("stages.{}.{}.net.3.")),
        (_STAGE + r"bn2\.", _counted("stages.{}.{}.net.4.")),
        (_STAGE + r"downsample\.", _counted("stages.{}.{}.shortcut.")),
        (r"conv_([12])\.conv\.", _counted("head.{}.0.")),
        (r"conv_([12])\.bn\.", _counted("head.{}.1.")),
        (r"semantic_output\.", "classifier."),
        (r"aux_head([123])\.", _counted("heads.{}.")),
    )
)
_SPACES = {20: "semantickitti", 26: "semantickitti_multiscan"}  # classes -> label space


class CENetWeights(Family):
    """Checkpoints of CENet's trainer, of its pipelines ``res`` and ``fid``."""

    title: ClassVar[str] = "CENet"
    networks: ClassVar[tuple[str, ...]] = ("cenet",)

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By its first stage and its head."""
        return "semantic_output.weight" in names and "layer1.0.conv1.weight" in names

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename; the auxiliary heads are what learns beside the network.

        Raises:
            UserError: the files beside the weights speak of another network, input or label map.
        """
        assert isinstance(target.network, CENet), "networks names no other"
        made = _TABLE.translate(weights, target.classes)
        for name in [name for name in made.network if name.startswith("heads.")]:
            made.training[name] = made.network.pop(name)
        folder = Path(target.file).parent
        arch, data = folder / "arch_cfg.yaml", folder / "data_cfg.yaml"
        if arch.is_file():
            _compare(_mapping(arch), target.network, arch, made)
        else:
            made.notes.append(
                f"there is no {arch.name} beside the file; activation and input statistics are as configured"
            )
        if data.is_file():
            _compare_labels(_mapping(data), target.classes, data)
        return made


def _mapping(path: Path) -> Mapping[str, Any]:
    found = read_yaml(path)
    if not isinstance(found, Mapping):
        raise UserError("expected keys and values", where=str(path), cure="Copy the file again")
    return found


def _at(tree: object, *keys: str) -> Any:
    """The value below some keys, None where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _compare(arch: Mapping[str, Any], network: CENet, path: Path, made: Translated) -> None:
    """Refuse what makes other numbers of the same weights; mention what may be chosen freely."""
    config = network.config
    _demand("train.pipeline", _at(arch, "train", "pipeline"), "model.variant", config.variant, path)
    act = _at(arch, "train", "act")
    if isinstance(act, str):
        ours = config.activation.replace("_", "")
        _demand("train.act", act.lower(), "model.activation", ours, path)
    sensor = _at(arch, "dataset", "sensor")
    _demand("img_means", _numbers(sensor, "img_means"), "model.mean", _rounded(config.mean), path)
    _demand("img_stds", _numbers(sensor, "img_stds"), "model.std", _rounded(config.std), path)
    cells = inputs_of(network).data.cells
    if isinstance(cells, RangeImage) and cells.elevation is not None:
        edges = _pair(_at(sensor, "fov_down"), _at(sensor, "fov_up"))
        _demand("fov", edges, "data.partition.elevation", _rounded(cells.elevation), path)
    if isinstance(cells, RangeImage):
        size = _pair(_at(sensor, "img_prop", "height"), _at(sensor, "img_prop", "width"))
        if size is not None and size != [cells.height, cells.width]:
            made.notes.append(f"trained on images of {size[0]:g} x {size[1]:g} px ({path.name})")


def _demand(key: str, theirs: object, ours_key: str, ours: object, path: Path) -> None:
    """Compare a setting that the file has."""
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{key} is {theirs}, and '{ours_key}' is {ours}",
            where=str(path),
            cure=f"Set {ours_key} as these weights were trained",
        )


def _numbers(tree: object, key: str) -> list[float] | None:
    found = _at(tree, key)
    return _rounded(found) if isinstance(found, Sequence) else None


def _rounded(values: Sequence[Any]) -> list[float]:
    """As float32 has them."""
    return torch.tensor([float(value) for value in values], dtype=torch.float32).tolist()


def _pair(first: object, second: object) -> list[float] | None:
    if first is None or second is None:
        return None
    return _rounded([first, second])


def _compare_labels(data: Mapping[str, Any], classes: int, path: Path) -> None:
    """Refuse weights whose classes are other raw labels than ours."""
    theirs = data.get("learning_map")
    if not isinstance(theirs, Mapping) or classes not in _SPACES:
        logger.info("{}: its label map is not compared", path)
        return
    ours = label_space(_SPACES[classes]).raw_to_train
    for raw, train in theirs.items():
        if ours.get(int(raw), 0) != train:
            raise UserError(
                f"learning_map gives raw label {raw} the class {train}, the data set {ours.get(int(raw), 0)}",
                where=str(path),
                cure="Weights of other classes need a data set with their label map",
            )
