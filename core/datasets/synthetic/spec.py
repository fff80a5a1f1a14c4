"""What world to generate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from core.errors import UserError
from core.machine import usable_cores
from core.names import WORLDS
from core.registry import load_entry

__all__ = ["WorldSpec"]


class Naming(Protocol):
    """What a world's size depends on of its format."""

    most_train: ClassVar[int]
    most_val: ClassVar[int]

    def names(self, spec: WorldSpec) -> list[str]:
        """Official names of the scenes, training first."""
        ...


def _processors() -> int:
    return usable_cores(most=16)


@dataclass(frozen=True)
class WorldSpec:
    """A synthetic world; equal specs (``workers`` aside) give equal bytes.

    Attributes:
        format: name in `core.names.WORLDS`.
        seed: of everything random.
        scenes: number of scenes (nuScenes), sequences (SemanticKITTI) or segments (Waymo), each in a town of its own.
        val_scenes: how many of them carry names of the validation split (SemanticKITTI has one: 08).
        keyframes: labelled frames per scene, 2 Hz (nuScenes, Waymo); scans per sequence, 10 Hz (SemanticKITTI).
        sweeps_per_keyframe: unlabelled frames between two labelled ones (not SemanticKITTI). Waymo's own are 4; more
            of them move the labelled ones apart, as a turn takes 0.1 s.
        image_scale: of the cameras' full resolution, in (0, 1]; 0 = no images, which are most of the work.
        lidar_scale: of the scanners' horizontal resolution, in (0, 1].
        workers: processes.

    Raises:
        UserError: a value outside its range.
    """

    format: str = "nuscenes"
    seed: int = 0
    scenes: int = 6
    val_scenes: int = 2
    keyframes: int = 10
    sweeps_per_keyframe: int = 2
    image_scale: float = 0.25
    lidar_scale: float = 1.0
    workers: int = field(default_factory=_processors, compare=False)

    def __post_init__(self) -> None:
        if self.format not in WORLDS:
            raise UserError(
                f"format is {self.format!r}, expected one of: {', '.join(WORLDS)}",
                where="WorldSpec.format",
            )
        naming = self._naming
        for name, low, high in (
            ("seed", 0, 2**32 - 1),
            ("scenes", 1, naming.most_train + naming.most_val),
            ("val_scenes", 0, max(naming.most_val, 150)),
            ("keyframes", 1, 1000),
            ("sweeps_per_keyframe", 0, 9),
            ("image_scale", 0.0 if self.image_scale == 0 else 0.01, 1.0),
            ("lidar_scale", 0.01, 1.0),
            ("workers", 1, 256),
        ):
            if not low <= getattr(self, name) <= high:
                what = (
                    f"{name} is {getattr(self, name)}, expected {low} to {high} for {self.format}"
                )
                raise UserError(what, where=f"WorldSpec.{name}")
        if self.train_count > naming.most_train:
            raise UserError(
                f"{self.scenes} scenes with {self.val_count} for validation leave more training scenes than the "
                f"{self.format} split has names for",
                where="WorldSpec.scenes",
                cure="Ask for fewer scenes or for more of them in validation",
            )

    @property
    def _naming(self) -> Naming:
        return load_entry(WORLDS[self.format])()

    @property
    def val_count(self) -> int:
        """Scenes of the validation split: one stays for training."""
        return min(self.val_scenes, self._naming.most_val, self.scenes - 1)

    @property
    def train_count(self) -> int:
        """Scenes of the training split."""
        return self.scenes - self.val_count

    @property
    def names(self) -> list[str]:
        """Official scene (or sequence, or segment) names, training first."""
        return self._naming.names(self)
