"""Weighted decoupled class distillation, the method of KDMOS (Cao et al., IROS 2025, arXiv 2506.14130).

A teacher's distribution over the classes that a point does not have is compared at every labelled point, each class
weighing as much as the others; its probability of "moving" at the moving points alone. Of points without a label the
teacher may say which class they have (``distill.unlabelled``): the paper, whose scans all have labels, has none.
Probabilities get no addend: in logarithms nothing overflows, where the published code adds 1e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config.explain import did_you_mean
from core.contracts import IGNORE, Batch, Output
from core.data import voxels_to_points
from core.distill.base import Method, Needs, TeacherOutput
from core.errors import UserError
from core.losses import CrossEntropyLovasz, kl_rows, row_mean, weighted_mean

__all__ = ["WDCD", "nontarget_rows", "target_rows"]

Weight = Annotated[float, Field(ge=0)]


class WDCD(Method):
    """Segmentation at the cells, and a teacher's logits at the points.

    Args:
        config: see :class:`WDCD.Config`.
        student, criterion: see :class:`Method`.
        teacher: any network of the same classes; None where logits lie on disk.
    """

    class Config(Method.Config):
        """``distill:`` section; defaults are those of the published model on SemanticKITTI."""

        name: Literal["wdcd"] = Field(description="the method")
        logits: str | None = Field(
            None,
            description="column (dataset.columns) that holds a teacher's logits, a value per class; rows of zeros are "
            "unknown. null = a teacher answers (teacher_pretrain)",
        )
        logits_of: Path | None = Field(
            None,
            description="run folder or checkpoint of the network whose logits they have to be; null = of any one",
        )
        temperature: float = Field(
            4.0, gt=0, description="of both softmaxes; there is no factor T^2"
        )
        moving: str = Field("moving", description="class of the target term")
        class_weight: tuple[Weight, ...] = Field(
            (0.0, 1.0716, 22.0882, 421.3364),
            description="weight of a point in the non-target term by the class of its label, class 0 (ignore) first; "
            "SemanticKITTI's 1 / share of points of static, movable, moving",
        )
        unlabelled: Literal["skip", "teacher"] = Field(
            "skip",
            description='points without a label: "skip" as published; "teacher" = the class it finds likeliest stands '
            "for the label in both terms",
        )
        w_nontarget: float = Field(0.9, ge=0, description="weight of the non-target term")
        w_target: float = Field(0.3, ge=0, description="weight of the target term")
        w_weighted_kl: float = Field(
            0.0,
            ge=0,
            description="weight of a plain divergence under class_weight, as first published: 0.5 in place of both",
        )

        @property
        def needs(self) -> Needs:
            """A teacher's logits, unless they lie on disk."""
            if self.logits is None:
                return Needs(teacher=("logits",))
            return Needs(stored=self.logits, stored_by=self.logits_of)

    class_weight: Tensor

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        self.config = config
        self.moving = IGNORE
        weight = torch.tensor(config.class_weight)
        weight[:1] = 0  # points without a label never count
        self.register_buffer("class_weight", weight, persistent=False)

    def name_classes(self, classes: Sequence[str]) -> None:
        """Find the class of the target term.

        Raises:
            UserError: there is no such class, or ``class_weight`` has another number of classes.
        """
        config = self.config
        if config.moving not in classes[1:]:
            raise UserError(
                f"'{config.moving}' is no class",
                where="key 'distill.moving'",
                cure=did_you_mean(config.moving, classes[1:], "Classes are"),
            )
        if len(config.class_weight) != len(classes):
            raise UserError(
                f"{len(config.class_weight)} weights for {len(classes)} classes ({', '.join(classes)})",
                where="key 'distill.class_weight'",
                cure="Give one for each; dataset.labels chooses the classes, semantickitti_movable those of KDMOS",
            )
        self.moving = classes.index(config.moving)

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """The losses by name and already weighted: those of the labels, ``nontarget``, ``target``, ``weighted_kl``."""
        output: Output = self.student(batch)
        losses = self.label_losses(output, batch)
        target, known = self._taught(batch, teacher)
        labels = self._classes(batch.point_labels, target)
        known = known & (batch.cells.of_point >= 0) & (labels != IGNORE)
        rows = known.nonzero()[:, 0]
        own = output.point_logits
        if own is None:
            own = voxels_to_points(output.logits, batch)
        labels = labels.index_select(0, rows)
        own, target = own.index_select(0, rows), target.detach().index_select(0, rows)
        return losses | self._divergences(own, target, labels)

    def _classes(self, labels: Tensor, target: Tensor) -> Tensor:
        """I64 [SN]: the class by which a point's distributions are decoupled, 0 = it does not count."""
        if self.config.unlabelled == "skip":
            return labels
        return torch.where(labels == IGNORE, target.argmax(1), labels)

    def _taught(self, batch: Batch, teacher: TeacherOutput | None) -> tuple[Tensor, Tensor]:
        """The teacher's logits [SN, classes], and bool [SN] whether it has any for a point."""
        if teacher is not None:
            return teacher.at_points(batch)
        name = str(self.config.logits)
        column = batch.points.get(name)
        classes = len(self.config.class_weight)
        if column is None or column.dim() != 2 or column.shape[1] != classes:
            found = "there is none" if column is None else f"it has the shape {list(column.shape)}"
            raise UserError(
                f"the column '{name}' shall hold logits of {classes} classes; {found}",
                where="key 'distill.logits'",
                cure=f"Write dataset: {{columns: {{{name}: {{file: …, key: logits, channels: {classes}}}}}}}",
            )
        return column, (column != 0).any(1)

    def _divergences(self, own: Tensor, target: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms whose weight is not 0; a term without points is 0."""
        config, scope = self.config, self.criterion.scope
        weights = self.class_weight.index_select(0, labels)
        terms = {}
        if config.w_nontarget:
            rows = nontarget_rows(own, target, labels, config.temperature)
            terms["nontarget"] = config.w_nontarget * weighted_mean(rows, weights, scope=scope)
        if config.w_target:
            rows = target_rows(own, target, self.moving, config.temperature)
            terms["target"] = config.w_target * row_mean(rows, labels == self.moving, scope=scope)
        if config.w_weighted_kl:
            rows = kl_rows(own, target, config.temperature)
            terms["weighted_kl"] = config.w_weighted_kl * weighted_mean(rows, weights, scope=scope)
        return terms


def nontarget_rows(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Divergence of the distributions over the classes that are not the label's.

    Args:
        student, teacher: [R, C] logits, C > 1. labels: i64 [R].

    Returns:
        f32 [R]: KL(teacher || student), softmax at a temperature over the other C - 1 classes.
    """
    classes = student.shape[1]
    steps = torch.arange(1, classes, device=labels.device)
    others = (labels[:, None] + steps) % classes
    return kl_rows(student.gather(1, others), teacher.gather(1, others), temperature)


def target_rows(student: Tensor, teacher: Tensor, target: int, temperature: float) -> Tensor:
    """Divergence of the probabilities of one class against all others.

    Args:
        student, teacher: [R, C] logits. target: the class.

    Returns:
        f32 [R]: KL(teacher || student) of two outcomes, softmax at a temperature over all C classes.
    """
    return kl_rows(_odds(student, target, temperature), _odds(teacher, target, temperature))


def _odds(logits: Tensor, target: int, temperature: float) -> Tensor:
    """F32 [R, 2]: logits of ``target`` and of everything else together."""
    scaled = logits.float() / temperature
    rest = torch.cat([scaled[:, :target], scaled[:, target + 1 :]], 1)
    return torch.stack([scaled[:, target], rest.logsumexp(1)], 1)
