"""Augmentation of camera images together with the pixels of the points (2DPASS, Yan et al., ECCV 2022).

As for points, every draw comes from the generator handed in.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.data.config import ImageAugmentConfig
from core.errors import UserError

__all__ = ["augment_aligned", "crop", "flip", "jitter"]

# image u8 [H, W, 3]; pixels f32 [V, 2] in [-1, 1]; visible bool [V]
Link = tuple[np.ndarray, np.ndarray, np.ndarray]


def augment_aligned(
    image: np.ndarray,
    pixels: np.ndarray,
    visible: np.ndarray,
    planes: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    config: ImageAugmentConfig,
) -> tuple[Link, dict[str, np.ndarray]]:
    """Crop, jitter and mirror one camera's image and the maps aligned with it, as far as ``config`` asks.

    Args:
        image: u8 [H, W, 3]. pixels: f32 [V, 2] in [-1, 1], outermost pixel centres. visible: bool [V].
        planes: [H, W] by name; they are cropped and mirrored alike, and never jittered.

    Returns:
        the same of the new image; points that have left it are not visible, and their pixels 0.

    Raises:
        UserError: the image is smaller than the crop.
    """
    changed = dict(planes)
    if config.crop is not None:
        corner = _corner(image, rng, config.crop)
        image, pixels, visible = _cut_out(image, pixels, visible, corner, config.crop)
        changed = {name: _window(plane, corner, config.crop) for name, plane in changed.items()}
    if config.jitter is not None:
        image = jitter(image, rng, config.jitter)
    if config.flip > 0 and rng.random() < config.flip:
        image, pixels = flip(image, pixels)
        changed = {name: plane[:, ::-1] for name, plane in changed.items()}
    return (image, pixels, visible), changed


def crop(
    image: np.ndarray,
    pixels: np.ndarray,
    visible: np.ndarray,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> Link:
    """Cut out ``size`` (width, height) px at the lower edge, anywhere along it with equal chance."""
    return _cut_out(image, pixels, visible, _corner(image, rng, size), size)


def _corner(image: np.ndarray, rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Left and top of a cut-out, px."""
    height, width = image.shape[:2]
    if size[0] > width or size[1] > height:
        raise UserError(
            f"the images have {width}x{height} px, less than a crop of {size[0]}x{size[1]}",
            where="data.image_augment.crop",
            cure="Choose a smaller crop, or set data.image_size to a larger one",
        )
    return int(rng.integers(width - size[0] + 1)), height - size[1]


def _window(plane: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    left, top = corner
    return plane[top : top + size[1], left : left + size[0]]


def _cut_out(
    image: np.ndarray,
    pixels: np.ndarray,
    visible: np.ndarray,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> Link:
    height, width = image.shape[:2]
    old = np.array([width, height], np.float32) - 1
    new = np.array(size, np.float32) - 1
    at: np.ndarray = (pixels + 1) / 2 * old - np.array(corner, np.float32)
    inside: np.ndarray = (at >= 0) & (at <= new)
    visible = visible & inside.all(1)
    pixels = np.where(visible[:, None], 2 * at / new - 1, 0).astype(np.float32, copy=False)
    return _window(image, corner, size), pixels, visible


def flip(image: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror left and right: ``image`` u8 [H, W, 3] and ``pixels`` f32 [V, 2] in [-1, 1]."""
    return image[:, ::-1], pixels * np.array([-1, 1], np.float32)


def jitter(
    image: np.ndarray, rng: np.random.Generator, strength: tuple[float, float, float]
) -> np.ndarray:
    """Change brightness, contrast and saturation, in random order, each by a factor uniform in 1 +- ``strength``.

    Zero of each is black, the mean grey of the image, and the image in grey (as in torchvision's ColorJitter).
    """
    from PIL import Image, ImageEnhance  # jobs without cameras never import it

    spread = np.array(strength)
    factors = rng.uniform(np.maximum(0, 1 - spread), 1 + spread)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    picture = Image.fromarray(np.ascontiguousarray(image))
    for i in rng.permutation(len(kinds)):
        picture = kinds[i](picture).enhance(float(factors[i]))
    return np.asarray(picture)
