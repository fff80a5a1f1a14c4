"""What a LiDAR-camera network returns beside the logits of its voxels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.contracts import Output

__all__ = ["FusedOutput"]


@dataclass(frozen=True, kw_only=True)
class FusedOutput(Output):
    """The output of the LiDAR network (stages after fusion) and what the two networks exchanged.

    Attributes:
        points: [SV, C] features of the last encoder stage at the batch's voxels, before fusion.
        in_view: bool [SV], some camera sees the voxel.
        image_features: per stage [SV, ic] what the images show at the voxels, 0 where ``in_view`` is false; empty
            without images, or without a learner to compare them with.
        learned_features: per stage [SV, ic] what the learner imputes there; as many as ``image_features``.
        pixel_logits: [SV, classes] of the image decoder, 0 where ``in_view`` is false; None where it did not run.
    """

    points: Tensor
    in_view: Tensor
    image_features: tuple[Tensor, ...]
    learned_features: tuple[Tensor, ...]
    pixel_logits: Tensor | None
