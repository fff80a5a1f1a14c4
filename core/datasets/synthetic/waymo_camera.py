"""Images of Waymo's cameras: drawn along the directions that each lens gives its pixels."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from core.datasets.synthetic.render import expose, render_rays
from core.datasets.synthetic.scene import Snapshot
from core.datasets.waymo.frame import CameraCalibration
from core.datasets.waymo.lens import undistort

__all__ = ["pixel_rays", "take"]

_JPEG = 92  # quality


def take(snapshot: Snapshot, camera: CameraCalibration, rng: np.random.Generator) -> bytes:
    """Take an image; returns the JPEG's bytes."""
    pose = snapshot.ego @ camera.extrinsic
    rays = pixel_rays(camera) @ pose[:3, :3].T
    radiance, _, _ = render_rays(snapshot, pose[:3, 3], rays)
    stream = io.BytesIO()
    Image.fromarray(expose(radiance, rng)).save(stream, "JPEG", quality=_JPEG)
    return stream.getvalue()


def pixel_rays(camera: CameraCalibration) -> np.ndarray:
    """Directions of the pixels, f64 [H, W, 3] in the camera's frame (x forward), of length 1 along x.

    Pixel (column 0, row 0) has its centre at (0, 0).
    """
    width, height = camera.size
    matrix = camera.matrix
    lens = (*matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), *camera.distortion.tolist())
    right_down = _drawn(width, height, lens)
    forward = np.ones((height, width, 1))
    return np.concatenate([forward, -right_down], -1, dtype=np.float64)


@functools.lru_cache(maxsize=5)
def _drawn(width: int, height: int, lens: tuple[float, ...]) -> np.ndarray:
    """What directions a lens draws at the pixels, f32 [H, W, 2]; kept, as they are the work of many steps.

    Args:
        lens: f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3.
    """
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([column, row], -1)
    focal, centre = np.array(lens[:2]), np.array(lens[2:4])
    return undistort((pixels - centre) / focal, np.array(lens[4:])).astype(np.float32)
