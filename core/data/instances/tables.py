"""Which classes are things, how many points an instance needs, and on which ground it may stand."""

from __future__ import annotations

from collections.abc import Mapping

from core.data.paste_config import PasteSection, ThingRule
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["thing_rules"]


def thing_rules(labels: LabelSpace, config: PasteSection | None = None) -> dict[int, ThingRule]:
    """Rules by train id, ascending: ``data.paste.things`` if given, else those of the label space.

    Raises:
        UserError: nothing says which classes are things, or a class is unknown.
    """
    if config is not None and config.things is not None:
        table: Mapping[str, ThingRule] = config.things
    else:
        table = _table(labels)
    if not table:
        raise UserError(
            f"nothing says which classes of the label space '{labels.name}' are things",
            where="data.paste.things",
            cure="Set it, e.g. {car: {min_points: 10, ground: [road]}}, or give the label space's file 'things'",
        )
    rules = {}
    for name, rule in table.items():
        for used in (name, *rule.ground):
            if used not in labels.classes[1:]:
                raise UserError(
                    f"the label space '{labels.name}' has no class '{used}'",
                    where="data.paste.things",
                    cure=f"Its classes are {', '.join(labels.classes[1:])}",
                )
        rules[labels.classes.index(name)] = rule
    return dict(sorted(rules.items()))


def _table(labels: LabelSpace) -> dict[str, ThingRule]:
    table = {}
    for name, thing in labels.things.items():
        table[name] = ThingRule(min_points=thing.min_points, ground=thing.ground)
    return table
