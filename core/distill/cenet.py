"""CENet's training (Cheng et al., ICME 2022): borders of classes, auxiliary heads, and a teacher where there is one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from core.contracts import Batch
from core.data import gather_rows
from core.distill.base import Needs, TeacherOutput
from core.distill.soft_targets import SoftTargets, SoftTargetsMethod
from core.errors import UserError
from core.losses import CrossEntropyLovasz, boundary_loss
from core.models.lidar.cenet import CENet
from core.models.lidar.range_image import RangeOutput, at_cells, picture

__all__ = ["CENetTraining"]


class CENetTraining(SoftTargetsMethod):
    """Segmentation and borders at the network's output and, by heads that stay behind, at its coarser stages.

    Args:
        config: see :class:`CENetTraining.Config`.
        student: a :class:`CENet`.
        teacher: any network of the same classes; its logits come to a pixel by the point that represents it.
        criterion: the segmentation loss of every output.

    Raises:
        UserError: the student is another network.
    """

    class Config(SoftTargets.Config):
        """``distill:`` section; defaults are those of the published models."""

        name: Literal["cenet"] = Field(description="the method")
        w_boundary: float = Field(1.0, ge=0, description="weight of the boundary loss")
        w_auxiliary: float = Field(
            1.0, ge=0, description="weight of the losses of the three auxiliary heads; 0 = none"
        )
        w_teacher: float = Field(
            0.0, ge=0, description="weight of a teacher's logits as targets of the output"
        )

        @property
        def needs(self) -> Needs:
            """A teacher's logits, where they are asked for."""
            return Needs(teacher=("logits",) if self.w_teacher > 0 else ())

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        if not isinstance(student, CENet):
            raise UserError(
                "this method trains the network 'cenet' alone",
                where="key 'distill.name'",
                cure="Set model.name: cenet, or choose another method",
            )
        self.config = config
        self.heads = nn.ModuleList()
        if config.w_auxiliary > 0:
            for width in student.scale_widths:
                self.heads.append(nn.Conv2d(width, student.classifier.out_channels, 1))

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """The losses by name and already weighted: ``ce``, ``lovasz``, ``boundary``, their sums over the auxiliary
        heads (``aux_*``), and the distance from the teacher (``teacher_kl``).
        """
        output: RangeOutput = self.student(batch)
        truth = picture(batch, batch.labels)
        losses = self._segmentation(output.scores, output.logits, batch, truth)
        for head, scale in zip(self.heads, output.scales):
            scores = head(scale)
            named = self._segmentation(scores, at_cells(scores, batch), batch, truth)
            for name, loss in named.items():
                total = losses.get(f"aux_{name}", 0.0)
                losses[f"aux_{name}"] = total + self.config.w_auxiliary * loss
        if teacher is not None:
            losses["teacher_kl"] = self._teacher_loss(output, batch, teacher)
        return losses

    def _segmentation(
        self, scores: Tensor, logits: Tensor, batch: Batch, truth: Tensor
    ) -> dict[str, Tensor]:
        """Of one output.

        Args:
            scores: [B, C, H, W]. logits: [SV, C], those of the occupied pixels. truth: i64 [B, H, W].
        """
        losses = self.criterion(logits, batch.labels)
        if self.config.w_boundary > 0:
            borders = boundary_loss(scores, truth, scope=self.criterion.scope)
            losses["boundary"] = self.config.w_boundary * borders
        return losses

    def _teacher_loss(self, output: RangeOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        rows = teacher.rows_for(batch)
        target = gather_rows(teacher.logits, rows)
        asked = self.soft.asked(target, batch.labels, rows >= 0)
        return self.config.w_teacher * self.soft.divergence(output.logits, target, asked)
