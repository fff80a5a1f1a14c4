"""Label spaces: class names, colours, and the map from the ids on disk to train ids.

Train id 0 is always "ignore". Those that come with the code are YAML files of ``core/labelspaces``; one's own has the
same keys. ``dataset.labels`` chooses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from core.errors import UserError
from core.label_file import Thing, read_label_file

__all__ = [
    "LABEL_SPACES",
    "NUSCENES",
    "PANDASET",
    "SEMANTICKITTI",
    "WAYMO",
    "LabelSpace",
    "Thing",
    "label_space",
]

_FOLDER = Path(__file__).parent / "labelspaces"


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
        file = read_label_file(path)
        return cls(
            name=path.stem,
            classes=file.classes,
            colors=file.colors,
            raw_to_train=file.mapping,
            train_to_raw=file.submit,
            vehicles=file.vehicles,
            things=file.things,
            movable=file.movable,
            format=file.format,
            default=file.default,
            file=None if path.parent == _FOLDER else path,
        )


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
WAYMO: LabelSpace

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
