"""The views of the similarity page as pictures for papers: colours of features, and what is like a point or a pixel.

Similarities are those of the features themselves; nothing is packed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.engine.report.color_scale import scale_bar, scale_colors
from core.engine.report.embedding import EmbeddedCamera, EmbeddedScan, pca_colors
from core.engine.report.pictures import BACKGROUND, MARKER, birds_eye, side_by_side
from core.errors import UserError

__all__ = ["Query", "chosen_query", "colors_picture", "query_pictures"]

_SIZE = 720  # px of the view from above
_INSIDE = 0.92  # share of the points that it holds
_EXTENTS = (15.0, 60.0)  # m from the sensor to its edge: least, most
_OPACITY = 0.65  # of a map over an image
_RANGE = (0.01, 0.999)  # quantiles of similarities between which colours change
_RING = (80, 255, 240)


@dataclass(frozen=True)
class Query:
    """A point, and the pixel of a camera that it falls on.

    Attributes:
        point: row of the scan's points. camera: its number. place: (x, y), in shares of width and height.
    """

    point: int
    camera: int
    place: tuple[float, float]


def chosen_query(scan: EmbeddedScan, point: int | None) -> Query:
    """The query of a point that some camera sees; None = the point nearest to the middle of the first image with any.

    Raises:
        UserError: no camera sees the point, or any point.
    """
    for number, camera in enumerate(scan.cameras):
        if point is None and len(camera.seen):
            away = np.linalg.norm(camera.places - np.array([0.5, 0.6]), axis=1)
            return _query(camera, number, int(away.argmin()))
        rows = np.flatnonzero(camera.seen == point)
        if len(rows):
            return _query(camera, number, int(rows[0]))
    if point is None:
        raise UserError(f"no camera sees a point of scan {scan.token}", where="dataset.cameras")
    raise UserError(
        f"no camera sees point {point} of {len(scan.points)}",
        where=f"--point {point}",
        cure="Leave it out, or take the number of a point that the page shows in an image",
    )


def _query(camera: EmbeddedCamera, number: int, row: int) -> Query:
    x, y = camera.places[row]
    return Query(int(camera.seen[row]), number, (float(x), float(y)))


def colors_picture(scan: EmbeddedScan, note: str) -> np.ndarray:
    """Points and pixels in the colours of their features, in one basis; u8 RGB."""
    of_points, of_pixels, explained = pca_colors(scan.features, scan.pixels)
    told = ", ".join(f"{100 * share:.0f} %" for share in explained)
    told = f"{note}. Three main components of both, in one basis: {told} of the variance."
    return _sheet(scan, of_points, of_pixels, told)


def query_pictures(scan: EmbeddedScan, query: Query, note: str) -> dict[str, np.ndarray]:
    """What is like a point, and what is like the pixel that it falls on: u8 RGB by name, ``point`` and ``pixel``."""
    camera = scan.cameras[query.camera]
    first = sum(len(before.features) for before in scan.cameras[: query.camera])
    column, row = (int(share * size) for share, size in zip(query.place, camera.size))
    pixel = scan.pixels[first + camera.cell(column, row)]
    asked = {
        "point": (scan.features[query.point], f"point {query.point}"),
        "pixel": (pixel, f"pixel {column}, {row} of {camera.name}"),
    }
    pictures = {}
    for name, (feature, called) in asked.items():
        of_points, of_pixels = scan.features @ feature, scan.pixels @ feature
        ends = [_ends(of_points), _ends(of_pixels)]
        sheet = _sheet(
            scan,
            scale_colors(of_points, *ends[0]),
            scale_colors(of_pixels, *ends[1]),
            f"{note}. Cosine similarity to {called}, ringed.",
            query,
            of_points,
        )
        pictures[name] = np.concatenate([sheet, _bars(ends, sheet.shape[1])])
    return pictures


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Between which similarities the colours of points, or of pixels, change."""
    low, high = np.quantile(values, _RANGE)
    return float(low), max(float(high), float(low) + 1e-3)


def _bars(ends: Sequence[tuple[float, float]], width: int) -> np.ndarray:
    """The scales of points and of pixels, each under its part of the sheet; u8 [36, width, 3]."""
    sheet = np.full((36, width, 3), BACKGROUND, np.uint8)
    for left, name, (low, high) in zip((12, _SIZE + 24), ("points", "images"), ends):
        bar = scale_bar(round(low, 3), round(high, 3), f"similarity of {name}", 480)
        part = bar[:, : max(width - left, 0)]
        sheet[: len(part), left : left + part.shape[1]] = part
    return sheet


def _sheet(
    scan: EmbeddedScan,
    of_points: np.ndarray,
    of_pixels: np.ndarray,
    note: str,
    query: Query | None = None,
    priority: np.ndarray | None = None,
) -> np.ndarray:
    """Points from above beside all images, each feature in its colour."""
    extent = extent_of(scan.points)
    cloud = birds_eye(scan.points, of_points, extent, _SIZE, priority=priority)
    if query is not None:
        x, y = scan.points[query.point, :2]
        place = ((x / extent + 1) / 2 * _SIZE, (1 - y / extent) / 2 * _SIZE)
        cloud = _ringed(cloud, place)
    panels = [
        (f"points, {2 * extent:g} m across", cloud),
        ("images", _images(scan, of_pixels, query)),
    ]
    return side_by_side(panels, (), note)


def extent_of(points: np.ndarray) -> float:
    """M from the sensor to the edge of a square that holds most points, a multiple of 5."""
    reach = np.quantile(np.abs(points[:, :2]).max(1), _INSIDE) if len(points) else 0.0
    return float(np.clip(np.ceil(reach / 5) * 5, *_EXTENTS))


def _images(scan: EmbeddedScan, colors: np.ndarray, query: Query | None) -> np.ndarray:
    """All cameras' images under their colours, in two columns (one of a single camera), as high as the cloud."""
    columns = 1 if len(scan.cameras) == 1 else 2
    rows = -(-len(scan.cameras) // columns)
    ratio = max(camera.size[0] / camera.size[1] for camera in scan.cameras)
    height = min(_SIZE // rows, int(_SIZE / ratio) if columns == 1 else _SIZE)
    width = int(height * ratio)
    sheet = np.full((_SIZE, columns * (width + 4) - 4, 3), BACKGROUND, np.uint8)
    first = 0
    for number, camera in enumerate(scan.cameras):
        size = len(camera.features)
        image = _covered(camera, colors[first : first + size], (width, height - 4))
        first += size
        if query is not None and query.camera == number:
            image = _ringed(image, (query.place[0] * width, query.place[1] * (height - 4)))
        image = _named(image, camera.name)
        top, left = number // columns * height, number % columns * (width + 4)
        sheet[top : top + height - 4, left : left + width] = image
    return sheet


def _covered(camera: EmbeddedCamera, colors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A camera's image, grey, under the colours of its grid; u8 [height, width, 3]."""
    from PIL import Image

    grey = Image.fromarray(camera.picture).convert("L").convert("RGB")
    photo = np.asarray(grey.resize(size, Image.Resampling.LANCZOS), np.float32)
    across, down = camera.grid
    cells = Image.fromarray(colors.reshape(down, across, 3))
    above = np.asarray(cells.resize(size, Image.Resampling.BILINEAR), np.float32)
    return (photo * (1 - _OPACITY) + above * _OPACITY).astype(np.uint8)


def _ringed(picture: np.ndarray, place: tuple[float, float]) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    x, y = place
    draw.ellipse([x - 10, y - 10, x + 10, y + 10], outline=(0, 0, 0), width=5)
    draw.ellipse([x - 9, y - 9, x + 9, y + 9], outline=_RING, width=3)
    return np.array(image)


def _named(picture: np.ndarray, name: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    draw.rectangle([0, 0, font.getlength(name) + 10, 19], fill=BACKGROUND)
    draw.text((5, 2), name, font=font, fill=MARKER)
    return np.array(image)
