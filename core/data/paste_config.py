"""The ``data.paste:`` section. A new augmentation is a file in ``core/data/instances`` and a line in ``PASTES``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.config import Section
from core.contracts import Scan
from core.labels import LabelSpace
from core.registry import read_choice

__all__ = ["PASTES", "PasteAugmentation", "PasteSection", "ThingRule", "read_paste"]

PASTES: dict[str, str] = {  # data.paste.name -> module:section; imported when asked for
    "u2mkd": "core.data.instances.paste:U2MKDPaste",
    "panoptic_polarnet": "core.data.instances.polarnet:PolarNetPaste",
}


class ThingRule(Section):
    """What the paste augmentation knows of one thing class."""

    min_points: int = Field(
        10, ge=1, description="instances with fewer points are neither stored nor pasted"
    )
    ground: tuple[str, ...] = Field(min_length=1, description="classes an instance may be put on")


class PasteAugmentation(ABC):
    """``(scan, generator) -> scan`` with objects of other scans; all draws come from the generator."""

    @abstractmethod
    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """The scan with objects among its keyframe's points; the very scan where nothing changes."""

    @abstractmethod
    def foreign_scans(self, tokens: set[str]) -> int:
        """Number of scans that objects come from and that are not among ``tokens``."""


class PasteSection(Section, ABC):
    """Base of the ``data.paste:`` sections: what the database is made by, whoever pastes its objects.

    A subclass has a literal field ``name`` and :meth:`paster`.
    """

    name: str = Field("u2mkd", description="the way objects find their places")
    database: Path = Field(description="folder that prepare_inst_database.py wrote")
    things: dict[str, ThingRule] | None = Field(
        None,
        description="classes, smallest instances and grounds; null = the label space's table",
    )

    @abstractmethod
    def paster(self, labels: LabelSpace) -> PasteAugmentation:
        """Open the database.

        Raises:
            UserError: the database is missing, damaged, of another label space, or holds nothing that may be pasted.
        """


def read_paste(value: Any) -> Any:
    """For a field of the configuration: the section that ``name`` picks.

    Raises:
        ValueError: no such augmentation, or an unknown or ill-typed key.
    """
    return read_choice(PASTES, value, "data.paste", "paste augmentation", default="u2mkd")
