"""How points fall into cells. A new partition is a file here and a line in ``PARTITIONS``."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from core.data.partitions.base import PartitionSection, group
from core.data.partitions.voxels import Voxels, voxelize

__all__ = ["PARTITIONS", "PartitionSection", "Voxels", "group", "read_partition", "voxelize"]

PARTITIONS: dict[str, str] = {  # data.partition.name -> module:class; imported when asked for
    "voxels": "core.data.partitions.voxels:Voxels",
    "cylinder": "core.data.partitions.cylinder:Cylinder",
    "range_image": "core.data.partitions.range_image:RangeImage",
}


def read_partition(value: Any) -> Any:
    """For a field of the configuration: the section that ``name`` picks.

    Raises:
        ValueError: no such partition, or an unknown or ill-typed key.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if name not in PARTITIONS:
        near = difflib.get_close_matches(str(name), PARTITIONS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(PARTITIONS)}"
        raise ValueError(f"unknown partition '{name}'; {hint}")
    module, _, attribute = PARTITIONS[name].partition(":")
    section = getattr(import_module(module), attribute)
    try:
        return section.model_validate(value)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e, section) for e in error.errors())) from error


def _sentence(error: Any, section: type[PartitionSection]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}" if key else error["msg"]
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.5)
    hint = (
        f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(section.model_fields)}"
    )
    return f"unknown key '{key}'; {hint}"
