"""Weights of SLidR: MinkowskiEngine's Res16UNet34C, which PPKT and PointContrast share, and spconv's VoxelNet.

MinkowskiEngine counts the taps of a kernel with the first axis running fastest, whether its length is odd (about the
centre) or even (from 0 on); torchsparse, and so this project, lets the last axis of even kernels run fastest. A
transposed convolution meets the pairs of the strided one, tap by tap, in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from torch import Tensor

from core.data.partitions import Voxels
from core.data.partitions.cylinder import Cylinder
from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights
from core.engine.exchange.voxel_backbone import from_backbone, is_backbone
from core.errors import UserError
from core.models.probe import inputs_of

__all__ = ["SLidRWeights", "minkowski_kernel"]

_UNET = "conv0p1s1.kernel"
_PREFIXES = ("model_points.", "model.", "encoder.")  # of whole trainers
_IMAGES = "model_images."
_DEGREE = 1.0  # of azimuth, a cell of SLidR's cylinder
_PUBLISHED = {
    "srunet": "minkunet",
    "voxelnet": "voxelnet",
}  # model.name -> model_points of the file's settings


def _counted(ours: str, *first: int) -> Callable[[re.Match[str]], str]:
    """What stands in place of a match; its numbers count from ``first`` there, from 0 here."""
    return lambda match: ours.format(*(int(n) - less for n, less in zip(match.groups(), first)))


_BLOCK_PARTS = {
    "conv1.": "net.0.",
    "norm1.bn.": "net.1.",
    "conv2.": "net.3.",
    "norm2.bn.": "net.4.",
    "downsample.0.": "downsample.0.",
    "downsample.1.bn.": "downsample.1.",
}
_TABLE = Table(
    rules=(
        (r"conv0p1s1\.", "stem.net.0."),
        (r"bn0\.bn\.", "stem.net.1."),
        (r"conv([1-4])p\d+s2\.", _counted("downs.{}.0.net.0.", 1)),
        (r"bn([1-4])\.bn\.", _counted("downs.{}.0.net.1.", 1)),
        (r"block([1-4])\.(\d+)\.", _counted("downs.{}.{}.", 1, -1)),
        (r"convtr([4-7])p\d+s2\.", _counted("ups.{}.0.net.0.", 4)),
        (r"bntr([4-7])\.bn\.", _counted("ups.{}.0.net.1.", 4)),
        (r"block([5-8])\.(\d+)\.", _counted("ups.{}.1.{}.", 5, 0)),
        (r"final\.kernel$", "final.weight"),
    )
)


class SLidRWeights(Family):
    """``minkunet_slidr_1gpu.pt``, ``voxelnet_slidr.pt`` and checkpoints of the trainer; outputs are an embedding."""

    title: ClassVar[str] = "SLidR"
    networks: ClassVar[tuple[str, ...]] = ("srunet", "voxelnet")
    needed: ClassVar[Mapping[str, Mapping[str, object]]] = {"voxelnet": {"normalize": True}}

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By the first convolution of either network."""
        bare = {_bare(name) for name in names}
        return _UNET in bare or is_backbone(bare)

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename; bring kernels to this project's order of taps.

        Raises:
            UserError: the file holds the other network, or says that it was trained on other cells.
        """
        made = Translated()
        bare: Weights = {}
        for name, tensor in weights.items():
            if name.startswith(_IMAGES):
                made.unused[name] = "the image network, which is needed to pre-train alone"
            else:
                bare[_bare(name)] = tensor
        _check_network(bare, target)
        _check_settings(target)
        cells = inputs_of(target.network).data.cells
        if isinstance(cells, Cylinder) and cells.start != "scanner":
            made.notes.append(
                "coarse cells began at the scanner in their training: data.partition.start: scanner"
            )
        if target.name == "voxelnet":
            made.network = from_backbone(bare, target.network, target.file)
        else:
            made.network = _unet(bare)
        return made


def _bare(name: str) -> str:
    """A name without what a trainer puts in front."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _unet(weights: Weights) -> Weights:
    """Res16UNet34C under our names."""
    made = {}
    for name, tensor in weights.items():
        ours = _TABLE.rename(name)
        if re.match(r"block\d", name):
            ours = _inside_block(ours)
        if ours == "final.weight":
            tensor = tensor.reshape(tensor.shape[-2:]).T.contiguous()
        elif ours == "final.bias":
            tensor = tensor.flatten()
        elif ours.endswith(".kernel"):
            tensor = minkowski_kernel(tensor)
        made[ours] = tensor
    return made


def _inside_block(name: str) -> str:
    for part, ours in _BLOCK_PARTS.items():
        if f".{part}" in name:
            return name.replace(f".{part}", f".{ours}", 1)
    return name


def minkowski_kernel(kernel: Tensor) -> Tensor:
    """A kernel of MinkowskiEngine in the order of taps of torchsparse, which is ours.

    Args:
        kernel: [k^3, in, out] with x running fastest, or [in, out].

    Returns:
        the same shape; z runs fastest where k is even.
    """
    if kernel.dim() != 3 or len(kernel) % 2:
        return kernel
    side = round(len(kernel) ** (1 / 3))
    if side**3 != len(kernel):
        return kernel  # named by whoever loads it
    return kernel.unflatten(0, (side, side, side)).transpose(0, 2).flatten(0, 2).contiguous()


def _check_network(bare: Weights, target: Target) -> None:
    """Refuse a file of the other network."""
    there = "srunet" if _UNET in bare else "voxelnet"
    if there != target.name:
        raise UserError(
            f"this file holds '{there}', and the configuration asks for '{target.name}'",
            where=target.file,
            cure="Take configs/nuscenes/slidr/published_minkunet.yaml or published_voxelnet.yaml",
        )


def _check_settings(target: Target) -> None:
    """Compare what the file says of its cells; the released files of VoxelNet say what was not used."""
    settings = target.settings
    points = settings.get("model_points")
    if points is not None and points != _PUBLISHED[target.name]:
        raise UserError(
            f"its settings name the network '{points}', and its tensors are '{_PUBLISHED[target.name]}'",
            where=target.file,
            cure="The file was altered; download it again",
        )
    size, cylindrical = settings.get("voxel_size"), settings.get("cylindrical_coordinates")
    if target.name != "srunet" or not isinstance(size, float | int) or cylindrical is None:
        return
    cells = inputs_of(target.network).data.cells
    if cylindrical:
        wanted = f"{{name: cylinder, cell: [{size}, {_DEGREE}, {size}]}}"
        same = isinstance(cells, Cylinder) and cells.cell == (size, _DEGREE, size)
    else:
        wanted = f"{{name: voxels, size: {size}}}"
        same = isinstance(cells, Voxels) and cells.size == size
    if not same:
        raise UserError(
            f"these weights were trained on other cells: data.partition {wanted}",
            where=target.file,
            cure="Set data.partition so",
        )
