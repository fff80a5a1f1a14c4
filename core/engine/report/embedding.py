"""Embeddings of a scan's points and of its images' pixels, and what a page needs of them: fewer bytes, and colours.

Similarity is the cosine throughout; features have length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "EmbeddedCamera",
    "EmbeddedScan",
    "Packed",
    "error_bound",
    "pack_all",
    "pca_colors",
    "unit",
]

_WIDTHS = (
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
)  # values per feature that are tried
_STEPS = 255  # of a stored value
_SHOWN = (0.01, 0.99)  # quantiles of a component between which colours change


@dataclass(frozen=True)
class EmbeddedCamera:
    """One camera's image and the features of a grid of its pixels.

    Attributes:
        picture: u8 [h, w, 3], to be shown. size: (width, height) px as the network saw it.
        grid: (columns, rows). features: f32 [rows * columns, C], row by row, of the pixels nearest the cells' centres.
        labels: i32 [rows * columns], the superpixel there, -1 = none; None where there are no superpixels.
        superpixels: f32 [S, C], directions of the mean feature of all pixels of each, 0 where it has none.
        seen: i64 [M], the points that fall into the image. places: f32 [M, 2], where, in shares of width and height.
    """

    name: str
    picture: np.ndarray
    size: tuple[int, int]
    grid: tuple[int, int]
    features: np.ndarray
    labels: np.ndarray | None
    superpixels: np.ndarray
    seen: np.ndarray
    places: np.ndarray

    def cell(self, column: int, row: int) -> int:
        """Row of ``features`` for a pixel of the image as the network saw it."""
        across = column * self.grid[0] // self.size[0]
        down = row * self.grid[1] // self.size[1]
        return down * self.grid[0] + across


@dataclass(frozen=True)
class EmbeddedScan:
    """A scan and its images under one embedding.

    Attributes:
        token: the scan's name. points: f32 [N, 3] m about the scanner. features: f32 [N, C].
    """

    token: str
    points: np.ndarray
    features: np.ndarray
    cameras: Sequence[EmbeddedCamera]

    @property
    def pixels(self) -> np.ndarray:
        """F32 [P, C], the features of all cameras' grids, one after the other."""
        return np.concatenate([camera.features for camera in self.cameras])

    @property
    def superpixels(self) -> np.ndarray:
        """F32 [S, C], those of all cameras, one after the other."""
        return np.concatenate([camera.superpixels for camera in self.cameras])


@dataclass(frozen=True)
class Packed:
    """Features [N, C] as bytes: feature i is about ``basis @ (low + step * values[i])``.

    Attributes:
        values: u8 [N, D]. low, step: f32 [D].
        error: the largest distance between a feature and what the bytes say, over all N.
    """

    values: np.ndarray
    low: np.ndarray
    step: np.ndarray
    error: float

    def coefficients(self) -> np.ndarray:
        """F32 [N, D] in the basis."""
        return self.low + self.step * self.values


def unit(features: np.ndarray) -> np.ndarray:
    """Features of length 1, f32; those of length 0 stay so."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(length > 0, length, 1)).astype(np.float32)


def error_bound(first: Packed, second: Packed) -> float:
    """How far a similarity of packed features can be from that of the features themselves.

    With x = x' + e, y = y' + f and lengths of 1 the difference is x.f + e.y', at most |f| + |e| (1 + |f|).
    """
    return first.error + second.error + first.error * second.error


def pack_all(sets: Sequence[np.ndarray], wanted: float) -> tuple[list[Packed], float]:
    """Pack sets of features in one basis, in as few values as keep all similarities within ``wanted``.

    The basis is that of the second moments, in which each set weighs the same. Where no number of values keeps the
    bound, the largest is taken.

    Args:
        sets: f32 [N, C] each, of length 1 or 0.

    Returns:
        the packed sets, and the bound that holds for every pair, within a set and between two.
    """
    filled = [part.astype(np.float64) for part in sets if len(part)]
    moments = np.mean([part.T @ part / len(part) for part in filled], axis=0)
    widest = min(len(moments), _WIDTHS[-1])
    basis = np.linalg.eigh(moments)[1][:, ::-1][:, :widest]
    described = []
    for part in sets:
        exact = part.astype(np.float64)
        described.append((exact @ basis, (exact**2).sum(1)))
    packed: list[Packed] = []
    bound = np.inf
    for width in _hopeful(described, widest, wanted):
        packed = [_pack(coefficients[:, :width], energy) for coefficients, energy in described]
        worst = max(packed, key=lambda part: part.error)
        bound = error_bound(worst, worst)
        if bound <= wanted:
            break
    return packed, bound


def _hopeful(
    described: Sequence[tuple[np.ndarray, np.ndarray]], widest: int, wanted: float
) -> list[int]:
    """Numbers of values, ascending, that may keep the bound: what they leave out does not break it alone."""
    kept = [np.zeros(len(energy)) for _, energy in described]
    hopeful = []
    before = 0
    for width in (*(w for w in _WIDTHS if w < widest), widest):
        left_out = 0.0
        for part, (coefficients, energy) in zip(kept, described):
            added = coefficients[:, before:width]
            part += np.einsum("ij,ij->i", added, added)
            left_out = max(left_out, float((energy - part).max(initial=0.0)))
        before = width
        if 2 * np.sqrt(left_out) <= wanted or width == widest:
            hopeful.append(width)
    return hopeful


def _pack(coefficients: np.ndarray, energy: np.ndarray) -> Packed:
    """Bytes of features.

    Args:
        coefficients: f64 [N, D], in some vectors of an orthonormal basis. energy: f64 [N], squares of lengths.
    """
    width = coefficients.shape[1]
    if not len(coefficients):
        nothing = np.zeros(width, np.float32)
        return Packed(np.zeros((0, width), np.uint8), nothing, nothing, 0.0)
    low = coefficients.min(0).astype(np.float32)
    step = ((coefficients.max(0) - low) / _STEPS).astype(np.float32)
    places = (coefficients - low) / np.where(step > 0, step, 1)
    values = np.clip(np.round(places), 0, _STEPS).astype(np.uint8)
    told = (low + step * values).astype(np.float64)
    # The basis is orthogonal: what it leaves out and what rounding adds stand at right angles.
    left_out = np.maximum(energy - (coefficients**2).sum(1), 0)
    rounded = ((coefficients - told) ** 2).sum(1)
    return Packed(values, low, step, float(np.sqrt((left_out + rounded).max())))


def pca_colors(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours of two sets of features by their three main components, so that equal features have equal colours.

    Both sets weigh the same in the mean and in the covariance; each component is red, green or blue between its
    quantiles of both sets, the wider ones.

    Args:
        first, second: [N, C], [M, C].

    Returns:
        u8 [N, 3] and [M, 3], and f64 [3], the share of the variance that each component has.
    """
    sets = [first.astype(np.float64), second.astype(np.float64)]
    middle = np.mean([part.mean(0) for part in sets], axis=0)
    covariance = np.zeros((len(middle), len(middle)))
    for part in sets:
        centred = part - middle
        covariance += centred.T @ centred / (2 * len(part))
    values, vectors = np.linalg.eigh(covariance)
    main = vectors[:, ::-1][:, :3]
    largest = np.abs(main).argmax(0)
    main = main * np.where(main[largest, range(main.shape[1])] < 0, -1, 1)  # one of two signs
    projected = [(part - middle) @ main for part in sets]
    ends = np.array([np.quantile(part, _SHOWN, axis=0) for part in projected])
    low, high = ends[:, 0].min(0), ends[:, 1].max(0)
    colors = []
    for part in projected:
        share = (part - low) / np.where(high > low, high - low, 1)
        color = np.zeros((len(part), 3))
        color[:, : share.shape[1]] = np.clip(share, 0, 1)
        colors.append(np.round(255 * color).astype(np.uint8))
    explained = np.zeros(3)
    shares = values[::-1][:3] / max(values.sum(), np.finfo(float).tiny)
    explained[: len(shares)] = shares
    return colors[0], colors[1], explained
