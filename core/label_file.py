"""The YAML file of a label space: each key read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config.explain import did_you_mean
from core.config.strict_yaml import read_yaml
from core.errors import UserError

__all__ = ["LabelFile", "Thing", "read_label_file"]

_KEYS = ("classes", "map", "default", "colors", "submit", "vehicles", "things", "movable", "format")
_MAX_RAW = 65535  # raw ids are at most 16 bits wide in all formats
# Names that mean a vehicle where a label space does not say which of its classes are.
_VEHICLES = (
    "car",
    "truck",
    "bus",
    "bicycle",
    "motorcycle",
    "bicyclist",
    "motorcyclist",
    "other-vehicle",
    "construction_vehicle",
    "trailer",
)


@dataclass(frozen=True)
class Thing:
    """A class whose points form instances.

    Attributes:
        min_points: what has fewer points is no instance. ground: classes that one may stand on.
    """

    min_points: int
    ground: tuple[str, ...]


@dataclass(frozen=True)
class LabelFile:
    """What the file holds, defaults filled in; see :meth:`core.labels.LabelSpace.from_yaml`.

    Attributes:
        colors: u8 [C, 3]. mapping: id on disk -> train id. submit: [C], id on disk of each train id.
        vehicles, movable: names of classes. things: by name. default: train id of all other ids, None = an error.
    """

    classes: tuple[str, ...]
    colors: np.ndarray
    mapping: dict[int, int]
    submit: tuple[int, ...]
    vehicles: tuple[str, ...]
    things: dict[str, Thing]
    movable: tuple[str, ...]
    format: str
    default: int | None


def read_label_file(path: Path) -> LabelFile:
    """Read the file.

    Raises:
        UserError: it is damaged, or a key is missing, unknown or inconsistent.
    """
    content = _checked_keys(read_yaml(path), path)
    classes = _checked_classes(content["classes"], path)
    mapping = _checked_map(content["map"], len(classes), path)
    things = _checked_things(content.get("things"), classes, path)
    vehicles = [name for name in classes if name in _VEHICLES]
    return LabelFile(
        classes=classes,
        colors=_checked_colors(content.get("colors"), len(classes), path),
        mapping=mapping,
        submit=_checked_submit(content.get("submit"), mapping, len(classes), path),
        vehicles=_checked_names(content, "vehicles", vehicles, classes, path),
        things=things,
        movable=_checked_names(content, "movable", list(things), classes, path),
        format=_checked_format(content.get("format", "npy"), path),
        default=_checked_default(content.get("default"), len(classes), path),
    )


def _checked_keys(content: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, dict) or not {"classes", "map"} <= set(content):
        raise UserError(
            "a label space needs the keys 'classes' (list) and 'map' (raw id: train id)",
            where=str(path),
        )
    for key in content:
        if key not in _KEYS:
            raise UserError(
                f"a label space has no key '{key}'",
                where=str(path),
                cure=did_you_mean(key, _KEYS, "Keys"),
            )
    return content


def _checked_classes(classes: Any, path: Path) -> tuple[str, ...]:
    listed = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not listed or not 2 <= len(classes) <= 256:
        raise UserError(
            "'classes' must list 2 to 256 names, the first one 'ignore'", where=str(path)
        )
    for name in classes:
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(
                f"'classes' has {name!r}, which is no name",
                where=str(path),
                cure="Quote a name that YAML takes for something else",
            )
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names):
        raise UserError("'classes' names a class twice", where=str(path))
    return names


def _checked_map(mapping: Any, count: int, path: Path) -> dict[int, int]:
    if not isinstance(mapping, Mapping) or not mapping:
        raise UserError("'map' must hold 'raw id: train id' lines", where=str(path))
    for raw, train in mapping.items():
        if not _is_raw(raw):
            raise UserError(
                f"'map' has the raw id {raw!r}; expected an integer 0..{_MAX_RAW}, without leading zeros",
                where=str(path),
            )
        if type(train) is not int or not 0 <= train < count:
            raise UserError(
                f"'map' sends raw id {raw} to {train!r}; expected a train id 0..{count - 1}",
                where=str(path),
            )
    return dict(mapping)


def _checked_default(default: Any, count: int, path: Path) -> int | None:
    if default is None:
        return None
    if not isinstance(default, int) or isinstance(default, bool) or not 0 <= default < count:
        raise UserError(
            f"'default' is {default!r}; expected a train id 0..{count - 1} (0 = ignore)",
            where=str(path),
        )
    return default


def _is_raw(raw: Any) -> bool:
    return type(raw) is int and 0 <= raw <= _MAX_RAW  # True is an int, too


def _checked_submit(
    submit: Any, mapping: Mapping[int, int], count: int, path: Path
) -> tuple[int, ...]:
    """The raw id of each class that a submission holds; by default the smallest of the class, 0 if it has none."""
    if submit is None:
        smallest = {train: raw for raw, train in sorted(mapping.items(), reverse=True)}
        return tuple(smallest.get(train, 0) for train in range(count))
    if not isinstance(submit, list) or len(submit) != count or not all(map(_is_raw, submit)):
        raise UserError(
            f"'submit' must list {count} raw ids 0..{_MAX_RAW}, one per class", where=str(path)
        )
    return tuple(submit)


def _checked_names(
    content: Mapping[str, Any], key: str, default: Sequence[str], classes: Sequence[str], path: Path
) -> tuple[str, ...]:
    names = content.get(key)
    if names is None:
        return tuple(default)
    if not isinstance(names, list):
        raise UserError(f"'{key}' must list names of classes", where=str(path))
    _check_names(names, key, classes, path)
    return tuple(names)


def _checked_things(things: Any, classes: Sequence[str], path: Path) -> dict[str, Thing]:
    if things is None:
        return {}
    if not isinstance(things, Mapping):
        raise UserError("'things' must hold a line per class", where=str(path))
    _check_names(things, "things", classes, path)
    checked = {}
    for name, thing in things.items():
        whole = isinstance(thing, Mapping) and set(thing) == {"min_points", "ground"}
        if not whole or not _is_raw(thing["min_points"]) or thing["min_points"] < 1:
            raise UserError(
                f"'things.{name}' is {thing!r}; expected {{min_points: 10, ground: [road]}}",
                where=str(path),
            )
        if not isinstance(thing["ground"], list) or not thing["ground"]:
            raise UserError(f"'things.{name}.ground' must list classes", where=str(path))
        _check_names(thing["ground"], f"things.{name}.ground", classes, path)
        checked[name] = Thing(thing["min_points"], tuple(thing["ground"]))
    return checked


def _check_names(names: Any, key: str, classes: Sequence[str], path: Path) -> None:
    for name in names:
        if name not in classes[1:]:
            raise UserError(
                f"'{key}' names '{name}', which is no class of this label space",
                where=str(path),
                cure=did_you_mean(name, classes[1:], "Its classes"),
            )


def _checked_format(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise UserError(f"'format' is {name!r}; expected a name, e.g. npy", where=str(path))
    return name


def _checked_colors(colors: Any, count: int, path: Path) -> np.ndarray:
    if colors is None:
        return _default_colors(count)
    right = isinstance(colors, list) and len(colors) == count
    if not right or not all(_is_color(color) for color in colors):
        raise UserError(
            f"'colors' must hold {count} lists [R, G, B] of integers 0..255, one per class",
            where=str(path),
        )
    return np.array(colors, np.uint8)


def _is_color(color: Any) -> bool:
    if not isinstance(color, list) or len(color) != 3:
        return False
    return all(_is_raw(value) and value <= 255 for value in color)


def _default_colors(count: int) -> np.ndarray:
    """Black, then hues a golden angle apart, bright and less bright by turns."""
    number = np.arange(count)
    hue = number * 0.618034 % 1.0
    value = np.where(number % 2, 1.0, 0.7)
    thirds = np.array([0, 2 / 3, 1 / 3])
    distance = np.abs((hue[:, None] + thirds) % 1 * 6 - 3)
    rgb = np.clip(distance - 1, 0, 1) * value[:, None]
    rgb[0] = 0
    return np.round(rgb * 255).astype(np.uint8)
