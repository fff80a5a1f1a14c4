"""What world to generate."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import UserError
from core.machine import usable_cores

__all__ = ["WorldSpec"]

_MINI_TRAIN = ["0061", "0553", "0655", "0757", "0796", "1077", "1094", "1100"]
_MINI_VAL = ["0103", "0916"]
_KITTI_TRAIN = ["00", "01", "02", "03", "04", "05", "06", "07", "09", "10"]
_KITTI_VAL = "08"


def _processors() -> int:
    return usable_cores(most=16)


@dataclass(frozen=True)
class WorldSpec:
    """A synthetic world; equal specs (``workers`` aside) give equal bytes.

    Attributes:
        format: "nuscenes" or "semantickitti".
        seed: of everything random.
        scenes: number of scenes (nuScenes) or sequences (SemanticKITTI), each in a town of its own.
        val_scenes: how many of them carry names of the validation split (SemanticKITTI has one: 08).
        keyframes: per scene, 2 Hz (nuScenes); scans per sequence, 10 Hz (SemanticKITTI).
        sweeps_per_keyframe: unlabelled sweeps between two keyframes (nuScenes).
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
        if self.format not in ("nuscenes", "semantickitti"):
            raise UserError(
                f"format is {self.format!r}, expected nuscenes or semantickitti",
                where="WorldSpec.format",
            )
        for name, low, high in (
            ("seed", 0, 2**32 - 1),
            ("scenes", 1, 850 if self.format == "nuscenes" else 11),
            ("val_scenes", 0, 150),
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
        if self.scenes - self._val > (700 if self.format == "nuscenes" else len(_KITTI_TRAIN)):
            raise UserError(
                f"{self.scenes} scenes with {self._val} for validation leave more training scenes than the "
                f"{self.format} split has names for",
                where="WorldSpec.scenes",
                cure="Ask for fewer scenes or for more of them in validation",
            )

    @property
    def _val(self) -> int:
        wanted = self.val_scenes
        if self.format == "semantickitti":
            wanted = min(wanted, 1)
        return min(wanted, self.scenes - 1)

    @property
    def version(self) -> str:
        """nuScenes version folder: the mini split's names as far as they go, else trainval's."""
        small = self.scenes - self._val <= len(_MINI_TRAIN) and self._val <= len(_MINI_VAL)
        return "v1.0-mini" if small else "v1.0-trainval"

    @property
    def names(self) -> list[str]:
        """Official scene (or sequence) names, training first."""
        train = self.scenes - self._val
        if self.format == "semantickitti":
            return _KITTI_TRAIN[:train] + [_KITTI_VAL] * self._val
        if self.version == "v1.0-mini":
            return [f"scene-{number}" for number in _MINI_TRAIN[:train] + _MINI_VAL[: self._val]]
        from nuscenes.utils import splits

        return splits.train[:train] + splits.val[: self._val]
