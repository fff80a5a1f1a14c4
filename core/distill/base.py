"""What every distillation method is: a trained student, modules that exist in training only, and named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from core.contracts import Batch, Output, Stage
from core.data import keyframe_voxels, linked_voxels
from core.errors import UserError

__all__ = ["Knowledge", "Method"]


@dataclass(frozen=True)
class Knowledge:
    """What a frozen teacher says about the scans of a batch, on its own voxels.

    Attributes:
        tokens: the scans, in the batch's order.
        coords: i32 [SVt, 4], the teacher's voxels.
        keyframe_voxels: i64 [SNk], voxel row of every keyframe point, -1 = none.
        logits: [SVt, classes].
        stages: per-stage features, as in :class:`Output`.
    """

    tokens: tuple[str, ...]
    coords: Tensor
    keyframe_voxels: Tensor
    logits: Tensor
    stages: Sequence[Stage]

    @classmethod
    def of(cls, batch: Batch, output: Output) -> Knowledge:
        """From a teacher's output on its own view."""
        return cls(batch.tokens, batch.coords, keyframe_voxels(batch), output.logits, output.stages)

    def rows_for(self, student: Batch) -> Tensor:
        """The teacher's voxel for each student voxel, i64 [SV], -1 = none; linked by point indices alone.

        Raises:
            UserError: the knowledge belongs to other scans.
        """
        if student.tokens != self.tokens:
            raise UserError(f"the views show different scans: {student.tokens} and {self.tokens}")
        return linked_voxels(student, self.keyframe_voxels)


class Method(nn.Module, ABC):
    """The module that is trained in stage 2: the student and whatever else learns beside it.

    Only :attr:`student` is deployed; everything else stays behind in the training checkpoint. The teacher is never part
    of the module, so neither optimiser, DistributedDataParallel nor checkpoint see it.
    """

    student: nn.Module
    needs_teacher: bool

    @abstractmethod
    def forward(self, batch: Batch, knowledge: Knowledge | None) -> dict[str, Tensor]:
        """Named, weighted losses of one batch; ``knowledge`` is None when ``needs_teacher`` is false."""

    def load_pretrained(self) -> None:
        """Read files of pretrained weights for what learns beside the student; a run calls it before its first step.

        Raises:
            UserError: a file is missing, damaged or of another network.
        """
