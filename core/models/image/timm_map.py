"""Any timm network as a map from images to its last features, transformers such as DINOv2 included."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.models.image.packaged import timm_weights
from core.models.image.weights import load_encoder

__all__ = ["Normal", "TimmMap", "timm_module", "timm_normal", "timm_width"]

_SIDE = 32  # patches, or px: the coarsest stride of convolutional networks
Normal = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of RGB in 0..1


def timm_module(name: str, key: str) -> ModuleType:
    """timm itself, where it knows a network.

    Args:
        key: that names the network, for errors.

    Raises:
        UserError: timm is not installed, or does not know it.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"image encoder '{name}' is not built in (resnet18, resnet34, resnet50), and timm is not installed",
            where=key,
            cure="pip install timm",
        ) from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:3])
        raise UserError(
            f"neither LiDistill nor timm knows an image encoder '{name}'",
            where=key,
            cure=f"Did you mean {near}?" if near else "Names are those of timm.list_models()",
        )
    return timm


def _create(name: str, key: str) -> Any:
    """The network without its classifier, for images of any size where it can.

    Raises:
        UserError: see :func:`timm_module`; or it does not give the features on its way.
    """
    timm = timm_module(name, key)
    try:
        network = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a convolutional network takes images of any size as it is
        network = timm.create_model(name, num_classes=0)
    if not hasattr(network, "forward_intermediates"):
        raise UserError(
            f"timm's '{name}' does not give the features on its way",
            where=key,
            cure="Choose another, e.g. a vit, resnet or convnext",
        )
    return network


def timm_width(name: str, key: str) -> int:
    """Channels of a network's last features; see :class:`TimmMap`.

    Not timm's ``num_features``: those are of the classifier's input, which EfficientNets widen once more.
    """
    with torch.device("meta"):  # shapes alone
        network = TimmMap(name, key).eval()
        height, width = network.patch
        found: Tensor = network(torch.empty(1, 3, _SIDE * height, _SIDE * width))
    return found.shape[1]


def timm_normal(network: Any) -> Normal:
    """What the images were normalised by that a network of timm was trained with."""
    known = network.pretrained_cfg
    return tuple(known["mean"]), tuple(known["std"])


class TimmMap(nn.Module):
    """A timm network without its classifier.

    Args:
        name: as in ``timm.list_models()``. key: that names it, for errors.

    Attributes:
        normal: mean and deviation that it reads images by.

    Raises:
        UserError: see :func:`_create`.
    """

    def __init__(self, name: str, key: str) -> None:
        super().__init__()
        self.net = _create(name, key)
        self.normal = timm_normal(self.net)
        self._name = name
        self._key = key
        embedding = getattr(self.net, "patch_embed", None)
        self.patch: tuple[int, int] = getattr(embedding, "patch_size", (1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, C, H / s, W / s], the last features after the final norm; no class token.

        Raises:
            UserError: height or width is no multiple of a patch.
        """
        height, width = images.shape[2:]
        if height % self.patch[0] or width % self.patch[1]:
            raise UserError(
                f"images of {width}x{height} px are not a whole number of patches of "
                f"{self.patch[1]}x{self.patch[0]} px",
                where=f"data.image_augment.resized_crop.size, because of {self._key}",
                cure="Choose a width and height that are multiples of a patch",
            )
        found: list[Tensor] = self.net.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return found[-1]

    def load_pretrained(self, path: Path) -> None:
        """timm's own weights of the whole model, or a package's; the classifier is dropped.

        Raises:
            UserError: see :func:`timm_weights` and :func:`load_encoder`.
        """
        weights = timm_weights(path, self._name)
        own = {key.partition(".")[0] for key in self.net.state_dict()}
        dropped = {f"{key.partition('.')[0]}." for key in weights} - {f"{name}." for name in own}
        load_encoder(self.net, weights, path, dropped=dropped)
