"""Pictures that follow one another as one file, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

__all__ = ["ANIMATIONS", "Animation", "encode_animation"]

Animation = Literal["webp", "gif", "png"]
ANIMATIONS: tuple[Animation, ...] = get_args(Animation)
_QUALITY = 80  # of WebP, of 100


def encode_animation(frames: Sequence[np.ndarray], kind: Animation, rate: float) -> bytes:
    """An endless film of u8 RGB frames of one size: WebP, GIF (256 colours) or animated PNG (lossless).

    Args:
        rate: frames per second.

    Raises:
        ValueError: there is no frame, they differ in size, or the rate is not positive.
    """
    from PIL import Image

    if not frames or len({frame.shape for frame in frames}) > 1:
        raise ValueError("an animation needs frames, all of one size")
    if not rate > 0:
        raise ValueError(f"{rate} frames per second")
    pictures = [Image.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    options = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    duration = max(1, round(1000 / rate))  # ms
    if kind == "webp":
        pictures[0].save(stream, "WEBP", quality=_QUALITY, method=3, duration=duration, **options)
    else:
        pictures[0].save(stream, kind.upper(), duration=duration, **options)
    return stream.getvalue()
