"""Label spaces: class names, colours, and the map from the ids on disk to train ids.

Train id 0 is always "ignore". Maps follow the two official tools: ``semantic-kitti.yaml`` of semantic-kitti-api
(single-scan task) and the nuScenes-lidarseg challenge's 32 -> 16 table of nuscenes-devkit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.errors import UserError

__all__ = ["LABEL_SPACES", "NUSCENES", "PANDASET", "SEMANTICKITTI", "LabelSpace"]

_MAX_RAW = 65535  # raw ids are at most 16 bits wide in both formats


@dataclass(frozen=True)
class LabelSpace:
    """One vocabulary of classes.

    Attributes:
        name: short name, e.g. ``nuscenes``.
        classes: index = train id; ``classes[0]`` is "ignore".
        colors: u8 [C, 3] RGB.
        raw_to_train: id on disk -> train id; an id absent here is an error in the data.
        train_to_raw: id written into a submission, by train id.
    """

    name: str
    classes: tuple[str, ...]
    colors: np.ndarray = field(repr=False, compare=False)
    raw_to_train: Mapping[int, int] = field(repr=False)
    train_to_raw: tuple[int, ...] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Number of train ids, "ignore" included."""
        return len(self.classes)

    @cached_property
    def lut(self) -> np.ndarray:
        """i16 [max raw id + 2]: raw id -> train id, -1 where unknown; the last entry stands for anything larger."""
        table = np.full(max(self.raw_to_train) + 2, -1, np.int16)
        table[list(self.raw_to_train)] = list(self.raw_to_train.values())
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the class names and the raw -> train map; two models may share labels only if it agrees."""
        identity = [
            list(self.classes),
            sorted((int(k), int(v)) for k, v in self.raw_to_train.items()),
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def to_train(self, raw: np.ndarray, where: str | Path) -> np.ndarray:
        """Map ids on disk to train ids.

        Args:
            raw: unsigned integers [N].
            where: the file they come from, for the error.

        Returns:
            u8 [N] train ids.

        Raises:
            UserError: an id that the label space does not know, with its count.
        """
        train = self.lut[np.minimum(raw, len(self.lut) - 1)]
        unknown = train < 0
        if unknown.any():
            ids, counts = np.unique(raw[unknown], return_counts=True)
            listed = ", ".join(f"{i} ({n} points)" for i, n in zip(ids[:8], counts[:8]))
            more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
            raise UserError(
                f"label id {listed}{more} is not in the label space '{self.name}', "
                f"which knows {len(self.raw_to_train)} ids from {min(self.raw_to_train)} to {max(self.raw_to_train)}",
                where=str(where),
                cure="The file is damaged or belongs to another data set; check dataset.name and dataset.label_space, "
                "or download the labels again",
            )
        return train.astype(np.uint8)

    def to_raw(self, train: np.ndarray) -> np.ndarray:
        """Map train ids [N] to the ids a submission holds, u16 [N]."""
        return np.asarray(self.train_to_raw, np.uint16)[train]

    @classmethod
    def from_yaml(cls, path: str | Path) -> LabelSpace:
        """Read a label space for one's own data.

        The file holds ``classes`` (list; the first entry is "ignore"), ``map`` (id on disk -> train id) and, if wanted,
        ``colors`` (one [R, G, B] per class).

        Raises:
            UserError: the file is missing, or a key is missing or inconsistent.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(
                "this label space file does not exist",
                where=str(path),
                cure=f"Write one with 'classes' and 'map', or use a built-in: {', '.join(LABEL_SPACES)}",
            )
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"this is not valid YAML ({error})", where=str(path)) from error
        if not isinstance(content, dict) or not {"classes", "map"} <= set(content):
            raise UserError(
                "a label space needs the keys 'classes' (list) and 'map' (raw id: train id)",
                where=str(path),
            )
        classes, mapping = _checked(content["classes"], content["map"], path)
        colors = _checked_colors(content.get("colors"), len(classes), path)
        smallest = {train: raw for raw, train in sorted(mapping.items(), reverse=True)}
        return cls(
            path.stem,
            classes,
            colors,
            mapping,
            tuple(smallest.get(c, 0) for c in range(len(classes))),
        )


def _checked(classes: Any, mapping: Any, path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    if (
        not isinstance(classes, Sequence)
        or isinstance(classes, str)
        or not 2 <= len(classes) <= 256
    ):
        raise UserError(
            "'classes' must list 2 to 256 names, the first one 'ignore'", where=str(path)
        )
    if len(set(classes)) != len(classes):
        raise UserError("'classes' names a class twice", where=str(path))
    if not isinstance(mapping, Mapping) or not mapping:
        raise UserError("'map' must hold 'raw id: train id' lines", where=str(path))
    for raw, train in mapping.items():
        if not isinstance(raw, int) or not 0 <= raw <= _MAX_RAW:
            raise UserError(
                f"'map' has the raw id {raw!r}; expected an integer 0..{_MAX_RAW}", where=str(path)
            )
        if not isinstance(train, int) or not 0 <= train < len(classes):
            raise UserError(
                f"'map' sends raw id {raw} to {train!r}; expected a train id 0..{len(classes) - 1}",
                where=str(path),
            )
    return tuple(str(name) for name in classes), dict(mapping)


def _checked_colors(colors: Any, count: int, path: Path) -> np.ndarray:
    if colors is None:
        return _default_colors(count)
    try:
        array = np.asarray(colors, np.int64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"'colors' must hold [R, G, B] lists of integers ({error})", where=str(path)
        ) from error
    if array.shape != (count, 3) or array.min() < 0 or array.max() > 255:
        raise UserError(
            f"'colors' must hold {count} lists [R, G, B] of 0..255, one per class", where=str(path)
        )
    return array.astype(np.uint8)


def _default_colors(count: int) -> np.ndarray:
    """Black, then hues a golden angle apart, bright and less bright by turns."""
    hue = np.arange(count) * 0.618034 % 1.0
    value = np.where(np.arange(count) % 2, 1.0, 0.7)
    rgb = (
        np.clip(np.abs((hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
        * value[:, None]
    )
    rgb[0] = 0
    return np.round(rgb * 255).astype(np.uint8)


# train id, class, RGB, submitted raw id, raw ids. 252..259 are the moving ones. The official YAML holds BGR.
_SEMANTICKITTI = (
    ("ignore", (0, 0, 0), 0, (0, 1, 52, 99)),
    ("car", (100, 150, 245), 10, (10, 252)),
    ("bicycle", (100, 230, 245), 11, (11,)),
    ("motorcycle", (30, 60, 150), 15, (15,)),
    ("truck", (80, 30, 180), 18, (18, 258)),
    ("other-vehicle", (0, 0, 255), 20, (13, 16, 20, 256, 257, 259)),
    ("person", (255, 30, 30), 30, (30, 254)),
    ("bicyclist", (255, 40, 200), 31, (31, 253)),
    ("motorcyclist", (150, 30, 90), 32, (32, 255)),
    ("road", (255, 0, 255), 40, (40, 60)),
    ("parking", (255, 150, 255), 44, (44,)),
    ("sidewalk", (75, 0, 75), 48, (48,)),
    ("other-ground", (175, 0, 75), 49, (49,)),
    ("building", (255, 200, 0), 50, (50,)),
    ("fence", (255, 120, 50), 51, (51,)),
    ("vegetation", (0, 175, 0), 70, (70,)),
    ("trunk", (135, 60, 0), 71, (71,)),
    ("terrain", (150, 240, 80), 72, (72,)),
    ("pole", (255, 240, 150), 80, (80,)),
    ("traffic-sign", (255, 0, 0), 81, (81,)),
)

# The nuScenes-lidarseg server takes the challenge's own ids 1..16, so what is submitted is the train id.
_NUSCENES = (
    ("ignore", (0, 0, 0), 0, (0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31)),
    ("barrier", (112, 128, 144), 1, (9,)),
    ("bicycle", (220, 20, 60), 2, (14,)),
    ("bus", (255, 127, 80), 3, (15, 16)),
    ("car", (255, 158, 0), 4, (17,)),
    ("construction_vehicle", (233, 150, 70), 5, (18,)),
    ("motorcycle", (255, 61, 99), 6, (21,)),
    ("pedestrian", (0, 0, 230), 7, (2, 3, 4, 6)),
    ("traffic_cone", (47, 79, 79), 8, (12,)),
    ("trailer", (255, 140, 0), 9, (22,)),
    ("truck", (255, 99, 71), 10, (23,)),
    ("driveable_surface", (0, 207, 191), 11, (24,)),
    ("other_flat", (175, 0, 75), 12, (25,)),
    ("sidewalk", (75, 0, 75), 13, (26,)),
    ("terrain", (112, 180, 60), 14, (27,)),
    ("manmade", (222, 184, 135), 15, (28,)),
    ("vegetation", (0, 175, 0), 16, (30,)),
)

# PandaSet has no benchmark of its own: its 42 ids, joined to classes near those of nuScenes. Ground that is no road
# (6, 12) is one class; pickups count as trucks, as in nuScenes; what is on rails (27 to 29) is other-vehicle; smoke,
# exhaust, spray, reflections and animals are ignored.
_PANDASET = (
    ("ignore", (0, 0, 0), 1, (0, 1, 2, 3, 4, 32, 33)),
    ("car", (255, 158, 0), 13, (13,)),
    ("truck", (255, 99, 71), 15, (14, 15, 16)),
    ("bus", (255, 127, 80), 23, (23,)),
    ("other-vehicle", (233, 150, 70), 20, (17, 19, 20, 21, 22, 27, 28, 29)),
    ("motorcycle", (255, 61, 99), 18, (18, 25)),
    ("bicycle", (220, 20, 60), 26, (24, 26)),
    ("pedestrian", (0, 0, 230), 30, (30, 31)),
    ("road", (0, 207, 191), 7, (7, 8, 9, 10)),
    ("sidewalk", (75, 0, 75), 11, (11,)),
    ("other-ground", (175, 0, 75), 6, (6, 12)),
    ("vegetation", (0, 175, 0), 5, (5,)),
    ("building", (222, 184, 135), 41, (41,)),
    ("barrier", (112, 128, 144), 35, (35, 39)),
    ("cone", (47, 79, 79), 37, (34, 37)),
    ("sign", (255, 0, 0), 36, (36, 38)),
    ("other-static", (150, 120, 90), 42, (40, 42)),
)


def _built_in(
    name: str, rows: Sequence[tuple[str, tuple[int, int, int], int, tuple[int, ...]]]
) -> LabelSpace:
    return LabelSpace(
        name=name,
        classes=tuple(row[0] for row in rows),
        colors=np.array([row[1] for row in rows], np.uint8),
        raw_to_train={raw: train for train, row in enumerate(rows) for raw in row[3]},
        train_to_raw=tuple(row[2] for row in rows),
    )


SEMANTICKITTI = _built_in("semantickitti", _SEMANTICKITTI)
NUSCENES = _built_in("nuscenes", _NUSCENES)
PANDASET = _built_in("pandaset", _PANDASET)
LABEL_SPACES: dict[str, LabelSpace] = {
    space.name: space for space in (SEMANTICKITTI, NUSCENES, PANDASET)
}
