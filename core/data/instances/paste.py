"""Puts objects of other training scans into a scan, as U2MKD's paste augmentation does (Sun et al., TPAMI 2024).

A class is drawn by weight, an instance of it evenly. Places are the 5 m cells of ground classes the class may stand on
(at least 20 points), those first whose distance from the sensor is most nearly the object's own; nine are tried, with
five random shifts each. The object is turned about the sensor's axis to the place's azimuth, so that it shows the
scanner the side it was recorded from, at nearly the range it was recorded at. It stays if its box holds almost no
points of the scan.

Everything happens on the scan as read, before views are made of it: all views share the pasted scan, and points are
linked by their order as always.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.contracts import Points, Scan, Sensor
from core.data.config import PasteConfig
from core.data.instances.database import Database
from core.data.instances.scene import Scene, in_shadow, place
from core.data.instances.tables import thing_rules
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["PLACES", "SHIFTS", "Paster", "class_weights", "foreign_scans"]

PLACES = 9  # cells tried per object
SHIFTS = 5  # shifts tried per cell


class Paster:
    """``(scan, generator) -> scan`` with objects; all draws come from the generator.

    Attributes:
        database: where objects come from. labels: the scans' label space.
        classes: train ids that can be drawn; weights: f64, their chances. rows: instances of each in the database.
    """

    def __init__(self, config: PasteConfig, labels: LabelSpace) -> None:
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
        rules = thing_rules(labels, config)
        index = self.database.index
        rows = {
            c: np.flatnonzero((index["cls"] == c) & (index["count"] >= r.min_points))
            for c, r in rules.items()
        }
        chances = class_weights(
            config.weights, {labels.classes[c]: len(own) for c, own in rows.items()}
        )
        drawn = {c: chance for c in rules if (chance := chances[labels.classes[c]]) > 0}
        if not drawn:
            raise UserError(
                "no instance can be drawn from this database", where=str(config.database)
            )
        self.rows = {c: rows[c] for c in drawn}
        self.classes = np.array(list(drawn))
        self.weights = np.array(list(drawn.values())) / sum(drawn.values())
        self._things = np.zeros(256, bool)
        self._things[list(rules)] = True
        names = sorted({labels.classes.index(ground) for c in drawn for ground in rules[c].ground})
        self._ground = np.full(256, -1, np.int8)
        self._ground[names] = np.arange(len(names))
        self._grounds = {
            c: self._ground[sorted(labels.classes.index(ground) for ground in rules[c].ground)]
            for c in drawn
        }

    def __reduce__(self) -> tuple[type, tuple[PasteConfig, LabelSpace]]:
        """A worker opens the database again in place of receiving it."""
        return Paster, (self.config, self.labels)

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """The scan with objects among its keyframe's points, the same scan if none found a place.

        Raises:
            UserError: the scan has no labels.
        """
        if scan.labels is None:
            raise UserError(
                f"scan {scan.token} has no labels, so nobody knows where its ground is",
                where="data.paste",
                cure="Set data.paste: null, or dataset.use_labels: true",
            )
        count = int(np.count_nonzero(scan.keyframe))
        sensor = scan.sensor
        if self.config.sensor is not None:
            sensor = replace(sensor, origin=self.config.sensor)
        seen = sensor.seen(scan.xyz[:count])
        scene = Scene(seen, scan.labels[:count], self._things, self._ground)
        objects: list[tuple[int, np.ndarray]] = []
        boxes = np.zeros((0, 2, 3))
        left = self.config.max_points
        for cls in rng.choice(self.classes, self.config.count, p=self.weights).tolist():
            row = int(self.rows[cls][rng.integers(len(self.rows[cls]))])
            if self.database.index["count"][row] > left:
                continue
            cloud = self._put(scene, sensor, cls, row, boxes, rng)
            if cloud is not None:
                objects.append((cls, cloud))
                left -= len(cloud)
                boxes = np.concatenate([boxes, [[cloud[:, :3].min(0), cloud[:, :3].max(0)]]])
        return self._join(scan, scene, sensor, objects) if objects else scan

    def _put(
        self,
        scene: Scene,
        sensor: Sensor,
        cls: int,
        row: int,
        boxes: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """One object where it found a place: f32 [n, 4], relative to the scanner, or None."""
        anchor = self.database.index["anchor"][row] - np.array(sensor.origin)
        places = scene.places(self._grounds[cls], float(np.hypot(anchor[0], anchor[1])), PLACES)
        sideways, upwards = self.config.jitter
        shifts = rng.uniform(
            (-sideways, -sideways, 0), (sideways, sideways, upwards), (len(places), SHIFTS, 3)
        )
        cloud = self.database.points(row)
        moved = place(scene, sensor.seen(cloud[:, :3]), anchor, places, shifts, boxes)
        return None if moved is None else np.column_stack([moved, cloud[:, 3]])

    def _join(
        self, scan: Scan, scene: Scene, sensor: Sensor, objects: list[tuple[int, np.ndarray]]
    ) -> Scan:
        """The keyframe's points, the objects', the sweeps'; hidden ones left out."""
        count, sizes = len(scene.points), [len(cloud) for _, cloud in objects]
        new = np.concatenate([cloud for _, cloud in objects])
        owner = np.repeat(np.arange(len(objects)), sizes)
        xyz = new[:, :3]
        if any(sensor.origin):
            xyz = xyz + np.array(sensor.origin)
        instance = None
        if scan.instances is not None:
            instance = _unused(scan.instances, sizes)
        added = Points(
            xyz=xyz,
            intensity=new[:, 3],
            label=np.repeat([cls for cls, _ in objects], sizes),
            instance=instance,
            pasted=np.ones(len(new), bool),
        )
        before = scan.points.take(slice(count))
        if self.config.occlude:
            shape = np.ascontiguousarray(new[:, :3])
            hidden = in_shadow(scene.points, np.full(count, -1), shape, owner, len(objects))
            before = before.take(~hidden)
            added = added.take(~in_shadow(shape, owner, shape, owner, len(objects)))
        return replace(
            scan, points=Points.join(before, added, scan.points.take(slice(count, None)))
        )


def _unused(instances: np.ndarray, sizes: list[int]) -> np.ndarray:
    """A number no instance of the scan has for each object, repeated for its points."""
    taken = np.zeros(len(instances) + len(sizes) + 1, bool)
    taken[0] = True
    taken[instances[(instances > 0) & (instances < len(taken))]] = True
    numbers = np.flatnonzero(~taken)
    return np.repeat(numbers[: len(sizes)], sizes)


def class_weights(weights: str | dict[str, float], counts: dict[str, int]) -> dict[str, float]:
    """Chance of each class (not normalised), 0 for one without instances.

    Args:
        weights: as in :class:`PasteConfig`. counts: instances by class name.

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


def foreign_scans(database: Database, tokens: set[str]) -> int:
    """Number of scans in the database that are not among ``tokens``: if they are validation scans, truth leaks."""
    return sum(token.decode() not in tokens for token in np.unique(database.index["token"]))
