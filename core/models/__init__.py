"""Networks. A new one is a file in ``lidar/``, ``image/`` or ``fusion/`` and a line in its registry."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.config import Config
from core.registry import look_up

__all__ = ["LIDAR_MODELS", "MODELS", "build_model", "model_class"]

LIDAR_MODELS: dict[str, str] = {  # model.name -> module:class; imported when asked for
    "minkunet": "core.models.lidar.minkunet:MinkUNet",
    "spvcnn": "core.models.lidar.spvcnn:SPVCNN",
    "spvcnn_spformer": "core.models.lidar.sphereformer:SPVCNNSphereFormer",
    "sphereformer": "core.models.lidar.sphereformer:SphereFormerUNet",
    "twodpass": "core.models.lidar.twodpass:TwoDPass",
}
MODELS = LIDAR_MODELS | {"lidar_camera": "core.models.fusion.student:LidarCamera"}


def model_class(config: Config) -> Any:
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
    kind = model_class(config)
    model = kind(config.parse(kind.Config, "model"), num_classes)
    if pretrained and hasattr(model, "load_pretrained"):
        model.load_pretrained()
    return model
