"""U2MKD: a uni-modal LiDAR teacher distils into a LiDAR-camera student (TPAMI 46(12), 2024, pages 11059-11072).

The teacher sees several sweeps under its own, wider augmentation; the student sees the keyframe and its cameras. Voxels
of the two are linked by point indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.contracts import IGNORE, Batch, Output, Stage
from core.data import gather_rows
from core.distill.base import Needs, TeacherOutput, compared_stage
from core.distill.soft_targets import SoftTargets, SoftTargetsMethod
from core.errors import UserError
from core.losses import CrossEntropyLovasz, feature_mse
from core.models.fusion.output import FusedOutput
from core.models.probe import probe
from core.sparse import SyncBatchNorm

__all__ = ["U2MKD"]


class U2MKD(SoftTargetsMethod):
    """Segmentation in 3D and at the pixels, logits and features of the teacher, alignment of imputed image features.

    Args:
        config: see :class:`U2MKD.Config`.
        student: returns a :class:`FusedOutput` where it has an image branch. LiDAR-only networks are students too:
            their features are read from the stage of stride 16.
        teacher: the frozen network, looked at for its width alone; None when no term needs it.
        criterion: the segmentation loss.

    Raises:
        UserError: the features are to be compared and one of the networks has no stage of stride 16.
    """

    class Config(SoftTargets.Config):
        """``distill:`` section; defaults are those of the published model A."""

        name: Literal["u2mkd"] = Field(description="the method")
        w_kl: float = Field(
            1.0, ge=0, description="weight of the teacher's logits; published model B: 2.0"
        )
        w_feat: float = Field(
            1.0,
            ge=0,
            description="weight of the teacher's features at stride 16; published model B: 2.0",
        )
        w_align: float = Field(
            1.0,
            ge=0,
            description="weight of imputed against real image features, each of the four stages",
        )
        w_pixel: float = Field(
            1.0,
            ge=0,
            description="weight of the image branch's segmentation at visible points",
        )
        align_detach: bool = Field(True, description="the real image features are a fixed target")
        normalize_features: bool = Field(
            False, description="min-max per voxel before the features are compared"
        )

        @property
        def needs(self) -> Needs:
            """The teacher's values, as far as a term looks at them."""
            values: list[Literal["logits", "stages"]] = []
            if self.w_kl > 0 or self.w_feat > 0:
                values.append("logits")
            if self.w_feat > 0:
                values.append("stages")
            return Needs(teacher=tuple(values))

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        self.config = config
        self.adapt_layer: nn.Module | None = None
        if config.w_feat > 0:
            assert teacher is not None, "needs.teacher names its stages"
            width, target = _width(probe(student), "student"), _width(probe(teacher), "teacher")
            self.adapt_layer = nn.Sequential(
                nn.Linear(width, target), SyncBatchNorm(target), nn.ReLU()
            )

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        """The losses of section 5.2 of the method, by name and already weighted."""
        output = self.student(batch)
        losses = self.label_losses(output, batch)
        if isinstance(output, FusedOutput):
            losses |= self._pixel_losses(output, batch)
            losses |= self._align_losses(output)
        if teacher is not None:
            losses |= self._teacher_losses(output, batch, teacher)
        return losses

    def _pixel_losses(self, output: FusedOutput, batch: Batch) -> dict[str, Tensor]:
        if output.pixel_logits is None or self.config.w_pixel == 0:
            return {}
        labels = torch.where(output.in_view, batch.labels, IGNORE)
        named = self.criterion(output.pixel_logits, labels)
        return {f"pixel_{name}": self.config.w_pixel * loss for name, loss in named.items()}

    def _align_losses(self, output: FusedOutput) -> dict[str, Tensor]:
        """Mean squared error of imputed against real image features at visible points."""
        losses: dict[str, Tensor] = {}
        if self.config.w_align == 0:
            return losses
        stages = zip(output.learned_features, output.image_features)
        for stage, (learned, target) in enumerate(stages):
            if self.config.align_detach:
                target = target.detach()
            loss = feature_mse(learned, target, output.in_view, scope=self.criterion.scope)
            losses[f"align{stage}"] = self.config.w_align * loss
        return losses

    def _teacher_losses(
        self, output: Output, batch: Batch, teacher: TeacherOutput
    ) -> dict[str, Tensor]:
        rows = teacher.rows_for(batch)
        logits = gather_rows(teacher.logits, rows)
        mask = self.soft.asked(logits, batch.labels, rows >= 0)
        losses = {}
        if self.config.w_kl > 0:
            losses["kl"] = self.config.w_kl * self.soft.divergence(output.logits, logits, mask)
        if self.adapt_layer is not None:
            target = gather_rows(_stage(teacher.stages, "teacher").at_cells(), rows)
            features = self.adapt_layer(_student_features(output, batch))
            if self.config.normalize_features:
                features, target = _min_max(features), _min_max(target)
            distance = feature_mse(features, target.detach(), mask, scope=self.criterion.scope)
            losses["feat"] = self.config.w_feat * distance
        return losses


def _stage(stages: Sequence[Stage], kind: str) -> Stage:
    """The compared stage of the student or the teacher.

    Raises:
        UserError: there is none of this stride.
    """
    stage = compared_stage(stages)
    if stage is None:
        raise UserError(
            f"the {kind} has no encoder stage of stride 16 along every axis, so its features cannot be compared",
            where="distill.w_feat",
            cure="Set distill.w_feat to 0, or take a network with four down-sampling stages",
        )
    return stage


def _student_features(output: Output, batch: Batch) -> Tensor:
    """[SV, C] at the fine voxels, before fusion with image features."""
    if isinstance(output, FusedOutput):
        return output.points
    return _stage(output.stages, "student").at_cells()


def _width(output: Output, kind: str) -> int:
    if kind == "student" and isinstance(output, FusedOutput):
        return output.points.shape[1]
    return _stage(output.stages, kind).channels


def _min_max(features: Tensor) -> Tensor:
    """Each row scaled to 0..1."""
    low, high = features.amin(1, keepdim=True), features.amax(1, keepdim=True)
    return (features - low) / (high - low).clamp_min(1e-6)
