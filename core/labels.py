"""Label spaces: class names, colours, and the map from the ids on disk to train ids.

Train id 0 is always "ignore". Those that come with the code are YAML files of ``core/labelspaces``; one's own has the
same keys. ``dataset.labels`` chooses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from core.config.explain import did_you_mean
from core.config.strict_yaml import read_yaml
from core.errors import UserError

__all__ = [
    "LABEL_SPACES",
    "NUSCENES",
    "PANDASET",
    "SEMANTICKITTI",
    "LabelSpace",
    "Thing",
    "label_space",
]

_FOLDER = Path(__file__).parent / "labelspaces"
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
class LabelSpace:
    """One vocabulary of classes.

    Attributes:
        name: short name, e.g. ``nuscenes``.
        classes: index = train id; ``classes[0]`` is "ignore".
        colors: u8 [C, 3] RGB.
        raw_to_train: id on disk -> train id; an id absent here is an error in the data where there is no ``default``.
        default: train id of every other id.
        file: where it was read, for messages; None for one that comes with the code.
        train_to_raw: id written into a submission, by train id.
        vehicles: names of the classes that are vehicles, as corruptions tell them.
        things: by class name, for the paste augmentation.
        movable: names of the classes whose objects may be elsewhere a moment later; the others stand.
        format: kind of file that these ids are written in, see :mod:`core.datasets.benchmark`.
    """

    name: str
    classes: tuple[str, ...]
    colors: np.ndarray = field(repr=False, compare=False)
    raw_to_train: Mapping[int, int] = field(repr=False)
    train_to_raw: tuple[int, ...] = field(repr=False)
    vehicles: tuple[str, ...] = field(default=(), repr=False, compare=False)
    things: Mapping[str, Thing] = field(default_factory=dict, repr=False, compare=False)
    movable: tuple[str, ...] = field(default=(), repr=False, compare=False)
    format: str = field(default="npy", repr=False, compare=False)
    default: int | None = field(default=None, repr=False)
    file: Path | None = field(default=None, repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """Number of train ids, "ignore" included."""
        return len(self.classes)

    @cached_property
    def lut(self) -> np.ndarray:
        """i16 [max raw id + 2]: raw id -> train id, -1 where unknown; the last entry stands for anything larger."""
        other = -1 if self.default is None else self.default
        table = np.full(max(self.raw_to_train) + 2, other, np.int16)
        table[list(self.raw_to_train)] = list(self.raw_to_train.values())
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the class names and the raw -> train map; two models may share labels only if it agrees."""
        identity: list[Any] = [
            list(self.classes),
            sorted((int(k), int(v)) for k, v in self.raw_to_train.items()),
        ]
        if self.default is not None:
            identity.append(self.default)
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
                cure=self._cure(),
            )
        return train.astype(np.uint8)

    def _cure(self) -> str:
        """What to do about an id that is not listed."""
        if self.file is None:
            return (
                "The file is damaged or belongs to another data set; check dataset.name and dataset.labels, "
                "or download the labels again"
            )
        return f"Add it to 'map:' in {self.file} (0 = ignore), or write 'default: 0' there for all others"

    def to_raw(self, train: np.ndarray) -> np.ndarray:
        """Map train ids [N] to the ids a submission holds, u16 [N]."""
        return np.asarray(self.train_to_raw, np.uint16)[train]

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """A built-in space travels to workers by its name."""
        if LABEL_SPACES.get(self.name) is self:
            return _read_built_in, (self.name,)
        return super().__reduce_ex__(protocol)

    @classmethod
    def from_yaml(cls, path: str | Path) -> LabelSpace:
        """Read a label space.

        The file holds ``classes`` (list; the first entry is "ignore") and ``map`` (id on disk -> train id); if wanted
        ``default`` (train id of all other ids; without it they are an error), ``colors`` (one [R, G, B] per class),
        ``submit`` (the id a submission holds, per class; by default the smallest id of the class), ``vehicles`` (class
        names), ``things`` (class name -> ``min_points``, ``ground``), ``movable`` (class names; by default the things)
        and ``format`` (of predicted files: semantickitti, nuscenes or npy).

        Raises:
            UserError: the file is missing, or a key is missing, unknown or inconsistent.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(
                "this label space file does not exist",
                where=str(path),
                cure=f"Write one with 'classes' and 'map', or use a built-in: {', '.join(LABEL_SPACES)}",
            )
        content = _checked_keys(read_yaml(path), path)
        classes = _checked_classes(content["classes"], path)
        mapping = _checked_map(content["map"], len(classes), path)
        things = _checked_things(content.get("things"), classes, path)
        vehicles = [name for name in classes if name in _VEHICLES]
        return cls(
            name=path.stem,
            classes=classes,
            colors=_checked_colors(content.get("colors"), len(classes), path),
            raw_to_train=mapping,
            train_to_raw=_checked_submit(content.get("submit"), mapping, len(classes), path),
            vehicles=_checked_names(content, "vehicles", vehicles, classes, path),
            things=things,
            movable=_checked_names(content, "movable", list(things), classes, path),
            format=_checked_format(content.get("format", "npy"), path),
            default=_checked_default(content.get("default"), len(classes), path),
            file=None if path.parent == _FOLDER else path,
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


class _BuiltIn(Mapping[str, LabelSpace]):
    """The label spaces of ``core/labelspaces`` by file name; a file is read when it is asked for."""

    def __getitem__(self, name: str) -> LabelSpace:
        if name not in self._names:
            raise KeyError(name)
        return _read_built_in(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@cache
def _read_built_in(name: str) -> LabelSpace:
    return LabelSpace.from_yaml(_FOLDER / f"{name}.yaml")


LABEL_SPACES: Mapping[str, LabelSpace] = _BuiltIn()
SEMANTICKITTI: LabelSpace
NUSCENES: LabelSpace
PANDASET: LabelSpace

if not TYPE_CHECKING:

    def __getattr__(name: str) -> LabelSpace:
        """``SEMANTICKITTI`` and the like, read when they are asked for."""
        if name.lower() in LABEL_SPACES and name.isupper():
            return LABEL_SPACES[name.lower()]
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def label_space(name: str) -> LabelSpace:
    """The label space of ``core/labelspaces`` with this name, or the one in this YAML file.

    Raises:
        UserError: there is neither, or the file is wrong.
    """
    if name in LABEL_SPACES:
        return LABEL_SPACES[name]
    return LabelSpace.from_yaml(name)
