"""What everything that is trained has in common: a deployed network, named losses, and what it needs for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.contracts import IGNORE, Batch, Output, Stage
from core.data import gather_rows, keyframe_voxels, linked_points, linked_voxels
from core.distill.score import MIOU, Score
from core.errors import UserError
from core.labels import LabelSpace
from core.losses import CrossEntropyLovasz, cross_entropy

__all__ = [
    "COMPARED_EDGE",
    "STUDENT",
    "Method",
    "Needs",
    "TeacherOutput",
    "check_beginnings",
    "compared_stage",
]

COMPARED_EDGE = (16, 16, 16)  # of the encoder stage whose features methods compare and caches keep
STUDENT = "student."  # beginning of the deployed network's names among those of a method


@dataclass(frozen=True)
class TeacherOutput:
    """What a frozen teacher returned for the scans of a batch, on its own voxels.

    Attributes:
        tokens: the scans, in the batch's order.
        coords: i32 [SVt, 4], the teacher's voxels.
        keyframe_voxels: i64 [SNk], voxel row of every keyframe point, -1 = none; None where the teacher saw the very
            batch of the student, whose rows are then its own.
        logits: [SVt, classes].
        stages: per-stage features, as in :class:`Output`.
        point_logits, point_features: by point, as in :class:`Output`; of a teacher that saw the student's batch.
    """

    tokens: tuple[str, ...]
    coords: Tensor
    keyframe_voxels: Tensor | None
    logits: Tensor
    stages: Sequence[Stage]
    point_logits: Tensor | None = None
    point_features: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, output: Output) -> TeacherOutput:
        """From the output on a view of the teacher's own."""
        return cls(batch.tokens, batch.coords, keyframe_voxels(batch), output.logits, output.stages)

    @classmethod
    def shared(cls, batch: Batch, output: Output) -> TeacherOutput:
        """From the output on the student's own batch."""
        return cls(
            batch.tokens,
            batch.coords,
            None,
            output.logits,
            output.stages,
            output.point_logits,
            output.point_features,
        )

    def rows_for(self, student: Batch) -> Tensor:
        """The teacher's voxel for each student voxel, i64 [SV], -1 = none; linked by point indices alone.

        Raises:
            UserError: the output belongs to other scans.
        """
        self._check_scans(student)
        if self.keyframe_voxels is None:
            return torch.arange(len(self.logits), device=self.logits.device)
        return linked_voxels(student, self.keyframe_voxels)

    def at_points(self, student: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's logits [SN, classes] at each student point, and bool [SN] whether it has any there.

        They are those of the point's voxel where the teacher does not decide for each point.

        Raises:
            UserError: the output belongs to other scans.
        """
        self._check_scans(student)
        rows = student.cells.of_point
        if self.keyframe_voxels is not None:
            rows = linked_points(student, self.keyframe_voxels)
        elif self.point_logits is not None:
            return self.point_logits, rows >= 0
        return gather_rows(self.logits, rows), rows >= 0

    def _check_scans(self, student: Batch) -> None:
        if student.tokens != self.tokens:
            raise UserError(f"the views show different scans: {student.tokens} and {self.tokens}")


def compared_stage(stages: Sequence[Stage]) -> Stage | None:
    """The stage whose cells have ``COMPARED_EDGE``, None where there is none."""
    for stage in stages:
        if stage.edge == COMPARED_EDGE:
            return stage
    return None


@dataclass(frozen=True)
class Needs:
    """What a method asks of its data and of a teacher.

    Attributes:
        labels: the training scans have labels.
        images: batches hold the cameras' images.
        planes: names of maps aligned with the images, e.g. superpixels.
        teacher: the values of a frozen teacher that are compared; empty = there is no teacher.
        shared: they are compared cell by cell and point by point, so the teacher sees the student's very batch.
        stored: column (dataset.columns) of a teacher's logits on disk. stored_by: checkpoint or run folder of the
            teacher that wrote them; None = any.
    """

    labels: bool = True
    images: bool = False
    planes: tuple[str, ...] = ()
    teacher: tuple[Literal["logits", "stages"], ...] = ()
    shared: bool = False
    stored: str | None = None
    stored_by: Path | None = None


class Method(nn.Module, ABC):
    """The module that is trained: the network to be deployed, and whatever else learns with it.

    Only :attr:`deployed` leaves the training; everything else stays behind in the training's checkpoints. A teacher is
    never part of the module, so neither optimiser, DistributedDataParallel nor checkpoint see it.

    Args:
        config: the ``distill:`` section.
        student: the network to be deployed, with :meth:`outputs` outputs.
        teacher: the frozen network, looked at for its widths alone; None without one.
        criterion: the segmentation loss, for methods that learn from labels.

    Attributes:
        score: what tells its best weights, unless ``eval.select`` says otherwise. A method whose score is an IoU
            predicts classes: it is evaluated and reported.
        frozen: beginnings of names, as in ``state_dict()``, of modules that never learn: no gradients, no optimiser,
            evaluation mode.
        trainable: beginnings of names in the deployed network which alone learn there; None = all.
    """

    class Config(Section):
        """``distill:`` section of every method."""

        name: str = Field(description="the method")

        @property
        def needs(self) -> Needs:
            """What the method needs under these settings."""
            return Needs()

    score: ClassVar[Score] = MIOU
    frozen: tuple[str, ...] = ()
    trainable: tuple[str, ...] | None = None

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__()
        self.student = student
        self.criterion = criterion

    @classmethod
    def outputs(cls, config: Config, labels: LabelSpace) -> int:
        """Width of the deployed network's output: the classes, or that of an embedding."""
        return labels.num_classes

    @classmethod
    def predicts_classes(cls) -> bool:
        """Whether the outputs are classes, which can be evaluated and reported: the method's own score is an IoU."""
        return cls.score.kind == "iou"

    def name_classes(self, classes: Sequence[str]) -> None:
        """Read the settings that name classes, before the first step.

        Args:
            classes: by train id.

        Raises:
            UserError: a setting names no class of these.
        """

    def begin_step(self, progress: float) -> None:
        """Hear how far the training is, before each optimiser step.

        Args:
            progress: share of its steps that are made, from 0 to below 1.
        """

    @abstractmethod
    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        """Named, weighted losses of one batch; ``teacher`` is None when :class:`Needs` names no value of it."""

    def label_losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """What the network's output costs against the labels, by name and already weighted.

        The criterion's terms on the cells; and where the network decides for each point, ``points``: the criterion's
        cross entropy, with its weights of classes, over the points that have a cell.
        """
        losses: dict[str, Tensor] = self.criterion(output.logits, batch.labels)
        if output.point_logits is not None:
            labels = torch.where(batch.cells.of_point >= 0, batch.point_labels, IGNORE)
            losses["points"] = cross_entropy(
                output.point_logits,
                labels,
                weight=self.criterion.class_weight,
                scope=self.criterion.scope,
            )
        return losses

    def teach(self, batch: Batch) -> Output:
        """What an average of this method says of a batch as a teacher (``teacher.source: ema``)."""
        output: Output = self.deployed(batch)
        return output

    def load_pretrained(self) -> None:
        """Read files of pretrained weights for what learns beside the network; a run calls it before its first step.

        Raises:
            UserError: a file is missing, damaged or of another network.
        """

    # --- what is deployed -------------------------------------------------------------------------------------------
    @property
    def deployed(self) -> nn.Module:
        """The network that leaves the training."""
        return self.student

    def deployed_state(self) -> dict[str, Tensor]:
        """Weights of the deployed network by its own names: a checkpoint's ``model``."""
        return self.deployed.state_dict()

    def training_state(self) -> dict[str, Tensor]:
        """Weights beside the deployed network: a checkpoint's ``training_only``."""
        whole = self.state_dict()
        return {key: value for key, value in whole.items() if not key.startswith(STUDENT)}

    def whole_state(self) -> dict[str, Tensor]:
        """All weights in one: a checkpoint's ``train_model``, where averages are kept beside them."""
        return self.state_dict()

    @staticmethod
    def joined_state(
        deployed: Mapping[str, Tensor], training: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The two parts of a checkpoint under the names of ``state_dict()``."""
        named = {STUDENT + key: value for key, value in deployed.items()}
        return named | dict(training)

    @staticmethod
    def named_state(whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's ``train_model`` under the names of ``state_dict()``."""
        if any(key.startswith(STUDENT) for key in whole):
            return dict(whole)
        return Method.joined_state(whole, {})

    # --- what is frozen ---------------------------------------------------------------------------------------------
    def freeze(self, trainable: Sequence[str] | None = None) -> None:
        """Take from the frozen parts their gradients, and with ``trainable`` from all but these of the network.

        Args:
            trainable: beginnings of names in the deployed network; None = all of it learns.

        Raises:
            UserError: no weight's name begins so.
        """
        if trainable is not None:
            names = [name for name, _ in self.deployed.named_parameters()]
            check_beginnings(trainable, names, "key 'train.trainable'")
            if not trainable:
                raise UserError(
                    "nothing would be trained", where="key 'train.trainable'", cure="Write all"
                )
            self.trainable = tuple(trainable)
        for name, parameter in self.named_parameters():
            if self.is_frozen(name):
                parameter.requires_grad_(False)

    def is_frozen(self, name: str) -> bool:
        """Whether the parameter of this name does not learn; a module's name ends in a dot."""
        if name.startswith(self.frozen):
            return True
        if self.trainable is None or not name.startswith(STUDENT):
            return False
        return not name.removeprefix(STUDENT).startswith(self.trainable)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for what is frozen: that stays in evaluation mode.

        A module with a part that learns is in training itself.
        """
        super().train(mode)
        learning = [STUDENT + beginning for beginning in self.trainable or ()]
        for name, module in self.named_modules():
            beginning = f"{name}."
            holds_learning = any(part.startswith(beginning) for part in learning)
            if name and self.is_frozen(beginning) and not holds_learning:
                module.training = False
        return self


def check_beginnings(beginnings: Sequence[str], names: Sequence[str], key: str) -> None:
    """Check that each of ``beginnings`` is that of a weight's name.

    Args:
        key: that holds them, for the error.

    Raises:
        UserError: one begins no name.
    """
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            known = sorted({name.split(".")[0] for name in names})
            raise UserError(
                f"no weight's name begins with '{beginning}'",
                where=key,
                cure=f"Names begin with {', '.join(known)}",
            )
