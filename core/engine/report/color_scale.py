"""One scale from numbers to colours: matplotlib's "inferno", whose order a grey print keeps."""

from __future__ import annotations

import numpy as np

__all__ = ["scale_bar", "scale_colors", "scale_table"]

_NAME = "inferno"
_DARKEST = 0.3  # share of the table left out at its dark end, which drowns in a dark ground


def scale_table() -> np.ndarray:
    """The colours from the lowest value to the highest, u8 [256, 3]."""
    from matplotlib import colormaps  # half a second

    values: np.ndarray = colormaps[_NAME](np.linspace(_DARKEST, 1, 256))[:, :3]
    return np.round(255 * values).astype(np.uint8)


def scale_colors(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours of values, those beyond the ends in the colours of the ends: [...] -> u8 [..., 3].

    Raises:
        ValueError: the scale has no extent.
    """
    if not low < high:
        raise ValueError(f"a scale from {low} to {high}")
    place = (np.asarray(values, np.float64) - low) / (high - low)
    index = np.clip(np.round(255 * place), 0, 255).astype(np.int64)
    return scale_table()[index]


def scale_bar(low: float, high: float, unit: str, width: int = 300) -> np.ndarray:
    """The scale with the numbers at its ends, u8 [24, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    from core.engine.report.pictures import BACKGROUND, MARKER

    font = ImageFont.load_default(size=13)
    sheet = Image.new("RGB", (width, 24), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    left, right = f"{low:g}", f"{high:g} {unit}".strip()
    start = int(font.getlength(left)) + 8
    end = width - int(font.getlength(right)) - 8
    bar = np.repeat(scale_table()[np.linspace(0, 255, end - start).astype(int)][None], 12, 0)
    sheet.paste(Image.fromarray(bar), (start, 6))
    draw.text((0, 3), left, font=font, fill=MARKER)
    draw.text((end + 8, 3), right, font=font, fill=MARKER)
    return np.array(sheet)
