"""How a world is recorded and lies on disk: what every format says and does."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.spec import WorldSpec

__all__ = ["WorldFormat"]


class WorldFormat(ABC):
    """One format of `core.names.WORLDS`; objects hold nothing.

    Attributes:
        folders: what a world of this format leaves in its root, manifest aside.
        period: s between two keyframes, or scans where all are labelled.
        most_train, most_val: how many scenes its splits have names for.
    """

    folders: ClassVar[tuple[str, ...]]
    period: ClassVar[float]
    most_train: ClassVar[int]
    most_val: ClassVar[int]

    @abstractmethod
    def names(self, spec: WorldSpec) -> list[str]:
        """Names of the scenes as the data set spells them, training first."""

    def frames(self, spec: WorldSpec) -> int:
        """How many pieces of work a scene is, each one call of :meth:`record`: unless overridden, its keyframes."""
        return spec.keyframes

    def duration(self, spec: WorldSpec) -> float:
        """Seconds from a scene's first to its last recorded instant."""
        return self.period * max(spec.keyframes - 1, 1)

    @abstractmethod
    def record(self, root: Path, spec: WorldSpec, index: int, frame: int) -> Any:
        """Record frame number ``frame`` of scene number ``index``, in any process and any order.

        Returns:
            what :meth:`gather` needs of it; pickled on its way.
        """

    @abstractmethod
    def gather(self, root: Path, spec: WorldSpec, results: Iterator[Any]) -> None:
        """Take what :meth:`record` returned, scene by scene and frame by frame, to the end, and write what is left."""

    def scene(self, spec: WorldSpec, index: int) -> Scene:
        """Scene number ``index`` of the world; the last two are kept."""
        return _scene(spec.seed, index, self.duration(spec))


@functools.lru_cache(maxsize=2)
def _scene(seed: int, index: int, duration: float) -> Scene:
    return Scene(seed, index, duration)
