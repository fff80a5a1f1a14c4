"""Networks. A new one is a file in ``lidar/``, ``image/`` or ``fusion/`` and a line in its registry."""

from __future__ import annotations

import difflib
from importlib import import_module

from torch import nn

from core.config import Config
from core.errors import UserError

__all__ = ["LIDAR_MODELS", "MODELS", "build_model"]

LIDAR_MODELS: dict[str, str] = {  # model.name -> module:class; imported when asked for
    "minkunet": "core.models.lidar.minkunet:MinkUNet",
    "spvcnn": "core.models.lidar.spvcnn:SPVCNN",
    "spvcnn_spformer": "core.models.lidar.sphereformer:SPVCNNSphereFormer",
    "sphereformer": "core.models.lidar.sphereformer:SphereFormerUNet",
    "twodpass": "core.models.lidar.twodpass:TwoDPass",
}
MODELS = LIDAR_MODELS | {"lidar_camera": "core.models.fusion.student:LidarCamera"}


def build_model(config: Config, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """Build ``model.name`` with the options its own ``Config`` section allows.

    Args:
        config: the whole configuration; the ``model`` section is read.
        num_classes: outputs including class 0 (ignore).
        pretrained: read the files of weights that the section names; needless where a checkpoint follows.

    Raises:
        UserError: unknown model or option, or a file of weights that is missing, damaged or another network's.
    """
    name = config.tree.get("model", {}).get("name")
    if name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=1)
        hint = (
            f"did you mean '{near[0]}'?" if near else f"known models: {', '.join(sorted(MODELS))}"
        )
        raise UserError(
            f"unknown model '{name}'; {hint}",
            where=f"{config.origin('model.name')}, key 'model.name'",
        )
    module, _, attribute = MODELS[name].partition(":")
    kind = getattr(import_module(module), attribute)
    model = kind(config.parse(kind.Config, "model"), num_classes)
    if pretrained and hasattr(model, "load_pretrained"):
        model.load_pretrained()
    return model
