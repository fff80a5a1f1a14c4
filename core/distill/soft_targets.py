"""A teacher's logits as targets: of which rows it is asked, and how the student's distance from them is averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config.explain import did_you_mean
from core.contracts import IGNORE
from core.distill.base import Method
from core.errors import UserError
from core.losses import CrossEntropyLovasz, Scope, kl_divergence

__all__ = ["SoftTargets", "SoftTargetsMethod"]

Probability = Annotated[float, Field(ge=0, lt=1)]


class SoftTargets(nn.Module):
    """The settings of a method's logit terms, applied.

    Args:
        config: see :class:`SoftTargets.Config`.
        scope: of the means, see :mod:`core.losses`.

    Attributes:
        progress: share of the training that is over.
    """

    class Config(Method.Config):
        """Keys of ``distill:`` that every term with a teacher's logits obeys."""

        temperature: float = Field(1.0, gt=0, description="of the softmax in the logit terms")
        mask: Literal["all", "labelled", "right"] = Field(
            "all",
            description='where a teacher is asked: "all"; "labelled" = not at "ignore"; "right" = where its class is '
            "the label's",
        )
        kl_mean: Literal["voxels", "classes"] = Field(
            "voxels",
            description="the logit terms' mean: over voxels (published), or within each class the teacher "
            "predicts first",
        )
        confidence: Probability | dict[str, Probability] = Field(
            0.0,
            description="smallest probability of the teacher's first class at which its terms count; or by name of "
            "that class, 0 for those not named",
        )
        rampup: float = Field(
            0.0,
            ge=0,
            le=1,
            description="share of the training in which the logit terms (pvkd: the affinities, too) grow to their "
            "weights, as exp(-5 (1 - t)^2) (mean teacher); 0 = they have them from the first step",
        )

    def __init__(self, config: Config, scope: Scope) -> None:
        super().__init__()
        self.config, self.scope = config, scope
        self.progress = 1.0
        self.confidence: Tensor | None  # f32 [classes]
        self.register_buffer("confidence", None, persistent=False)

    def name_classes(self, classes: Sequence[str]) -> None:
        """Give each class its least confidence.

        Args:
            classes: by train id.

        Raises:
            UserError: ``distill.confidence`` names no class.
        """
        wanted = self.config.confidence
        if not wanted:
            return
        if isinstance(wanted, float):
            wanted = dict.fromkeys(classes, wanted)
        self.confidence = torch.zeros(len(classes))
        for name, least in wanted.items():
            if name not in classes:
                raise UserError(
                    f"'{name}' is no class",
                    where="key 'distill.confidence'",
                    cure=did_you_mean(name, classes[1:], "Classes are"),
                )
            self.confidence[classes.index(name)] = least

    def asked(self, teacher: Tensor, labels: Tensor, known: Tensor | None = None) -> Tensor | None:
        """The rows whose target counts: bool [R], None = all.

        Args:
            teacher: [R, C] logits. labels: i64 [R]. known: bool [R], the teacher has an answer; None = everywhere.
        """
        config, predicted = self.config, teacher.argmax(1)
        rules = [] if known is None else [known]
        if config.mask != "all":
            rules.append(labels != IGNORE)
        if config.mask == "right":
            rules.append(predicted == labels)
        if self.confidence is not None:
            probability = teacher.float().softmax(1).amax(1)
            rules.append(probability >= self.confidence[predicted])
        return torch.stack(rules).all(0) if rules else None

    def divergence(
        self,
        student: Tensor,
        teacher: Tensor,
        rows: Tensor | None,
        *,
        detach: bool = True,
        reverse: bool = False,
    ) -> Tensor:
        """The mean divergence of the student from its targets; 0 when there is no row.

        Args:
            student, teacher: [R, C] logits. rows: what :meth:`asked` returned.
            detach: no gradient flows to the teacher.
            reverse: KL(student || teacher) in place of KL(teacher || student).
        """
        classes = teacher.argmax(1) if self.config.kl_mean == "classes" else None
        target = teacher.detach() if detach else teacher
        value = kl_divergence(
            target if reverse else student,
            student if reverse else target,
            rows,
            temperature=self.config.temperature,
            classes=classes,
            scope=self.scope,
            detach=False,
        )
        return self.growth * value

    @property
    def growth(self) -> float:
        """The factor of the ramp-up (Tarvainen and Valpola, NeurIPS 2017, section 3.1), 1 after it."""
        if self.progress >= self.config.rampup:
            return 1.0
        left = 1 - self.progress / self.config.rampup
        return math.exp(-5 * left * left)


class SoftTargetsMethod(Method):
    """A method one of whose terms at least follows a teacher's logits.

    Args:
        config, student, teacher, criterion: see :class:`Method`.

    Attributes:
        soft: applies the settings of these terms.
    """

    def __init__(
        self,
        config: SoftTargets.Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        self.soft = SoftTargets(config, criterion.scope)

    def name_classes(self, classes: Sequence[str]) -> None:
        """Give each class the confidence from which a teacher is asked.

        Raises:
            UserError: ``distill.confidence`` names no class.
        """
        self.soft.name_classes(classes)

    def begin_step(self, progress: float) -> None:
        """Let the logit terms grow, where ``distill.rampup`` says so."""
        self.soft.progress = progress
