"""Which classes are things, how many points an instance needs, and on which ground it may stand."""

from __future__ import annotations

from collections.abc import Mapping

from core.data.config import PasteConfig, ThingRule
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["THING_TABLES", "thing_rules"]


def _table(
    min_points: int, grounds: Mapping[tuple[str, ...], tuple[str, ...]]
) -> dict[str, ThingRule]:
    return {
        name: ThingRule(min_points=min_points, ground=on)
        for on, names in grounds.items()
        for name in names
    }


# The classes, grounds and minimum numbers of points of U2MKD's paste augmentation, by label space (PandaSet's: ours).
THING_TABLES: dict[str, dict[str, ThingRule]] = {
    "nuscenes": _table(
        10,
        {
            ("driveable_surface",): (
                "barrier",
                "bicycle",
                "bus",
                "car",
                "construction_vehicle",
                "motorcycle",
                "trailer",
                "truck",
            ),
            ("driveable_surface", "other_flat", "sidewalk"): ("pedestrian", "traffic_cone"),
        },
    ),
    "semantickitti": _table(
        40,
        {
            ("road", "parking"): ("car", "truck", "other-vehicle"),
            ("road", "parking", "sidewalk"): ("bicycle", "motorcycle"),
            ("road", "parking", "sidewalk", "other-ground"): ("bicyclist", "motorcyclist"),
            ("road", "parking", "sidewalk", "other-ground", "terrain"): ("person",),
        },
    ),
    "pandaset": _table(
        20,
        {
            ("road", "other-ground"): ("car", "truck", "bus", "other-vehicle"),
            ("road", "other-ground", "sidewalk"): ("motorcycle", "bicycle", "pedestrian", "cone"),
        },
    ),
}


def thing_rules(labels: LabelSpace, config: PasteConfig | None = None) -> dict[int, ThingRule]:
    """Rules by train id, ascending: ``data.paste.things`` if given, else the label space's table.

    Raises:
        UserError: there is no table for the label space, or a class is unknown.
    """
    table = (
        THING_TABLES.get(labels.name) if config is None or config.things is None else config.things
    )
    if not table:
        raise UserError(
            f"nothing says which classes of the label space '{labels.name}' are things",
            where="data.paste.things",
            cure="Set it, e.g. {car: {min_points: 10, ground: [road]}}",
        )
    for name in [*table, *(ground for rule in table.values() for ground in rule.ground)]:
        if name not in labels.classes[1:]:
            raise UserError(
                f"the label space '{labels.name}' has no class '{name}'",
                where="data.paste.things",
                cure=f"Its classes are {', '.join(labels.classes[1:])}",
            )
    return dict(sorted((labels.classes.index(name), rule) for name, rule in table.items()))
