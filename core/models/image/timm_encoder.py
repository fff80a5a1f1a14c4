"""Any timm network as an encoder, as long as its stages can run one after the other."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from core.errors import UserError
from core.models.image.packaged import timm_weights
from core.models.image.timm_map import timm_module, timm_normal
from core.models.image.weights import load_encoder

if TYPE_CHECKING:
    from timm.models import FeatureListNet

__all__ = ["TimmEncoder", "pick_taps"]

WANTED = (2, 4, 8, 16)  # px; the voxels' strides
NEAREST = (4, 8, 16, 32)


def pick_taps(strides: list[int], name: str) -> list[int]:
    """Indices of the four feature levels at strides 2, 4, 8, 16, or else 4, 8, 16, 32.

    Raises:
        UserError: the model has neither; it says which strides are lacking.
    """
    for wanted in (WANTED, NEAREST):
        if set(wanted) <= set(strides):
            return [strides.index(stride) for stride in wanted]
    lacking = ", ".join(str(stride) for stride in NEAREST if stride not in strides)
    raise UserError(
        f"timm's '{name}' has features at strides {', '.join(map(str, strides))} px; stride {lacking} is lacking",
        where="model.image.encoder",
        cure="Choose a convolutional network with four levels, e.g. a resnet, regnet or convnext",
    )


class TimmEncoder(nn.Module):
    """The first levels of a timm network.

    Fusion feeds its result back between stages, so only networks that timm exposes as a chain of modules are accepted.

    Args:
        name: as in ``timm.list_models()``.

    Attributes:
        channels: of the four stages. normal: mean and deviation of the images that timm's weights were trained with.

    Raises:
        UserError: timm is not installed, or the model is unknown, no chain, or lacks a stride.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = _feature_chain(name)
        taps = [i for i, key in enumerate(self.net) if key in self.net.return_layers]
        self.bounds = [0, *(i + 1 for i in taps)]
        self.channels = tuple(self.net.feature_info.channels())
        self.normal = timm_normal(self.net)
        self._name = name

    def stem(self, images: Tensor) -> Tensor:
        """The images themselves: what timm calls the stem is part of the first stage."""
        return images

    def stage(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Level ``i``: (features, the same as skip), [N, channels[i], H', W']."""
        for module in islice(self.net.values(), *self.bounds[i : i + 2]):
            x = module(x)
        return x, x

    def load_pretrained(self, path: Path) -> None:
        """timm's own weights of the whole model, or a package's; what belongs to later modules is dropped.

        Raises:
            UserError: see :func:`timm_weights` and :func:`load_encoder`.
        """
        given = timm_weights(path, self._name)
        weights = {self._key(key): value for key, value in given.items()}
        used = {key.partition(".")[0] for key in self.net.state_dict()}
        dropped = {key.partition(".")[0] + "." for key in weights} - {f"{name}." for name in used}
        load_encoder(self.net, weights, path, dropped=dropped)

    def _key(self, key: str) -> str:
        """timm flattens ``stages.0.x`` into ``stages_0.x`` when it cuts a network into levels."""
        first, _, rest = key.partition(".")
        flat = f"{first}_{rest}"
        return flat if first not in self.net and flat.partition(".")[0] in self.net else key


def _feature_chain(name: str) -> FeatureListNet:
    """The named network, cut into the chain of modules that leads to its four levels."""
    timm = timm_module(name, "model.image.encoder")
    from timm.models import FeatureListNet
    from timm.models.efficientnet import EfficientNetFeatures

    try:
        whole = timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"timm's '{name}' gives no feature levels ({error})",
            where="model.image.encoder",
            cure="Choose another",
        ) from error
    if not isinstance(whole, FeatureListNet | EfficientNetFeatures):
        raise UserError(
            f"timm's '{name}' cannot be run stage by stage, which fusion with LiDAR features needs",
            where="model.image.encoder",
            cure="Choose a network timm exposes as a chain, e.g. a resnet, regnet, convnext or efficientnet",
        )
    taps = pick_taps(list(whole.feature_info.reduction()), name)
    if isinstance(whole, EfficientNetFeatures):  # a chain where asked to be one
        flat = {"flatten_sequential": True, "out_indices": taps}
        chain = timm.create_model(name, features_only=True, feature_cfg=flat)
    else:
        chain = timm.create_model(name, features_only=True, out_indices=taps)
    assert isinstance(chain, FeatureListNet), "like the network with all its levels"
    return chain
