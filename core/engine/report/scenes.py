"""Scenes of the report: one scan from above as truth, prediction and errors, and as its cameras see it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from loguru import logger

from core.contracts import IGNORE
from core.engine.report.pictures import (
    birds_eye,
    camera_overlay,
    encode_photo,
    encode_png,
    error_colors,
    legible,
)
from core.errors import counted

__all__ = ["CameraPicture", "ScenePicture", "legend", "scene_blocks", "swatch", "thousands"]

EXTENT = (20.0, 50.0)  # m from the sensor to the edge of a bird's-eye picture: least, most
INSIDE = 0.92  # share of the points a picture should hold
CAMERA_WIDTH = 560  # px

CameraPicture = tuple[
    str, np.ndarray, np.ndarray, np.ndarray
]  # name, image u8 [H, W, 3], uv [N, 2] px, visible [N]


@dataclass(frozen=True)
class ScenePicture:
    """One scan to be drawn.

    Attributes:
        token: the scan's name.
        points: f32 [N, 3] m, LiDAR frame.
        truth, prediction: u8 [N] train ids.
        cameras: (name, image u8 [H, W, 3], uv f32 [N, 2] px of that image, visible bool [N]).
        others: further predictions to show beside it, e.g. the teacher's: (name, u8 [N]).
    """

    token: str
    points: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    cameras: Sequence[CameraPicture] = ()
    others: Sequence[tuple[str, np.ndarray]] = ()

    def __post_init__(self) -> None:
        count = len(self.points)
        rows = {"truth": self.truth, "prediction": self.prediction, **dict(self.others)}
        rows |= {f"uv of {name}": uv for name, _, uv, _ in self.cameras}
        for name, values in rows.items():
            if len(values) != count:
                raise ValueError(
                    f"scene {self.token} has {count} points, but {name} has {len(values)}"
                )


def legend(classes: Sequence[str], colors: np.ndarray) -> str:
    """Coloured squares with class names, "ignore" last.

    Args:
        colors: u8 [C, 3].
    """
    order = [*range(IGNORE + 1, len(classes)), IGNORE]
    entries = [f"<span>{swatch(colors[c])}{escape(classes[c])}</span>" for c in order]
    return f'<div class="legend">{"".join(entries)}</div>'


def thousands(count: float) -> str:
    """A whole number in groups of three, kept on one line."""
    return f"{count:,.0f}".replace(",", "\u202f")


def swatch(color: np.ndarray) -> str:
    """One coloured square."""
    return f'<i class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'


def scene_blocks(scenes: Sequence[ScenePicture], colors: np.ndarray, budget: int) -> str:
    """All scenes, the first one open, the others folded.

    Args:
        colors: u8 [C, 3] of the classes.
        budget: bytes the result may take; the scenes that do not fit are left out, and a line says how many.
    """
    palette = legible(colors)
    blocks: list[str] = []
    for scene in scenes:
        views = _from_above(scene, palette) + [
            _through(camera, scene, palette) for camera in scene.cameras
        ]
        block = f"<details{'' if blocks else ' open'}><summary>{_caption(scene)}</summary>{_grid(views)}</details>"
        if len(block) > budget:
            left_out = len(scenes) - len(blocks)
            logger.info(
                "{} of {} scenes are left out of the report to keep it small", left_out, len(scenes)
            )
            blocks.append(
                f'<p class="soft">Left out to keep this page small: {counted(left_out, "more scan")}.</p>'
            )
            break
        budget -= len(block)
        blocks.append(block)
    return "".join(blocks)


def _caption(scene: ScenePicture) -> str:
    labelled = scene.truth != IGNORE
    count = int(labelled.sum())
    right = (
        f"{100 * (scene.prediction == scene.truth)[labelled].mean():.1f} % right of "
        if count
        else ""
    )
    return f'<span class="token">{escape(scene.token)}</span> <small>{right}{thousands(count)} labelled points</small>'


def _from_above(scene: ScenePicture, palette: np.ndarray) -> list[tuple[str, str]]:
    extent = _extent(scene.points)

    def draw(colors: np.ndarray, priority: np.ndarray | None = None) -> str:
        return _inline(
            encode_png(birds_eye(scene.points, colors, extent, priority=priority)), "png"
        )

    wrong = (scene.prediction != scene.truth) & (scene.truth != IGNORE)
    return [
        ("Truth", draw(palette[scene.truth])),
        *((name, draw(palette[prediction])) for name, prediction in scene.others),
        ("Prediction", draw(palette[scene.prediction])),
        ("Errors, in red", draw(error_colors(scene.truth, scene.prediction), wrong)),
    ]


def _extent(points: np.ndarray) -> float:
    """A multiple of 5 m within ``EXTENT``, so that a sparse sensor's scan fills its picture."""
    reach = np.abs(points[:, :2]).max(1)
    reach = reach[np.isfinite(reach)]
    wanted = np.quantile(reach, INSIDE) if len(reach) else 0.0
    return float(np.clip(np.ceil(wanted / 5) * 5, *EXTENT))


def _through(camera: CameraPicture, scene: ScenePicture, palette: np.ndarray) -> tuple[str, str]:
    name, image, uv, visible = camera
    overlay = camera_overlay(image, uv, visible, palette[scene.prediction], CAMERA_WIDTH)
    return f"{name}, prediction", _inline(encode_photo(overlay), "webp")


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _grid(views: Sequence[tuple[str, str]]) -> str:
    figures = (
        f'<figure><img alt="{escape(name)}" src="{source}"><figcaption>{escape(name)}</figcaption></figure>'
        for name, source in views
    )
    return f'<div class="views">{"".join(figures)}</div>'
