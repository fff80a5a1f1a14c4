"""A segment on disk: what the readers of both formats offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from core.datasets.waymo.frame import TOP, CameraImage, Context, Frame

__all__ = ["Segment"]


class Segment(ABC):
    """One segment (20 s, 10 Hz). Objects hold its name and paths and nothing heavy; they pickle.

    Attributes:
        format: as ``dataset.format`` names it.
        name: the benchmark's ``context_name``.
        path: the file that holds its points, for errors.
    """

    format: ClassVar[str]
    name: str
    path: Path

    @classmethod
    @abstractmethod
    def find(cls, folder: Path) -> dict[str, Segment]:
        """The segments whose files lie in one split's folder, by name in alphabetical order; nothing is opened."""

    @abstractmethod
    def frames(self) -> np.ndarray:
        """Go through the whole segment once and tell where its frames lie, ``FRAME_ROW`` [F] by rising timestamp.

        Raises:
            UserError: a file is damaged, of another format or of another segment.
        """

    @abstractmethod
    def context(self) -> Context:
        """Name, calibrations and statistics of the segment.

        Raises:
            UserError: as of :meth:`frames`.
        """

    @abstractmethod
    def read(self, row: np.void, lasers: Sequence[str] = (TOP,), labels: bool = True) -> Frame:
        """Read a frame's range images; images are not touched.

        Args:
            row: of :meth:`frames`. lasers: names; those that the frame lacks are not in the result, but TOP has to be
                there. labels: read them where the frame has some.

        Raises:
            UserError: the frame is damaged or does not lie where the row says.
        """

    @abstractmethod
    def images(self, row: np.void, cameras: Sequence[str]) -> dict[str, CameraImage]:
        """Read the images of some cameras, still as JPEG; those that the frame lacks are not in the result.

        Raises:
            UserError: as of :meth:`read`.
        """

    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """All files that :meth:`frames` reads: when one changes, what was kept of them is out of date."""

    @property
    def label_file(self) -> Path:
        """The file that holds its labels."""
        return self.path

    @property
    def image_file(self) -> Path:
        """The file that holds its images, whether or not it is there."""
        return self.path
