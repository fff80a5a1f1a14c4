"""A random part of an image in a given size, with what belongs to it (SLidR, Sautier et al., CVPR 2022).

Box and retries are those of torchvision's RandomResizedCrop, which SLidR's pre-training uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.data.config import ResizedCropConfig
from core.data.picture import NO_AREA, Picture

__all__ = ["Box", "cut", "nearest", "resized_crop"]

_BOXES = 10  # drawn until one fits, as torchvision does
_CROPS = 100  # drawn until one keeps enough points; then the whole image is taken


@dataclass(frozen=True)
class Box:
    """A part of an image, px."""

    left: int
    top: int
    width: int
    height: int


def resized_crop(picture: Picture, rng: np.random.Generator, config: ResizedCropConfig) -> Picture:
    """Cut out a random box that keeps enough of the points in sight, and resize it.

    Boxes are drawn until more than ``points`` are left in sight, or more than ``share`` of those there were; an image
    without any takes the first one.
    """
    height, width = picture.image.shape[:2]
    seen = int(np.count_nonzero(picture.visible))
    for _ in range(_CROPS):
        box = _draw(width, height, rng, config)
        _, visible = _places(picture, box, config.size)
        left = int(np.count_nonzero(visible))
        if not seen or left > config.points or left > config.share * seen:
            return cut(picture, box, config.size)
    return cut(picture, Box(0, 0, width, height), config.size)


def _draw(width: int, height: int, rng: np.random.Generator, config: ResizedCropConfig) -> Box:
    """A box of random area and ratio; after ten that do not fit, the largest in the middle whose ratio is allowed."""
    low, high = config.ratio
    for _ in range(_BOXES):
        area = width * height * rng.uniform(*config.area)
        ratio = np.exp(rng.uniform(np.log(low), np.log(high)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return Box(int(rng.integers(width - w + 1)), top, w, h)
    w, h = width, height
    if width / height < low:
        h = max(round(width / low), 1)
    elif width / height > high:
        w = max(round(height * high), 1)
    return Box((width - w) // 2, (height - h) // 2, w, h)


def cut(picture: Picture, box: Box, size: tuple[int, int]) -> Picture:
    """Cut out a box and resize it: the image bilinear, without smoothing before, maps to their nearest pixels.

    A place x of the image becomes (x - left + 0.5) size / width - 0.5: pixels are areas about their centres.

    Args:
        size: (width, height) px of the result.
    """
    pixels, visible = _places(picture, box, size)
    return Picture(
        image=_resized(picture.image, box, size),
        pixels=pixels,
        visible=visible,
        areas=_areas(picture.areas, box, size),
        planes={name: nearest(plane, box, size) for name, plane in picture.planes.items()},
    )


def _places(picture: Picture, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the points lie in the part, f32 [N, 2] in [-1, 1], and whether they do, bool [N]."""
    old = np.array(picture.image.shape[1::-1], np.float32) - 1
    new = np.array(size, np.float32)
    corner = np.array([box.left, box.top], np.float32)
    scale = new / np.array([box.width, box.height], np.float32)
    at = ((picture.pixels + 1) / 2 * old - corner + np.float32(0.5)) * scale - np.float32(0.5)
    inside: np.ndarray = (at >= 0) & (at <= new - 1)
    visible = picture.visible & inside.all(1)
    pixels = np.where(visible[:, None], 2 * at / (new - 1) - 1, np.float32(0))
    return pixels.astype(np.float32, copy=False), visible


def _areas(areas: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    at = areas.astype(np.int64) - np.array([box.left, box.top])
    within = np.array([box.width, box.height])
    inside: np.ndarray = (at >= 0) & (at < within)
    resized = at * np.array(size) // within
    return np.where(inside.all(1, keepdims=True), resized, NO_AREA).astype(np.int16)


def nearest(plane: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A box of a map [H, W] in another size, the value at each pixel that of the one its centre falls on.

    Args:
        size: (width, height) px of the result.
    """
    row = box.top + ((np.arange(size[1]) + 0.5) * box.height / size[1]).astype(np.int64)
    column = box.left + ((np.arange(size[0]) + 0.5) * box.width / size[0]).astype(np.int64)
    return plane[row][:, column]


def _resized(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """u8 [h, w, 3]."""
    import torch
    import torch.nn.functional as F

    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size[::-1], mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
