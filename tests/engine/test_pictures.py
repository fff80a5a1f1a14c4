"""Pixels of small hand-made scenes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from core.engine.report.pictures import (
    BACKGROUND,
    CORRECT,
    IGNORED,
    WRONG,
    birds_eye,
    camera_overlay,
    class_palette,
    encode_photo,
    encode_png,
    error_colors,
    legible,
    side_by_side,
)
from core.labels import NUSCENES, SEMANTICKITTI

RED, BLUE = (255, 0, 0), (0, 0, 255)


def where(image: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((image == color).all(2))


def scene(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_birds_eye_puts_x_right_and_y_up() -> None:
    # 100 px over 100 m: one pixel per metre; a dot of 4 px around column 50 + 10, row 50 - 20
    image = birds_eye(scene((10.5, 20.5, 0)), np.array([RED], np.uint8), extent=50, size=100)
    rows, columns = where(image, RED)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 31, 59, 62)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_birds_eye_higher_points_cover_lower_ones(order: tuple[int, int]) -> None:
    points = scene((10, 10, -1), (10, 10, 2))[list(order)]
    colors = np.array([RED, BLUE], np.uint8)[list(order)]
    image = birds_eye(points, colors, size=100)
    assert len(where(image, RED)[0]) == 0 and len(where(image, BLUE)[0]) == 16
    image = birds_eye(points, colors, size=100, priority=(colors == RED).all(1))
    assert len(where(image, RED)[0]) == 16 and len(where(image, BLUE)[0]) == 0


def test_birds_eye_leaves_out_what_is_outside_or_not_finite() -> None:
    points = scene((50.5, 0, 0), (0, -51, 0), (np.nan, 1, 0), (np.inf, 0, 0))
    image = birds_eye(points, np.array([RED] * 4, np.uint8), extent=50, size=100)
    np.testing.assert_array_equal(
        image, birds_eye(scene().reshape(0, 3), np.zeros((0, 3), np.uint8), 50, 100)
    )


def test_dots_shrink_with_density() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (60_000, 3)).astype(np.float32)
    image = birds_eye(points, np.full((60_000, 3), 255, np.uint8), size=200)
    # one pixel each: 60 000 balls in 40 000 boxes leave exp(-1.5) of them empty
    assert where(image, BACKGROUND)[0].size / 40_000 == pytest.approx(np.exp(-1.5), abs=0.02)


def test_error_colors() -> None:
    colors = error_colors(np.array([1, 1, 0, 2]), np.array([1, 2, 2, 0]))
    assert [tuple(c) for c in colors.tolist()] == [CORRECT, WRONG, IGNORED, WRONG]


def test_camera_overlay_paints_visible_points_in_the_resized_image() -> None:
    image = np.full((200, 800, 3), 100, np.uint8)
    uv = np.array([[400.0, 100.0], [40.0, 40.0]], np.float32)
    overlay = camera_overlay(
        image, uv, np.array([True, False]), np.array([RED, BLUE], np.uint8), width=400
    )
    assert overlay.shape == (100, 400, 3)
    rows, columns = where(overlay, RED)
    assert 50 in rows and 200 in columns and np.ptp(rows) < 5 and np.ptp(columns) < 5
    assert where(overlay, (75, 75, 75))[0].size == 100 * 400 - len(
        rows
    )  # the photo, darkened; nothing blue
    assert camera_overlay(
        image, uv, np.array([False, False]), np.zeros((2, 3), np.uint8), 5000
    ).shape == (200, 800, 3)


def test_mismatched_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 points but 1 colours"):
        birds_eye(scene((0, 0, 0), (1, 1, 1)), np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match="expected one per point"):
        camera_overlay(
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((2, 2)),
            np.zeros(3, bool),
            np.zeros((2, 3), np.uint8),
        )


@pytest.mark.parametrize("colors", [5, 1000])
def test_png_is_lossless(colors: int) -> None:
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (colors, 3), np.uint8)
    image = palette[rng.integers(0, colors, (60, 50))]
    decoded = Image.open(io.BytesIO(encode_png(image)))
    assert decoded.mode == ("P" if colors <= 256 else "RGB")
    np.testing.assert_array_equal(np.array(decoded.convert("RGB")), image)


def test_photo_is_close_to_the_original() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(ramp, (48, 1))] * 3, 2)
    decoded = np.array(Image.open(io.BytesIO(encode_photo(image))).convert("RGB"))
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).mean() < 4


@pytest.mark.parametrize("colors", [NUSCENES.colors, SEMANTICKITTI.colors, class_palette(40)])
def test_legible_colors_stand_out_from_the_background(colors: np.ndarray) -> None:
    seen = legible(colors)
    assert seen.dtype == np.uint8 and tuple(seen[0]) == IGNORED
    luminance = seen[1:] @ np.array([0.2126, 0.7152, 0.0722])
    assert luminance.min() > 59
    assert len(np.unique(seen, axis=0)) == len(colors)


def test_side_by_side_holds_every_panel_and_legend_color() -> None:
    panels = [
        ("Truth", np.full((40, 150, 3), 90, np.uint8)),
        ("Prediction", np.full((40, 150, 3), 91, np.uint8)),
    ]
    sheet = side_by_side(panels, [("car", RED), ("road", BLUE)])
    assert sheet.shape[1] == 2 * 150 + 3 * 12
    for value in (90, 91):
        assert len(where(sheet, (value,) * 3)[0]) >= 40 * 150
    for color in (RED, BLUE):
        assert len(where(sheet, color)[0]) == 14 * 14
