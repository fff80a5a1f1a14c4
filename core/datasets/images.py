"""Camera images on disk: PNG and JPEG alone, their values as recorded, in the size that the calibration is for."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from core.decode import DAMAGE, decoding, reason
from core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "check_principal_point",
    "find_image",
    "image_size",
    "image_stem",
    "open_image",
    "parse_image",
    "read_image",
    "read_map",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # in any case
_FORMATS = ("PNG", "JPEG")  # Pillow's other decoders are never tried; that of EPS starts a program
_MOST_PIXELS = 80_000_000
_IMAGE_NAME = re.compile(r"(.+)\.(?:png|jpe?g)", re.IGNORECASE)
_COLOURS = ("RGB", "P", "L", "1", "CMYK")  # modes that Pillow converts to RGB as they are meant
_LABELS = ("L", "P")
_TRANSPARENT = ("RGBA", "LA", "PA")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Share of width and height that a principal point may lie off the middle: at most 0.034 and 0.071 in KITTI's, nuScenes'
# and PandaSet's cameras, and more in images that were resized by a tenth or more.
_OFF_MIDDLE = np.array([0.055, 0.1])


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a PNG or JPEG to u8 [H, W, 3] RGB; values of 16 bits are divided by 257.

    Args:
        size: (width, height) px that it must have, None = any.

    Raises:
        UserError: the file is missing, of another size, cannot be decoded, or its colours have no plain RGB value
            (transparent pixels, values above 16 bits).
    """
    with _opened_image(path) as image:
        return _decoded(image, str(path), size)


def parse_image(content: bytes, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a PNG or JPEG that lies inside another file; see :func:`read_image`.

    Args:
        where: the file and the place in it, for errors.
    """
    with _decoder(io.BytesIO(content), where) as image:
        return _decoded(image, where, size)


def _decoded(image: Image.Image, where: str, size: tuple[int, int] | None) -> np.ndarray:
    if size is not None and image.size != size:
        raise UserError(
            f"this image has {image.size[0]} x {image.size[1]} px; the calibration is for {size[0]} x {size[1]}",
            where=where,
            cure="Do not resize images, or unpack the file again",
        )
    return _rgb(image, where)


def open_image(path: Path, size: tuple[int, int] | None = None) -> Callable[[], np.ndarray]:
    """What decodes an image when it is called, see :func:`read_image`."""
    return partial(read_image, path, size)


def read_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode a PNG of labels to u8 or u16 [H, W], its values as they are; of a palette the indices.

    Args:
        size: (width, height) px that it must have.

    Raises:
        UserError: the file is missing, of another size, cannot be decoded, or has colours or values beyond 16 bits.
    """
    with _opened_image(path) as image:
        if image.format != "PNG" or image.mode not in (*_LABELS, *_SIXTEEN_BITS):
            raise UserError(
                f"this is no map of labels ({image.format}, mode {image.mode})",
                where=str(path),
                cure="Write labels as PNG of one channel, 8 or 16 bits",
            )
        if image.size != size:
            raise UserError(
                f"this map has {image.size[0]} x {image.size[1]} px, its image {size[0]} x {size[1]}",
                where=str(path),
                cure="Write it in the size of the image as recorded",
            )
        values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise UserError("it holds values beyond 16 bits", where=str(path))
    return values.astype(np.uint16)


def image_size(path: Path, source: str | None = None) -> tuple[int, int]:
    """(width, height) px from the header of an image; nothing is decoded.

    Args:
        source: where the file comes from; the cure if it does not exist.

    Raises:
        UserError: the file is missing or is no image.
    """
    with _opened_image(path, source) as image:
        return image.size


def image_stem(name: str) -> str | None:
    """The name of an image's file without its suffix, None = not an image."""
    found = _IMAGE_NAME.fullmatch(name)
    if found is None or name.startswith("."):
        return None
    return found[1]


def find_image(folder: Path, stem: str, suffix: str = IMAGE_SUFFIXES[0]) -> Path:
    """The image of this stem with any of ``IMAGE_SUFFIXES`` in small or capital letters; else with ``suffix``."""
    usual = folder / f"{stem}{suffix}"
    if usual.is_file():
        return usual
    for other in IMAGE_SUFFIXES:
        for written in (other, other.upper()):
            path = folder / f"{stem}{written}"
            if path.is_file():
                return path
    return usual


def check_principal_point(
    matrix: np.ndarray, size: tuple[int, int], image: Path, calibration: Path
) -> None:
    """Compare a calibration with the size of its images: the principal point lies near their middle.

    Args:
        matrix: [3, 3] intrinsics, or [3, 4] of a pinhole camera. size: (width, height) px of ``image``.

    Raises:
        UserError: it does not, so the image was resized or cropped, or belongs to another camera.
    """
    point = matrix[:2, :3] @ matrix[2, :3]
    off = np.abs(point / np.array(size) - 0.5)
    if bool((off <= _OFF_MIDDLE).all()):
        return
    raise UserError(
        f"this image has {size[0]} x {size[1]} px, but the principal point of {calibration} is "
        f"({point[0]:.0f}, {point[1]:.0f}), far from its middle: they do not belong together",
        where=str(image),
        cure="Keep images in the size they were recorded in, uncropped, or unpack both again",
    )


def _rgb(image: Image.Image, where: str) -> np.ndarray:
    """U8 [H, W, 3]."""
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise _no_colours(where, "it holds values beyond 16 bits")
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, 2)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        coloured = np.asarray(image.convert("RGBA"))
        if (coloured[:, :, 3] < 255).any():
            raise _no_colours(where, "it has transparent pixels")
        return coloured[:, :, :3].copy()
    if image.mode not in _COLOURS:
        raise _no_colours(where, f"its mode is {image.mode}")
    return np.asarray(image.convert("RGB"))


def _no_colours(where: str, what: str) -> UserError:
    return UserError(
        f"the colours of this image are not known: {what}",
        where=where,
        cure="Save it as RGB or grey, 8 or 16 bits, without an alpha channel",
    )


@contextmanager
def _opened_image(path: Path, source: str | None = None) -> Iterator[Image.Image]:
    with (
        decoding(path, "image", source),
        open(path, "rb") as stream,
        _decoder(stream, str(path), source) as image,
    ):
        yield image


@contextmanager
def _decoder(stream: IO[bytes], where: str, source: str | None = None) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError  # jobs without cameras never import it

    cure = source or "The file is damaged; unpack it again"
    damage: tuple[type[Exception], ...] = (OSError, Image.DecompressionBombError, *DAMAGE)
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{width} x {height} px are more than a camera has")
            yield image
    except UnidentifiedImageError as error:
        what = "cannot decode this image: it is no PNG or JPEG"
        raise UserError(what, where=where, cure=cure) from error
    except damage as error:
        what = f"cannot decode this image ({reason(error)})"
        raise UserError(what, where=where, cure=cure) from error
