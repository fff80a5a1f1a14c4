"""CIE Lab of an image, and its smoothing: planes of 32-bit floats that compiled loops run through row by row."""

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
_THIRD_OF_EXPONENT = (
    709_921_077  # added to a third of a float's bits it gives those of its cube root, to 4 %
)
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends, as in scipy.ndimage
_MATHS = {"nnan", "nsz"}  # no number here is NaN; sums keep their order, so that all machines agree
_READ = numba.types.Array(numba.u1, 3, "C", readonly=True)  # images of files may not be written to
_LINE = numba.f4[::1]
_PLANES = numba.f4[:, :, ::1]


def lab(image: np.ndarray, *, rescale: bool = False) -> np.ndarray:
    """CIE Lab, f32 [3, H, W] of u8 [H, W, 3] sRGB.

    Args:
        rescale: stretch the values of the image to 0..1 first.
    """
    values = np.arange(256) / 255
    if rescale:
        low, high = values[image.min()], values[image.max()]
        values = (values - low) / (high - low if high > low else 1.0)
    bright = ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4
    linear = np.where(values <= 0.04045, values / 12.92, bright)
    relative = _XYZ / np.array(_WHITE)[:, None]
    found = np.empty((3, *image.shape[:2]), np.float32)
    _lab(np.ascontiguousarray(image), linear.astype(np.float32), relative.astype(np.float32), found)
    return found


@numba.njit(
    numba.void(_LINE, _LINE),
    cache=True,
    nogil=True,
    fastmath=_MATHS,
    error_model="numpy",  # a division that may raise is not vectorised
)
def _compress(values: np.ndarray, found: np.ndarray) -> None:
    """Cube roots, or a line where it is dark; two steps of Halley's method leave the last bit open."""
    bits = values.view(np.int32)
    guess = found.view(np.int32)
    for i in range(len(values)):
        third = np.int32(np.float32(bits[i]) * np.float32(1 / 3))
        guess[i] = third + np.int32(_THIRD_OF_EXPONENT)
    for i in range(len(values)):
        value = values[i]
        root = found[i]
        cube = root * root * root
        root = root * (cube + value + value) / (cube + cube + value)
        cube = root * root * root
        root = root * (cube + value + value) / (cube + cube + value)
        dark = np.float32(7.787) * value + np.float32(16 / 116)
        found[i] = root if value > np.float32(0.008856) else dark


@numba.njit(
    numba.void(_READ, _LINE, numba.f4[:, ::1], _PLANES), cache=True, nogil=True, fastmath=_MATHS
)
def _lab(image: np.ndarray, linear: np.ndarray, relative: np.ndarray, found: np.ndarray) -> None:
    height, width = image.shape[:2]
    red = np.empty(width, np.float32)
    green = np.empty(width, np.float32)
    blue = np.empty(width, np.float32)
    xyz = np.empty((3, width), np.float32)
    compressed = np.empty((3, width), np.float32)
    for y in range(height):
        for x in range(width):
            red[x] = linear[image[y, x, 0]]
            green[x] = linear[image[y, x, 1]]
            blue[x] = linear[image[y, x, 2]]
        for c in range(3):
            of_red, of_green, of_blue = relative[c]
            part = xyz[c]
            for x in range(width):
                part[x] = red[x] * of_red + green[x] * of_green + blue[x] * of_blue
        _compress(xyz.reshape(-1), compressed.reshape(-1))
        fx, fy, fz = (
            compressed[0],
            compressed[1],
            compressed[2],
        )  # unpacked they would be read with a stride
        for x in range(width):
            found[0, y, x] = np.float32(116) * fy[x] - np.float32(16)
            found[1, y, x] = np.float32(500) * (fx[x] - fy[x])
            found[2, y, x] = np.float32(200) * (fy[x] - fz[x])


def smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of each plane, f32 [C, H, W], mirrored at the borders: ``scipy.ndimage.gaussian_filter``.

    Args:
        sigma: px, greater than 0.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    rows = np.pad(np.arange(planes.shape[1]), radius, mode="symmetric")
    columns = np.pad(np.arange(planes.shape[2]), radius, mode="symmetric")
    found = np.empty_like(planes)
    _smooth(planes, weights.astype(np.float32), rows, columns, found)
    return found


@numba.njit(numba.void(_LINE, numba.f4, _LINE), cache=True, nogil=True, fastmath=_MATHS)
def _weigh(line: np.ndarray, weight: float, found: np.ndarray) -> None:
    for x in range(len(found)):
        found[x] = weight * line[x]


@numba.njit(numba.void(_LINE, _LINE, _LINE, numba.f4), cache=True, nogil=True, fastmath=_MATHS)
def _add_pair(to: np.ndarray, one: np.ndarray, other: np.ndarray, weight: float) -> None:
    """Add what lies at one distance on either side."""
    for x in range(len(to)):
        to[x] += weight * (one[x] + other[x])


@numba.njit(
    numba.void(_LINE, _LINE, _LINE, numba.f4, _LINE, _LINE, numba.f4),
    cache=True,
    nogil=True,
    fastmath=_MATHS,
)
def _add_pairs(
    to: np.ndarray,
    near_one: np.ndarray,
    near_other: np.ndarray,
    near_weight: float,
    far_one: np.ndarray,
    far_other: np.ndarray,
    far_weight: float,
) -> None:
    """Add two distances at once: sums are read and written half as often."""
    for x in range(len(to)):
        near = near_weight * (near_one[x] + near_other[x])
        far = far_weight * (far_one[x] + far_other[x])
        to[x] += near + far


@numba.njit(
    numba.void(_PLANES, _LINE, numba.i8[::1], numba.i8[::1], _PLANES),
    cache=True,
    nogil=True,
    fastmath=_MATHS,
)
def _smooth(
    planes: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    found: np.ndarray,
) -> None:
    """Smooth by rows and columns; ``rows`` and ``columns`` say what stands at places from ``-radius`` on."""
    count, height, width = planes.shape
    radius = len(weights) - 1
    across = np.empty(width + 2 * radius, np.float32)
    down = np.empty(width, np.float32)
    for c in range(count):
        plane = planes[c]
        for y in range(height):
            middle = y + radius
            _weigh(plane[y], weights[0], down)
            for k in range(1, radius, 2):
                _add_pairs(
                    down,
                    plane[rows[middle - k]],
                    plane[rows[middle + k]],
                    weights[k],
                    plane[rows[middle - k - 1]],
                    plane[rows[middle + k + 1]],
                    weights[k + 1],
                )
            if radius % 2:
                above, below = plane[rows[y]], plane[rows[middle + radius]]
                _add_pair(down, above, below, weights[radius])
            for x in range(width):
                across[radius + x] = down[x]
            for x in range(radius):
                across[x] = down[columns[x]]
                across[radius + width + x] = down[columns[radius + width + x]]
            line = found[c, y]
            _weigh(down, weights[0], line)
            for k in range(1, radius, 2):
                _add_pairs(
                    line,
                    across[radius - k :],
                    across[radius + k :],
                    weights[k],
                    across[radius - k - 1 :],
                    across[radius + k + 1 :],
                    weights[k + 1],
                )
            if radius % 2:
                _add_pair(line, across, across[2 * radius :], weights[radius])
