"""Point-to-voxel distillation, the method of PVKD (Hou et al., CVPR 2022, arXiv 2206.02099).

A student learns from a larger teacher on one batch: the teacher's classes at points and at cells, and how alike the
points and the cells of a supervoxel are to each other. The weights of the four terms, the numbers of supervoxels,
points and cells, the form of the divergence and the weighting of supervoxels could not be checked against the paper's
text; they are settings, whose defaults are the values it is remembered to have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from core.contracts import IGNORE, Batch, Output, Stage
from core.data import gather_rows
from core.data.partitions.cylinder import Cylinder
from core.distill.affinity import affinity_loss, grouped
from core.distill.base import Needs, TeacherOutput
from core.distill.soft_targets import SoftTargets, SoftTargetsMethod
from core.distill.supervoxels import (
    Counts,
    Drawn,
    Sampling,
    Supervoxels,
    class_factor,
    draw,
    minority_cells,
    outer_distance,
    scan_generators,
)
from core.errors import UserError
from core.losses import CrossEntropyLovasz, kl_rows, row_mean
from core.models.probe import probe

__all__ = ["PVKD"]

Known = Output | TeacherOutput
_STEPS = 1 << 53  # progress as a whole number, without loss


class PVKD(SoftTargetsMethod):
    """Segmentation, the teacher's classes at points and cells, affinities within supervoxels.

    A network without logits or features of its own at the points gives each point those of its cell.

    Args:
        config: see :class:`PVKD.Config`.
        student: any network with stages; the last of the finest ones is compared.
        teacher: the frozen network, looked at for its stages alone; None when no term needs it, or when the average of
            the student teaches.
        criterion: the segmentation loss.

    Raises:
        UserError: affinities are to be compared and a network has no stages.
    """

    class Config(SoftTargets.Config):
        """``distill:`` section. Defaults are the paper's as far as they are known; see the module."""

        name: Literal["pvkd"] = Field(description="the method")
        out_point: float = Field(
            0.10, ge=0, description="weight of the teacher's classes at the points"
        )
        out_voxel: float = Field(
            0.15, ge=0, description="weight of the teacher's classes at the cells"
        )
        aff_point: float = Field(
            0.15, ge=0, description="weight of the affinities between points of a supervoxel"
        )
        aff_voxel: float = Field(
            0.25, ge=0, description="weight of the affinities between cells of a supervoxel"
        )
        direction: Literal["teacher_student", "student_teacher"] = Field(
            "teacher_student",
            description='divergence of the classes: "teacher_student" = KL(teacher || student); "student_teacher" = '
            "KL(student || teacher), as the paper's formula reads",
        )
        kl_reduction: Literal["mean", "batchmean"] = Field(
            "batchmean",
            description='of the divergence: "mean" over rows and classes (the paper), or "batchmean" over rows',
        )
        voxel_mean: Literal["active", "grid"] = Field(
            "active",
            description='cells that the cells\' divergence is averaged over: those with points ("active"), or all of '
            'the "grid" (the paper\'s formula; cylinder cells with bins)',
        )
        supervoxel: tuple[Annotated[int, Field(ge=1)], ...] = Field(
            (120, 60, 8),
            description="cells of a supervoxel along each axis of the partition; published for 480 x 360 x 32",
        )
        k: int = Field(4, ge=1, description="supervoxels drawn from each scan, without replacement")
        n_point: int = Field(
            1024, ge=1, description="points kept of a supervoxel, minority classes first"
        )
        n_voxel: int = Field(
            256, ge=1, description="cells kept of a supervoxel, minority classes first"
        )
        min_points: int = Field(
            1, ge=1, description="fewest points of a supervoxel that may be drawn"
        )
        sampling: Sampling = Field(
            "difficulty",
            description='what a supervoxel is drawn by: "difficulty" = by "distance" from the scanner and rare '
            '"class"; "uniform"',
        )
        minority_threshold: float = Field(
            0.01,
            ge=0,
            le=1,
            description="a class with at most this share of a scan's points is a minority class; where a scan has no "
            "labels, those of the teacher count",
        )
        mask_padding: bool = Field(
            True,
            description="a supervoxel with fewer points or cells is averaged over those that it has; false = its mean "
            "is diluted by zeros (published)",
        )
        seed: int = Field(
            0, ge=0, description="of what is drawn, together with the step and the scan"
        )

        @property
        def compares_features(self) -> bool:
            """Some affinity has a weight."""
            return self.aff_point > 0 or self.aff_voxel > 0

        @property
        def needs(self) -> Needs:
            """The teacher's values, as far as a term looks at them; logits also tell classes of unlabelled scans."""
            if self.compares_features:
                return Needs(teacher=("logits", "stages"), shared=True)
            if self.out_point > 0 or self.out_voxel > 0:
                return Needs(teacher=("logits",), shared=True)
            return Needs()

        @model_validator(mode="after")
        def _one_mean(self) -> PVKD.Config:
            if self.voxel_mean == "grid" and self.kl_mean == "classes":
                raise ValueError("voxel_mean: grid is a mean over cells; leave kl_mean out")
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
        self.counts = Counts(config.k, config.n_voxel, config.n_point)
        if config.compares_features:
            _finest(probe(student).stages, "student")
            if teacher is not None:
                _finest(probe(teacher).stages, "teacher")

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        """The losses by name and already weighted.

        The student's own (``ce``, ``lovasz``, …), and of the distance from its teacher ``out_point``, ``out_voxel``,
        ``aff_point`` and ``aff_voxel``.

        Raises:
            UserError: the teacher's output belongs to other scans, or the settings do not suit the cells.
        """
        output = self.student(batch)
        losses = self.label_losses(output, batch)
        if teacher is None:
            return losses
        assert teacher.keyframe_voxels is None, "needs.shared"
        teacher.rows_for(batch)  # refuses other scans
        losses |= self._output_losses(output, batch, teacher)
        return losses | self._affinity_losses(output, batch, teacher)

    # --- the teacher's classes --------------------------------------------------------------------------------------
    def _output_losses(
        self, output: Output, batch: Batch, teacher: TeacherOutput
    ) -> dict[str, Tensor]:
        config = self.config
        losses: dict[str, Tensor] = {}
        if config.out_point > 0:
            losses["out_point"] = config.out_point * self._at_points(output, batch, teacher)
        if config.out_voxel > 0:
            losses["out_voxel"] = config.out_voxel * self._at_voxels(output, batch, teacher)
        if config.kl_reduction == "mean":
            losses = {name: loss / output.logits.shape[1] for name, loss in losses.items()}
        return losses

    def _at_points(self, output: Output, batch: Batch, teacher: TeacherOutput) -> Tensor:
        own, target = _point_logits(output, batch), _point_logits(teacher, batch)
        asked = self.soft.asked(target, batch.point_labels, batch.cells.of_point >= 0)
        return self.soft.divergence(own, target, asked, reverse=self._reverse)

    def _at_voxels(self, output: Output, batch: Batch, teacher: TeacherOutput) -> Tensor:
        own, target = output.logits, teacher.logits
        asked = self.soft.asked(target, batch.labels)
        if self.config.voxel_mean == "active":
            return self.soft.divergence(own, target, asked, reverse=self._reverse)
        if self._reverse:
            own, target = target, own
        temperature = self.config.temperature
        per_row = temperature**2 * kl_rows(own, target, temperature)
        if asked is not None:
            per_row = torch.where(asked, per_row, 0.0)
        scan = batch.coords[:, 0].long()
        per_scan = per_row.new_zeros(len(batch)).index_add(0, scan, per_row)
        mean = row_mean(per_scan, scope=self.criterion.scope) / _grid_cells(batch)
        return self.soft.growth * mean

    @property
    def _reverse(self) -> bool:
        return self.config.direction == "student_teacher"

    # --- affinities -------------------------------------------------------------------------------------------------
    def _affinity_losses(
        self, output: Output, batch: Batch, teacher: TeacherOutput
    ) -> dict[str, Tensor]:
        config = self.config
        if not config.compares_features:
            return {}
        own = _finest(output.stages, "student").at_cells()
        target = _finest(teacher.stages, "teacher").at_cells()
        drawn = self.drawn(batch, teacher.logits)
        losses = {}
        if config.aff_voxel > 0:
            pair = grouped(own, drawn.cells), grouped(target, drawn.cells)
            losses["aff_voxel"] = config.aff_voxel * self._distance(*pair, drawn.cells)
        if config.aff_point > 0:
            pair = (
                _point_features(output, own, batch, drawn.points),
                _point_features(teacher, target, batch, drawn.points),
            )
            losses["aff_point"] = config.aff_point * self._distance(*pair, drawn.points)
        return losses

    def _distance(self, own: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        distance = affinity_loss(
            own,
            target,
            rows >= 0,
            mask_padding=self.config.mask_padding,
            scope=self.criterion.scope,
        )
        return self.soft.growth * distance

    def drawn(self, batch: Batch, logits: Tensor) -> Drawn:
        """The supervoxels of this step, their cells and points; the same for student and teacher.

        Args:
            logits: [SV, C] of the teacher, whose classes count where there are no labels.
        """
        config = self.config
        supervoxels = Supervoxels.of(batch, config.supervoxel)
        said = logits[:, 1:].argmax(1) + 1
        classes = torch.where(batch.labels == IGNORE, said, batch.labels)
        minority = minority_cells(batch, classes, logits.shape[1], config.minority_threshold)
        weights = self._weights(batch, supervoxels, minority)
        generators = scan_generators(batch, config.seed, round(self.soft.progress * _STEPS))
        return draw(batch, supervoxels, weights, minority, self.counts, generators)

    def _weights(self, batch: Batch, supervoxels: Supervoxels, minority: Tensor) -> Tensor:
        """``W_i = (1 / f_class) (d_i / R) (1 / N_s)``, f32 [G].

        The range R of the grid and the number N_s of its supervoxels scale all weights of a scan alike. They cancel in
        the chance of being drawn and are left out.
        """
        config = self.config
        weights = torch.ones(len(supervoxels), device=minority.device)
        if config.sampling in ("difficulty", "distance"):
            weights = weights * outer_distance(batch, supervoxels, config.supervoxel)
        if config.sampling in ("difficulty", "class"):
            rare = supervoxels.count(supervoxels.of_cell, minority)
            weights = weights / class_factor(rare)
        enough = supervoxels.count(supervoxels.of_point) >= config.min_points
        return torch.where(enough, weights, 0.0)


def _finest(stages: Sequence[Stage], kind: str) -> Stage:
    """The last of the stages whose cells are finest: what the layer that decides reads, or what is nearest to it.

    Raises:
        UserError: there is none.
    """
    if not stages:
        raise UserError(
            f"the {kind} has no stages, so its features cannot be compared",
            where="distill.aff_point and distill.aff_voxel",
            cure="Set both to 0, or take another network",
        )
    finest = min(math.prod(stage.edge) for stage in stages)
    return [stage for stage in stages if math.prod(stage.edge) == finest][-1]


def _point_logits(known: Known, batch: Batch) -> Tensor:
    """[SN, C]; those of its cell where the network does not decide for each point, 0 for a point of no cell."""
    if known.point_logits is not None:
        return known.point_logits
    return grouped(known.logits, batch.cells.of_point)


def _point_features(known: Known, at_cells: Tensor, batch: Batch, points: Tensor) -> Tensor:
    """[R, Np, C] of points [R, Np]; those of its cell where the network has none of each point."""
    if known.point_features is not None:
        return grouped(known.point_features, points)
    return grouped(
        at_cells, gather_rows(batch.cells.of_point, points.flatten(), -1).view_as(points)
    )


def _grid_cells(batch: Batch) -> int:
    """Cells of the whole grid.

    Raises:
        UserError: it has no bounds.
    """
    partition = batch.cells.partition
    if not isinstance(partition, Cylinder) or partition.cell is not None:
        raise UserError(
            "these cells are not those of a grid with bounds, which have a number",
            where="key 'distill.voxel_mean'",
            cure="Set it to active, or take cylinder cells with bins",
        )
    return math.prod(partition.bins)
