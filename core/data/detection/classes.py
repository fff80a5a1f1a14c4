"""Which objects become boxes, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import UserError

__all__ = ["DetectionSettings", "one_word", "read_classes"]


@dataclass(frozen=True)
class DetectionSettings:
    """What becomes a box.

    Attributes:
        classes: name in the data set -> name that is written; None = all boxes, under :func:`one_word` of their names.
        min_points: boxes with fewer points are left out.
    """

    classes: Mapping[str, str] | None = None
    min_points: int = 0

    def written_name(self, name: str) -> str | None:
        """What an object is called in the files, None where it is left out."""
        if self.classes is None:
            return one_word(name)
        return self.classes.get(name)


def one_word(name: str) -> str:
    """A name without spaces, which part the fields of a line: ``Pickup Truck`` -> ``Pickup_Truck``."""
    return re.sub(r"\W+", "_", name).strip("_") or "object"


def read_classes(words: Sequence[str]) -> dict[str, str]:
    """The map from ``NAME=SOURCE,SOURCE`` words, by source.

    Raises:
        UserError: a word is no such pair, a name is no single word, or a source stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, sources = word.partition("=")
        if not sign or not name or one_word(name) != name:
            raise UserError(
                f"'{word}' is no class",
                where="command line, --classes",
                cure="Write NAME=SOURCE,SOURCE with NAME of letters, digits and _: Vehicle='Car,Pickup Truck'",
            )
        for source in sources.split(","):
            source = source.strip()
            if not source or source in found:
                raise UserError(
                    f"'{source}' stands twice, or is empty, in '{word}'",
                    where="command line, --classes",
                    cure="Give each name of the data set to one class",
                )
            found[source] = name
    return found
