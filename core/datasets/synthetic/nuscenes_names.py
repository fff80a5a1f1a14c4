"""Names of a nuScenes world's scenes, and which version they belong to."""

from __future__ import annotations

from core.datasets.synthetic.spec import WorldSpec

__all__ = ["names", "version"]

_MINI_TRAIN = ["0061", "0553", "0655", "0757", "0796", "1077", "1094", "1100"]
_MINI_VAL = ["0103", "0916"]


def names(spec: WorldSpec) -> list[str]:
    """Name the scenes as the mini split does where it has names for all, else as trainval; training first."""
    if _is_mini(spec):
        numbers = _MINI_TRAIN[: spec.train_count] + _MINI_VAL[: spec.val_count]
        return [f"scene-{number}" for number in numbers]
    from nuscenes.utils import splits

    return splits.train[: spec.train_count] + splits.val[: spec.val_count]


def version(spec: WorldSpec) -> str:
    """Name the folder of the tables: mini where its names suffice."""
    return "v1.0-mini" if _is_mini(spec) else "v1.0-trainval"


def _is_mini(spec: WorldSpec) -> bool:
    return spec.train_count <= len(_MINI_TRAIN) and spec.val_count <= len(_MINI_VAL)
