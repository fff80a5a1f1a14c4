"""Supervised training: the network and its labels, nothing beside. The method where YAML names none."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from core.contracts import Batch
from core.distill.base import Method, TeacherOutput

__all__ = ["Supervised"]


class Supervised(Method):
    """Losses of the network's logits against the labels."""

    class Config(Method.Config):
        """``distill:`` section; may be left out."""

        name: Literal["supervised"] = Field("supervised", description="the method")

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """See :meth:`Method.label_losses`."""
        return self.label_losses(self.student(batch), batch)

    def whole_state(self) -> dict[str, Tensor]:
        """All weights by the network's own names, as checkpoints of supervised runs have always had them."""
        return self.deployed_state()
