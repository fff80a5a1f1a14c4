"""Weights of SPVNAS's MinkUNet and SPVCNN, which 2DPASS's torchsparse networks share."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights

__all__ = ["SPVNASWeights", "from_torchsparse"]

_NAMES = (
    (r"stage([1-4])\.", lambda match: f"vox_downs.{int(match[1]) - 1}."),
    (r"up([1-4])\.", lambda match: f"vox_ups.{int(match[1]) - 1}."),
    (r"classifier\.", "classifier_vox."),
)
_LOSS = (r"criterion\.", "weights of the loss")
_POINTS = (r"point_transforms\.", "MinkUNet holds a point branch, but does not run it")


def from_torchsparse(weights: Weights, target: Target) -> Translated:
    """Weights of a torchsparse MinkUNet or SPVCNN under our names."""
    unused = [_LOSS]
    if not hasattr(target.network, "point_transforms"):
        unused.append(_POINTS)
    return Table(_NAMES, unused).translate(weights, target.classes)


class SPVNASWeights(Family):
    """``init`` files of spvnas; trained to know 19 classes and no class 0."""

    title: ClassVar[str] = "spvnas"
    networks: ClassVar[tuple[str, ...]] = ("minkunet", "spvcnn")

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By its stages and its head."""
        return "stage1.0.net.0.kernel" in names and "classifier.0.weight" in names

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename stages and head."""
        return from_torchsparse(weights, target)
