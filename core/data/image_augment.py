"""Augmentation of camera images together with the pixels of the points (2DPASS, Yan et al., ECCV 2022).

As for points, every draw comes from the generator handed in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.data.config import ImageAugmentConfig
from core.data.image_crop import resized_crop
from core.data.picture import NO_AREA, Picture
from core.errors import UserError

__all__ = ["augment_aligned", "crop", "flip", "jitter"]


def augment_aligned(
    picture: Picture, rng: np.random.Generator, config: ImageAugmentConfig
) -> Picture:
    """Crop, jitter and mirror an image, as far as ``config`` asks; planes are cropped and mirrored alike.

    Raises:
        UserError: the image is smaller than the crop.
    """
    if config.resized_crop is not None:
        picture = resized_crop(picture, rng, config.resized_crop)
    if config.crop is not None:
        picture = crop(picture, rng, config.crop)
    if config.jitter is not None:
        picture = replace(picture, image=jitter(picture.image, rng, config.jitter))
    if config.flip > 0 and rng.random() < config.flip:
        picture = flip(picture)
    return picture


def crop(picture: Picture, rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """Cut out ``size`` (width, height) px at the lower edge, anywhere along it with equal chance.

    Raises:
        UserError: the image is smaller than that.
    """
    height, width = picture.image.shape[:2]
    if size[0] > width or size[1] > height:
        raise UserError(
            f"the images have {width}x{height} px, less than a crop of {size[0]}x{size[1]}",
            where="data.image_augment.crop",
            cure="Choose a smaller crop, or set data.image_size to a larger one",
        )
    left, top = int(rng.integers(width - size[0] + 1)), height - size[1]
    window = (slice(top, top + size[1]), slice(left, left + size[0]))
    corner = np.array([left, top])
    old = np.array([width, height], np.float32) - 1
    new = np.array(size, np.float32) - 1
    at: np.ndarray = (picture.pixels + 1) / 2 * old - corner.astype(np.float32)
    inside: np.ndarray = (at >= 0) & (at <= new)
    visible = picture.visible & inside.all(1)
    pixels = np.where(visible[:, None], 2 * at / new - 1, 0)
    return Picture(
        image=picture.image[window],
        pixels=pixels.astype(np.float32, copy=False),
        visible=visible,
        areas=_cropped_areas(picture.areas, corner, size),
        planes={name: plane[window] for name, plane in picture.planes.items()},
    )


def _cropped_areas(areas: np.ndarray, corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    at = areas - corner
    inside: np.ndarray = (at >= 0) & (at < np.array(size))
    return np.where(inside.all(1, keepdims=True), at, NO_AREA).astype(np.int16)


def flip(picture: Picture) -> Picture:
    """Mirror left and right: pixel j becomes W - 1 - j, and what lies on its area stays on it."""
    areas = picture.areas.copy()
    on_area = areas[:, 0] >= 0
    areas[on_area, 0] = picture.image.shape[1] - 1 - areas[on_area, 0]
    return Picture(
        image=picture.image[:, ::-1],
        pixels=picture.pixels * np.array([-1, 1], np.float32),
        visible=picture.visible,
        areas=areas,
        planes={name: plane[:, ::-1] for name, plane in picture.planes.items()},
    )


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
