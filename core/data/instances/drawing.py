"""Which objects a paste augmentation draws, whatever place it finds for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, field_validator

from core.contracts import Scan, Sensor
from core.data.instances.database import Database
from core.data.instances.tables import thing_rules
from core.data.paste_config import PasteAugmentation, PasteSection
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["DrawnPaste", "ObjectPaster", "class_weights", "unused_numbers"]


class DrawnPaste(PasteSection):
    """What the ``data.paste:`` sections have in common that draw objects by class."""

    weights: Literal["frequency", "sqrt", "uniform"] | dict[str, float] = Field(
        "frequency",
        description='chance of a class: "frequency" = its number of instances in the database, "sqrt" = the '
        'root of that, "uniform", or numbers by class name (a class not named is never drawn)',
    )
    sensor: tuple[float, float, float] | None = Field(
        None,
        description="m, the scanner in the scan's frame, about which objects are turned and from which they "
        "cast shadows; null = the data set's own (dataset.sensor)",
    )

    @field_validator("weights")
    @classmethod
    def _finite(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and any(not 0 <= n < float("inf") for n in value.values()):
            raise ValueError("numbers here are finite and not negative")
        return value

    def sensor_of(self, scan: Scan) -> Sensor:
        """The scanner that objects are turned about."""
        if self.sensor is None:
            return scan.sensor
        return replace(scan.sensor, origin=self.sensor)


ConfigT = TypeVar("ConfigT", bound=DrawnPaste)


class ObjectPaster(PasteAugmentation, Generic[ConfigT]):
    """Draws a class by weight and an instance of it evenly; a subclass finds the places.

    Attributes:
        database: where objects come from. labels: the scans' label space. rules: of the thing classes, by train id.
        classes: train ids that can be drawn; weights: f64, their chances. rows: instances of each in the database.
        is_thing: bool [256], by train id.
    """

    def __init__(self, config: ConfigT, labels: LabelSpace) -> None:
        """Open the database.

        Raises:
            UserError: the database is missing, damaged, of another label space, or holds nothing that may be pasted.
        """
        self.config, self.labels, self.database = config, labels, Database(config.database)
        if self.database.fingerprint != labels.fingerprint:
            raise UserError(
                f"the database has the classes of '{self.database.meta['labels']['name']}', the scans those of "
                f"'{labels.name}'",
                where=str(config.database),
                cure="Set data.paste.database to one that was written for this data set",
            )
        self.rules = thing_rules(labels, config)
        rows = {}
        index = self.database.index
        for c, rule in self.rules.items():
            rows[c] = np.flatnonzero((index["cls"] == c) & (index["count"] >= rule.min_points))
        counts = {labels.classes[c]: len(own) for c, own in rows.items()}
        chances = class_weights(config.weights, counts)
        drawn = {c: chances[labels.classes[c]] for c in rows}
        drawn = {c: chance for c, chance in drawn.items() if chance > 0}
        if not drawn:
            raise UserError(
                "no instance can be drawn from this database", where=str(config.database)
            )
        self.rows = {c: rows[c] for c in drawn}
        self.classes = np.array(list(drawn))
        self.weights = np.array(list(drawn.values())) / sum(drawn.values())
        self.is_thing = np.zeros(256, bool)
        self.is_thing[list(self.rules)] = True

    def __reduce__(self) -> tuple[type[Self], tuple[ConfigT, LabelSpace]]:
        """A worker opens the database again in place of receiving it."""
        return type(self), (self.config, self.labels)

    @abstractmethod
    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan: ...

    def foreign_scans(self, tokens: set[str]) -> int:
        """Number of scans in the database that are not among ``tokens``: if they are validation scans, truth leaks."""
        return sum(
            token.decode() not in tokens for token in np.unique(self.database.index["token"])
        )

    def draw_row(self, cls: int, rng: np.random.Generator) -> int:
        """Draw an instance of the class: its row in the database."""
        rows = self.rows[cls]
        return int(rows[rng.integers(len(rows))])

    def labels_of(self, scan: Scan) -> np.ndarray:
        """The scan's labels.

        Raises:
            UserError: it has none.
        """
        if scan.labels is None:
            raise UserError(
                f"scan {scan.token} has no labels, so nobody knows where its ground is",
                where="data.paste",
                cure="Set data.paste: null, or dataset.use_labels: true",
            )
        return scan.labels


def unused_numbers(instances: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """A number no instance of the scan has for each object, repeated for its points.

    Args:
        instances: i32 [N], of the scan. sizes: points of each object.
    """
    taken = np.zeros(len(instances) + len(sizes) + 1, bool)
    taken[0] = True
    taken[instances[(instances > 0) & (instances < len(taken))]] = True
    numbers = np.flatnonzero(~taken)
    return np.repeat(numbers[: len(sizes)], sizes)


def class_weights(weights: str | dict[str, float], counts: dict[str, int]) -> dict[str, float]:
    """Chance of each class (not normalised), 0 for one without instances.

    Args:
        weights: as in :class:`DrawnPaste`. counts: instances by class name.

    Raises:
        UserError: ``weights`` names a class that is no thing.
    """
    if isinstance(weights, dict):
        if unknown := [name for name in weights if name not in counts]:
            raise UserError(
                f"'{unknown[0]}' is no thing class",
                where="data.paste.weights",
                cure=f"Things: {', '.join(counts)}",
            )
        return {name: weights.get(name, 0.0) if count else 0.0 for name, count in counts.items()}
    power = {"frequency": 1.0, "sqrt": 0.5, "uniform": 0.0}[weights]
    return {name: float(count) ** power if count else 0.0 for name, count in counts.items()}
