"""``dataset.planes``: maps aligned with the camera images, such as superpixels, from files beside any data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from core.contracts import Camera, Scan
from core.datasets.images import read_map
from core.errors import UserError
from core.paths import check_name

__all__ = ["NO_LABEL", "PREPARE", "add_planes", "plane_file"]

NO_LABEL = 65535  # in a file of 16 bits: the pixel belongs to nothing; -1 once it is read
PREPARE = "prepare_superpixels.py CONFIG writes superpixels"


def plane_file(folder: Path, token: str, camera: str) -> Path:
    """The file of one image's map, whether or not it exists: ``folder/<scan's token>/<camera>.png``."""
    name = check_name(f"{token}/{camera}", str(folder))
    return folder / f"{name}.png"


def add_planes(scan: Scan, planes: Mapping[str, Path]) -> Scan:
    """The scan with a loader of each map in each of its cameras; no file is opened before.

    Args:
        planes: folders by the maps' names.
    """
    cameras = []
    for camera in scan.cameras:
        loaders = dict(camera.planes)
        for name, folder in planes.items():
            path = plane_file(folder, scan.token, camera.name)
            loaders[name] = partial(_read, path, name, camera)
        cameras.append(replace(camera, planes=loaders))
    return replace(scan, cameras=tuple(cameras))


def _read(path: Path, name: str, camera: Camera) -> np.ndarray:
    """I32 [H, W], -1 where a pixel belongs to nothing.

    Raises:
        UserError: the file is missing, damaged, or of another size than the image.
    """
    if not path.is_file():
        raise UserError(
            f"the image of {camera.name} has no map '{name}'",
            where=str(path),
            cure=f"{PREPARE}; correct dataset.planes.{name} if they lie elsewhere",
        )
    values = read_map(path, camera.size)
    labels = values.astype(np.int32)
    if values.dtype != np.uint8:
        labels[values == NO_LABEL] = -1
    return labels
