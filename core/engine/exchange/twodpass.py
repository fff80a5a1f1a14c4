"""Weights of 2DPASS: its own network with what teaches it, and its torchsparse networks, which are SPVNAS's."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import ClassVar

from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights
from core.engine.exchange.spvnas import from_torchsparse

__all__ = ["TwoDPassWeights"]


def _decoder(match: re.Match[str]) -> str:
    """Decoders count from 1 there, from 0 here."""
    return f"image.decoders.{int(match[1]) - 1}."


_ENCODER = r"model_3d\.spv_enc\.(\d+)\."
_TABLE = Table(
    rules=(
        (r"model_3d\.voxel_3d_generator\.PPmodel\.", "voxel_mlp."),
        (_ENCODER + r"v_enc\.(\d+)\.layers_in\.", r"encoders.\1.voxels.\2.shortcut."),
        (_ENCODER + r"v_enc\.(\d+)\.layers\.", r"encoders.\1.voxels.\2.net."),
        (_ENCODER + r"p_enc\.layer_in\.", r"encoders.\1.identity."),
        (_ENCODER + r"p_enc\.PPmodel\.", r"encoders.\1.context."),
        (_ENCODER + r"p_enc\.layer_out\.", r"encoders.\1.merge."),
        (r"model_3d\.classifier\.", "head."),
        (r"model_2d\.deconv_layer(\d+)\.", _decoder),
        (r"model_2d\.", "image.encoder."),
        (r"fusion\.multihead_3d_classifier\.(\d+)\.", r"heads.\1."),
        (r"fusion\.multihead_fuse_classifier\.(\d+)\.", r"fusions.\1.head."),
        (r"fusion\.leaners\.(\d+)\.0\.", r"fusions.\1.learner.0."),
        (r"fusion\.fcs1\.(\d+)\.0\.", r"fusions.\1.join."),
        (r"fusion\.fcs2\.(\d+)\.0\.", r"fusions.\1.gate."),
        (r"fusion\.classifier\.", "classifier."),
    ),
    unused=((r"(.*\.)?ce_loss\.weight$", "weights of the loss"),),
)
_TRAINING = ("image.", "heads.", "fusions.", "classifier.")
_AXES = "zyx"  # of its kernels: its coordinates are (batch, z, y, x)


class TwoDPassWeights(Family):
    """Lightning checkpoints of 2DPASS."""

    title: ClassVar[str] = "2DPASS"
    networks: ClassVar[tuple[str, ...]] = ("twodpass", "minkunet", "spvcnn")

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By its LiDAR network's prefix."""
        return any(name.startswith("model_3d.") for name in names)

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename; image network, fusion and auxiliary heads are what learns beside the network."""
        if not self.recognises(weights):
            return from_torchsparse(weights, target)
        made = _TABLE.translate(weights, target.classes, _AXES)
        for name in list(made.network):
            if name.startswith(_TRAINING):
                made.training[name] = made.network.pop(name)
        return made
