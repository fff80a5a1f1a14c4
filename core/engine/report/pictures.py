"""Point clouds as pixels: bird's-eye views, camera overlays, and their encoding for a web page.

Everything is u8 RGB [H, W, 3]. Pillow is imported when a picture is made, never before.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence

import numpy as np

from core.contracts import IGNORE
from core.metrics import RANGE_BINS

__all__ = [
    "birds_eye",
    "camera_overlay",
    "class_palette",
    "encode_photo",
    "encode_png",
    "error_colors",
    "legible",
    "side_by_side",
]

BACKGROUND = (13, 16, 22)
RING = (38, 44, 54)
IGNORED = (58, 63, 72)
CORRECT = (128, 136, 148)
WRONG = (255, 66, 66)
MARKER = (255, 255, 255)
MIN_LUMINANCE = 60.0  # Rec. 709, of 255; anything darker drowns in the background
MIN_VALUE = 140.0  # of the brightest channel, of 255


def class_palette(count: int) -> np.ndarray:
    """Distinct colours for a label space that brings none: u8 [count, 3], class 0 black."""
    colors = [(0.0, 0.0, 0.0)]
    for i in range(1, count):
        hue = i * 0.618034 % 1
        value = 1.0 if i % 2 else 0.75
        colors.append(colorsys.hsv_to_rgb(hue, 0.75, value))
    return np.round(np.array(colors) * 255).astype(np.uint8)


def legible(colors: np.ndarray) -> np.ndarray:
    """Class colours that can be seen on a dark ground: dark ones are raised, "ignore" becomes grey.

    Args:
        colors: u8 [C, 3].

    Returns:
        u8 [C, 3]; hue is kept.
    """
    rgb = colors.astype(np.float64)
    rgb *= np.maximum(1.0, MIN_VALUE / np.maximum(rgb.max(1, keepdims=True), 1.0))
    luminance = (rgb @ (0.2126, 0.7152, 0.0722))[:, None]
    towards_white = np.clip((MIN_LUMINANCE - luminance) / (255.0 - luminance), 0.0, 1.0)
    rgb += (255.0 - rgb) * towards_white
    rgb[IGNORE] = IGNORED
    return rgb.round().astype(np.uint8)


def error_colors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Grey where right, red where wrong, dim where the truth is "ignore".

    Args:
        truth, prediction: integer [N].

    Returns:
        u8 [N, 3].
    """
    colors = np.empty((len(truth), 3), np.uint8)
    colors[:] = CORRECT
    colors[prediction != truth] = WRONG
    colors[truth == IGNORE] = IGNORED
    return colors


def birds_eye(
    points: np.ndarray,
    colors: np.ndarray,
    extent: float = 50.0,
    size: int = 640,
    priority: np.ndarray | None = None,
    like: int | None = None,
) -> np.ndarray:
    """A scan from above, x to the right and y up, rings at the borders of the range bins, the sensor a white dot.

    Args:
        points: [N, 3] m, LiDAR frame. colors: u8 [N, 3].
        extent: m from the sensor to each edge of the picture. size: px per side.
        priority: [N]; larger values cover smaller ones whatever their height. Equal values: the higher point covers.
        like: dots are as large as for a scan of so many points; None = of those in the picture.

    Returns:
        u8 [size, size, 3].
    """
    if len(points) != len(colors):
        raise ValueError(f"{len(points)} points but {len(colors)} colours")
    canvas = _backdrop(extent, size)
    inside = np.flatnonzero((np.abs(points[:, :2]) < extent).all(1))  # NaN compares false
    keys = [points[inside, 2]]
    if priority is not None:
        keys.append(np.asarray(priority)[inside])
    inside = inside[np.lexsort(keys)]
    scale = size / (2 * extent)
    columns = ((points[inside, 0] + extent) * scale).astype(np.int64)
    rows = ((extent - points[inside, 1]) * scale).astype(np.int64)
    side = _dot_side(like or len(inside), size * size, cover=0.3, most=4)
    _splat(canvas, rows, columns, colors[inside], side)
    middle = np.array([size // 2])
    marker = np.array([MARKER], np.uint8)
    _splat(canvas, middle, middle, marker, max(3, size // 100))
    return canvas


def _backdrop(extent: float, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(image)
    middle = size / 2
    for _, radius in RANGE_BINS[:-1]:
        reach = radius / extent * size / 2
        low, high = middle - reach, middle + reach
        draw.ellipse([low, low, high, high], outline=RING)
    return np.array(image)


def _dot_side(count: int, pixels: int, cover: float, most: int) -> int:
    """Side of a dot in px, so that ``count`` of them would fill ``cover`` of the picture."""
    side = round(math.sqrt(cover * pixels / max(count, 1)))
    return max(1, min(side, most))


def _splat(
    canvas: np.ndarray, rows: np.ndarray, columns: np.ndarray, colors: np.ndarray, side: int
) -> None:
    """Paint squares in order; of several on one pixel the last stays (NumPy assigns repeated indices in order)."""
    offsets = np.arange(side) - (side - 1) // 2
    height, width = canvas.shape[:2]
    y = np.clip(rows[:, None, None] + offsets[:, None], 0, height - 1)
    x = np.clip(columns[:, None, None] + offsets, 0, width - 1)
    flat = (y * width + x).reshape(-1)
    canvas.reshape(-1, 3)[flat] = np.repeat(colors, side * side, axis=0)


def camera_overlay(
    image: np.ndarray,
    uv: np.ndarray,
    visible: np.ndarray,
    colors: np.ndarray,
    width: int | None = None,
) -> np.ndarray:
    """Points over a subdued camera image.

    Args:
        image: u8 [H, W, 3]. uv: [N, 2] px of that image. visible: bool [N]. colors: u8 [N, 3].
        width: px of the result, never more than W; W if not given.

    Returns:
        u8 [H * width / W, width, 3].
    """
    from PIL import Image

    if not len(uv) == len(visible) == len(colors):
        raise ValueError(
            f"{len(uv)} pixels, {len(visible)} flags and {len(colors)} colours; expected one per point"
        )
    height, full_width = image.shape[:2]
    scale = 1.0
    if width is not None:
        scale = min(1.0, width / full_width)
    size = (round(full_width * scale), max(1, round(height * scale)))
    photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), np.float32)
    grey = photo.mean(2, keepdims=True)
    canvas = (0.75 * (0.5 * photo + 0.5 * grey)).astype(np.uint8)
    shown = np.flatnonzero(visible)
    column, row = (uv[shown] * scale).astype(np.int64).T
    side = _dot_side(len(shown), size[0] * size[1], cover=0.12, most=size[0] // 100)
    _splat(canvas, row, column, colors[shown], side)
    return canvas


def side_by_side(
    panels: Sequence[tuple[str, np.ndarray]],
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    note: str = "",
) -> np.ndarray:
    """Titled pictures of one height in a row, with a legend of coloured squares below.

    Args:
        panels: (title, u8 [H, W, 3]). legend: (name, RGB). note: last line, e.g. which world this is.

    Returns:
        u8 RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    gap, line = 12, 24
    font = ImageFont.load_default(size=15)
    width = sum(image.shape[1] + gap for _, image in panels) + gap
    top = panels[0][1].shape[0] + 2 * gap + line
    entry = max((font.getlength(name) for name, _ in legend), default=0) + 2 * line
    columns = max(1, int((width - gap) // entry))
    below = top + line * math.ceil(len(legend) / columns)
    height = below + gap
    if note:
        height += line
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = gap
    for title, image in panels:
        draw.text((x, gap), title, font=font, fill=MARKER)
        sheet.paste(Image.fromarray(image), (x, gap + line))
        x += image.shape[1] + gap
    for i, (name, color) in enumerate(legend):
        left = gap + (i % columns) * entry
        y = top + (i // columns) * line
        draw.rectangle([left, y + 4, left + 13, y + 17], fill=tuple(int(c) for c in color))
        draw.text((left + line, y), name, font=font, fill=MARKER)
    draw.text((gap, below), note, font=font, fill=MARKER)
    return np.array(sheet)


def encode_png(image: np.ndarray, *, smallest: bool = True) -> bytes:
    """Lossless PNG.

    Args:
        smallest: pictures of at most 256 colours take one byte per pixel before compression, which tries harder; of no
            use to photographs, and slow.
    """
    from PIL import Image

    stream = io.BytesIO()
    if not smallest:
        Image.fromarray(image).save(stream, "PNG")
        return stream.getvalue()
    packed = image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    palette, index = np.unique(packed, return_inverse=True)
    if len(palette) <= 256:
        picture = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
        colors = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], 1)
        picture.putpalette(colors.astype(np.uint8).tobytes())
    else:
        picture = Image.fromarray(image)
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def encode_photo(image: np.ndarray, quality: int = 80) -> bytes:
    """Lossy WebP, for camera images."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()
