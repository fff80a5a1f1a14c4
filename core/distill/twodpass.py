"""2DPASS (Yan et al., ECCV 2022): images teach a LiDAR network through features fused at every scale.

Multi-scale fusion-to-single knowledge distillation (MSFSKD): at each scale of the student's encoder, image and LiDAR
features of the points in view are fused and classified, and the student's own classification of that scale follows the
fused one. Image network, fusion and auxiliary classifiers exist in training only; what is deployed needs no camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from core.contracts import Batch, Output, Stage
from core.data import gather_rows, majority_labels
from core.distill.base import Needs, TeacherOutput
from core.distill.soft_targets import SoftTargets, SoftTargetsMethod
from core.errors import UserError
from core.losses import CrossEntropyLovasz
from core.models.image.resnet_fcn import STRIDES, FCNConfig, PixelReader, ResNetFCN
from core.models.probe import probe
from core.sparse import gather_sum
from core.sparse.points import GatherTable

__all__ = ["MSFSKD"]

HEAD = 128  # hidden width of every classifier


class MSFSKD(SoftTargetsMethod):
    """Segmentation by the student, by its scales, by image and LiDAR together; the last teaches the scales.

    Args:
        config: see :class:`MSFSKD.Config`.
        student: ``twodpass``, or any network whose encoder stages have growing strides.
        teacher: that of ``w_teacher``, which is not looked at; the fused features teach without one.
        criterion: the segmentation loss of the student's logits. Auxiliary ones share its class weights, and weigh both
            terms 1.

    Raises:
        UserError: the student has no stage to distil into, or its widths do not suit ``learner_residual``.
    """

    class Config(SoftTargets.Config):
        """``distill:`` section; defaults are those of the published models."""

        name: Literal["2dpass"] = Field(description="the method")
        mode: Literal["full", "aux_heads", "baseline"] = Field(
            "full",
            description='"full"; "aux_heads" = classifiers at the student\'s scales and no image, the control '
            'that tells deep supervision from distillation; "baseline" = the student alone',
        )
        image: FCNConfig = Field(FCNConfig(), description="the image network")
        hidden: int | None = Field(
            None,
            ge=1,
            description="width of the fused features; null = of the student's first scale",
        )
        w_scale: float = Field(
            1.0, ge=0, description="weight of the segmentation by each scale of the student"
        )
        w_seg2d: float = Field(
            1.0,
            ge=0,
            description="weight of the fused features' segmentation, shared among the scales",
        )
        w_kl: float = Field(
            0.05, ge=0, description="weight of the distillation, shared among the scales"
        )
        w_kl_output: float = Field(
            0.0,
            ge=0,
            description="weight of the joint prediction (of all scales' fused features together) as a target of the "
            "student's output; published: 0",
        )
        w_teacher: float = Field(
            0.0,
            ge=0,
            description="weight of another teacher's logits as targets of the student's output: teacher_pretrain, or "
            "with teacher.source: ema this method's own average; published: 0",
        )
        teacher_head: Literal["scales", "joint"] = Field(
            "scales",
            description="what each scale of the student follows: the prediction from its own fused features "
            "(published), or the joint one",
        )
        kl_reduction: Literal["mean", "batchmean"] = Field(
            "mean",
            description='of the distillation from images: "mean" over points and classes (as published: the usual '
            'value divided by the number of classes), or "batchmean" over points',
        )
        detach: bool = Field(
            True,
            description="the fused prediction is a fixed target of the distillation; false moves both",
        )
        feat_residual: bool = Field(
            False,
            description="add the image feature to the fused one (the paper, and the code of 2022)",
        )
        learner_residual: bool = Field(
            False,
            description="the scales' classifiers see feature + learner(feature) (the paper)",
        )

        @property
        def needs(self) -> Needs:
            """Images and another teacher, where they teach."""
            taught = self.w_teacher > 0
            return Needs(images=self.mode == "full", teacher=("logits",) if taught else ())

        @model_validator(mode="after")
        def _has_learner(self) -> MSFSKD.Config:
            if self.learner_residual and self.mode != "full":
                raise ValueError("learner_residual needs mode: full, where the learner exists")
            return self

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        self.config = config
        if config.mode == "baseline":
            return
        weight = criterion.class_weight
        self.auxiliary = CrossEntropyLovasz(
            1.0, 1.0, None if weight is None else weight.tolist(), criterion.scope
        )
        output = probe(student)
        classes = output.logits.shape[1]
        widths = [stage.channels for stage in _encoder_stages(output)]
        self.heads = nn.ModuleList(_head(width, classes) for width in widths)
        if config.mode == "full":
            hidden = config.hidden or widths[0]
            _check_residual(config, hidden, widths)
            self.image = ResNetFCN(config.image, hidden)
            self.image_stages = tuple(
                _image_stage(stage.edge[0]) for stage in _encoder_stages(output)
            )
            self.fusions = nn.ModuleList(
                Fusion(width, hidden, classes, config.feat_residual) for width in widths
            )
            self.classifier = _head(len(widths) * hidden, classes)

    def load_pretrained(self) -> None:
        """Read the image encoder's weights, where the YAML names them.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        if self.config.mode == "full":
            self.image.load_pretrained()

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """The losses by name and already weighted: the student's own (``ce``, ``lovasz``), and that of its distance
        from another teacher (``teacher_kl``); summed over the scales those of the auxiliary heads (``scale_*``), the
        fused features (``fused_*``) and the distillation (``kl``); those of all scales' fused features together
        (``joint_*``) and of the output's distance from them (``output_kl``).
        """
        output = self.student(batch)
        losses = self.label_losses(output, batch)
        if teacher is not None:
            losses["teacher_kl"] = self._teacher_loss(output, batch, teacher)
        if self.config.mode == "baseline":
            return losses
        scales = _encoder_stages(output)
        logits = [
            head(self._enhanced(i, scale.feats))
            for i, (head, scale) in enumerate(zip(self.heads, scales))
        ]
        for predicted, scale in zip(logits, scales):
            cells, classes = predicted.shape
            labels = majority_labels(batch.labels, scale.rows, cells, classes, ignore_votes=True)
            _add(losses, "scale", self.auxiliary(predicted, labels), self.config.w_scale)
        if self.config.mode == "aux_heads":
            return losses
        return losses | self._image_losses(batch, output, logits)

    def teach(self, batch: Batch) -> Output:
        """The joint prediction where a camera looks (of several cameras the first), the student's elsewhere."""
        output: Output = self.student(batch)
        if self.config.mode != "full":
            return output
        read, fused = self._fused(batch, _encoder_stages(output))
        joint = self.classifier(torch.cat(fused, 1)).to(output.logits.dtype)
        first = torch.ones_like(read.point, dtype=torch.bool)
        first[1:] = read.point[1:] != read.point[:-1]
        return replace(output, logits=output.logits.index_copy(0, read.point[first], joint[first]))

    def _teacher_loss(self, output: Output, batch: Batch, teacher: TeacherOutput) -> Tensor:
        rows = teacher.rows_for(batch)
        target = gather_rows(teacher.logits, rows)
        asked = self.soft.asked(target, batch.labels, rows >= 0)
        return self.config.w_teacher * self.soft.divergence(output.logits, target, asked)

    def _enhanced(self, i: int, features: Tensor) -> Tensor:
        if not self.config.learner_residual:
            return features
        fusion = self.fusions[i]
        assert isinstance(fusion, Fusion)
        learned: Tensor = fusion.learner(features)
        return features + learned

    def _fused(self, batch: Batch, scales: Sequence[Stage]) -> tuple[PixelReader, list[Tensor]]:
        """The points in sight, which may be none, and for each scale [P, hidden] of them."""
        if batch.images is None or batch.areas is None or batch.image_rows is None:
            raise UserError(
                "this method learns from images, and the batch has none",
                where="data.images",
                cure="Set data.images: true, or distill.mode: aux_heads or baseline",
            )
        read = PixelReader(batch.areas, batch.image_rows)
        maps = self.image(batch.images.flatten(0, 1))
        fused = []
        for stage, scale, fusion in zip(self.image_stages, scales, self.fusions):
            rows = scale.rows.index_select(0, read.point)
            fused.append(fusion(read(maps[stage], stage), _take(scale.feats, rows)))
        return read, fused

    def _image_losses(
        self, batch: Batch, output: Output, logits: list[Tensor]
    ) -> dict[str, Tensor]:
        """Of everything that looks at the images.

        Args:
            logits: of the student's scales, by their cells.
        """
        config, scales = self.config, _encoder_stages(output)
        read, fused = self._fused(batch, scales)
        labels = batch.labels.index_select(0, read.point)
        joint = self.classifier(torch.cat(fused, 1))
        losses: dict[str, Tensor] = {}
        for scale, own, fusion, features in zip(scales, logits, self.fusions, fused):
            assert isinstance(fusion, Fusion)
            predicted = fusion.head(features)
            _add(losses, "fused", self.auxiliary(predicted, labels), config.w_seg2d / len(scales))
            own = _take(own, scale.rows.index_select(0, read.point))
            target = joint if config.teacher_head == "joint" else predicted
            kl = self._distillation(own, target, labels)
            _add(losses, "", {"kl": kl}, config.w_kl / len(scales))
        _add(losses, "joint", self.auxiliary(joint, labels))
        if config.w_kl_output > 0:
            kl = self._distillation(_take(output.logits, read.point), joint, labels)
            losses["output_kl"] = config.w_kl_output * kl
        return losses

    def _distillation(self, own: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        asked = self.soft.asked(target, labels)
        value = self.soft.divergence(own, target, asked, detach=self.config.detach)
        return value / own.shape[1] if self.config.kl_reduction == "mean" else value


class Fusion(nn.Module):
    """Image and LiDAR features of one scale, joined by a gate, and their classifier.

    ``L = ReLU(Linear(lidar))``, ``Z = Linear([image; L])``, ``U = ReLU(Z * sigmoid(Linear(Z)))``.
    """

    def __init__(self, width: int, hidden: int, classes: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.learner = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.join, self.gate = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden)
        self.head = _head(hidden, classes)

    def forward(self, image: Tensor, lidar: Tensor) -> Tensor:
        """[P, hidden] and [P, width] -> [P, hidden]."""
        z = self.join(torch.cat([image, self.learner(lidar).to(image.dtype)], 1))
        u = torch.relu(z * torch.sigmoid(self.gate(z)))
        return u + image if self.residual else u


def _encoder_stages(output: Output) -> Sequence[Stage]:
    """The student's encoder stages, fine to coarse.

    Raises:
        UserError: it has none.
    """
    if not output.encoder_stages:
        raise UserError(
            "the student has no encoder stages that images could teach",
            where="model.name",
            cure="Choose twodpass, minkunet, spvcnn or spvcnn_spformer, or set distill.mode: baseline",
        )
    return output.encoder_stages


def _image_stage(edge: int) -> int:
    """The coarsest image stage that is no coarser than ``edge``; the first if all are."""
    return max(sum(stride <= edge for stride in STRIDES) - 1, 0)


def _check_residual(config: MSFSKD.Config, hidden: int, widths: list[int]) -> None:
    if config.learner_residual and any(width != hidden for width in widths):
        raise UserError(
            f"the learner adds {hidden} channels to scales of {', '.join(map(str, widths))}",
            where="distill.learner_residual",
            cure="It needs a student of one width at every scale (twodpass) and distill.hidden: null",
        )


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HEAD), nn.ReLU(), nn.Linear(HEAD, classes))


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """``values[rows]`` [R, C]; its gradient is a sum in a fixed order."""
    return gather_sum(values, GatherTable.lookup(rows, len(values)))


def _add(
    losses: dict[str, Tensor], prefix: str, terms: dict[str, Tensor], weight: float = 1.0
) -> None:
    """Add weighted terms to those of the same name."""
    for name, value in terms.items():
        key = f"{prefix}_{name}" if prefix else name
        losses[key] = losses[key] + weight * value if key in losses else weight * value
