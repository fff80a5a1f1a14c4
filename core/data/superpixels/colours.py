"""CIE Lab of an image, and its smoothing, in planes that the clustering reads row by row."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["lab", "smooth"]

_WHITE = (0.95047, 1.0, 1.08883)  # CIE D65, 2 degrees
_XYZ = np.array(  # of linear sRGB, IEC 61966-2-1
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_ENTRIES = 1 << 16  # of the table of cube roots; between them Lab is wrong by 1e-5 at most
_READ = numba.types.Array(numba.u1, 3, "C", readonly=True)  # images of files may not be written to
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends, as in scipy.ndimage


def lab(image: np.ndarray, *, rescale: bool = False) -> np.ndarray:
    """CIE Lab, f64 [3, H, W] of u8 [H, W, 3] sRGB.

    Args:
        rescale: stretch the values of the image to 0..1 first.
    """
    values = np.arange(256) / 255
    if rescale:
        low, high = values[image.min()], values[image.max()]
        values = (values - low) / (high - low if high > low else 1.0)
    dark = values <= 0.04045
    bright = ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4
    linear = np.where(dark, values / 12.92, bright)
    relative = np.ascontiguousarray((_XYZ / np.array(_WHITE)[:, None]).T)
    shares = linear[:, None, None] * relative  # [256, RGB, XYZ]
    return _lab(np.ascontiguousarray(image), shares, _roots())


def _roots() -> np.ndarray:
    """The compressed value of i / _ENTRIES, and one more to look between them."""
    value = np.arange(_ENTRIES + 2) / _ENTRIES
    return np.where(value > 0.008856, np.cbrt(value), 7.787 * value + 16 / 116)


@numba.njit("f8(f8, f8[::1])", inline="always")
def _compressed(value: float, roots: np.ndarray) -> float:
    place = value * _ENTRIES
    below = np.int64(min(place, float(_ENTRIES)))
    return roots[below] + (place - below) * (roots[below + 1] - roots[below])


@numba.njit(numba.f8[:, :, ::1](_READ, numba.f8[:, :, ::1], numba.f8[::1]), cache=True, nogil=True)
def _lab(image: np.ndarray, shares: np.ndarray, roots: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    found = np.empty((3, height, width))
    for y in range(height):
        for x in range(width):
            r, g, b = image[y, x, 0], image[y, x, 1], image[y, x, 2]
            fx = _compressed(shares[r, 0, 0] + shares[g, 1, 0] + shares[b, 2, 0], roots)
            fy = _compressed(shares[r, 0, 1] + shares[g, 1, 1] + shares[b, 2, 1], roots)
            fz = _compressed(shares[r, 0, 2] + shares[g, 1, 2] + shares[b, 2, 2], roots)
            found[0, y, x] = 116 * fy - 16
            found[1, y, x] = 500 * (fx - fy)
            found[2, y, x] = 200 * (fy - fz)
    return found


def smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of each plane, f64 [C, H, W], mirrored at the borders: ``scipy.ndimage.gaussian_filter``.

    Args:
        sigma: px, greater than 0.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    rows = np.pad(np.arange(planes.shape[1]), radius, mode="symmetric")
    columns = np.pad(np.arange(planes.shape[2]), radius, mode="symmetric")
    return _smooth(planes, weights, rows, columns)


@numba.njit("f8[:,:,::1](f8[:,:,::1], f8[::1], i8[::1], i8[::1])", cache=True, nogil=True)
def _smooth(
    planes: np.ndarray, weights: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Smooth by rows and columns; ``rows`` and ``columns`` say what stands at places from ``-radius`` on."""
    count, height, width = planes.shape
    radius = len(weights) - 1
    found = np.empty_like(planes)
    across = np.empty(width + 2 * radius)
    down = np.empty(width)
    for c in range(count):
        for y in range(height):
            down[:] = weights[0] * planes[c, y]
            for k in range(1, radius + 1):
                above, below = planes[c, rows[y + radius - k]], planes[c, rows[y + radius + k]]
                weight = weights[k]
                for x in range(width):
                    down[x] += weight * (above[x] + below[x])
            for x in range(width + 2 * radius):
                across[x] = down[columns[x]]
            line = found[c, y]
            line[:] = weights[0] * down
            for k in range(1, radius + 1):
                left, right = across[radius - k :], across[radius + k :]
                weight = weights[k]
                for x in range(width):
                    line[x] += weight * (left[x] + right[x])
    return found
