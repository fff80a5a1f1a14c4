"""What nuScenes' tables say twice must agree: links of sweeps in both directions, keyframes and their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError

__all__ = ["check_counts", "check_links"]

_CURE = "Unpack the metadata archive again; tables of two versions may be mixed"


def check_links(arrays: Mapping[str, np.ndarray], tables: Path) -> None:
    """See that the sweeps of a scene are one chain: each is there once, and before its next one.

    Args:
        arrays: those of :class:`core.datasets.nuscenes.index.NuScenesIndex` that begin with ``lidar``.

    Raises:
        UserError: they are not; names a sweep.
    """
    tokens, times = arrays["lidar_token"], arrays["lidar_time"]
    previous, following = arrays["lidar_prev"], arrays["lidar_next"]
    path = str(tables / "sample_data.json")
    found, count = np.unique(tokens, return_counts=True)
    if (count > 1).any():
        token = found[np.argmax(count > 1)].decode()
        raise UserError(f"the token {token} is written twice", where=path, cure=_CURE)
    rows = np.arange(len(tokens))
    for link, back, word in ((previous, following, "prev"), (following, previous, "next")):
        linked = link >= 0
        wrong = linked & (back[link] != rows)
        if wrong.any():
            token = tokens[np.argmax(wrong)].decode()
            raise UserError(
                f"'{word}' of {token} names a sweep that does not name it back",
                where=path,
                cure=_CURE,
            )
    late = (previous >= 0) & (times[previous] > times)
    if late.any():
        token = tokens[np.argmax(late)].decode()
        raise UserError(f"{token} is older than the sweep before it", where=path, cure=_CURE)


def check_counts(
    scenes: Sequence[tuple[str, int | None]], key_scene: np.ndarray, sweeps: int, tables: Path
) -> None:
    """Compare the keyframes of each scene with the number that the scene's row tells.

    Args:
        scenes: the name of each scene and that number, None where it is not told.
        key_scene: i32 [F], row of the scene of each keyframe. sweeps: how many rows of sweeps are marked as keyframes.

    Raises:
        UserError: they differ, or a sample has two keyframes of one scanner.
    """
    if sweeps != len(key_scene):
        raise UserError(
            f"{sweeps} rows are keyframes of LIDAR_TOP, but they belong to {len(key_scene)} samples",
            where=str(tables / "sample_data.json"),
            cure=_CURE,
        )
    counts = np.bincount(key_scene, minlength=len(scenes))
    for (name, told), count in zip(scenes, counts.tolist()):
        if told is not None and told != count:
            raise UserError(
                f"scene {name} has {told} samples by its own row (nbr_samples), and {count} keyframes of LIDAR_TOP",
                where=str(tables / "scene.json"),
                cure=_CURE,
            )
