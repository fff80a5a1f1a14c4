"""How points fall into cells. A new partition is a file here and a line in ``PARTITIONS``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from core.config.explain import did_you_mean, explain
from core.data.partitions.base import PartitionSection, group
from core.data.partitions.voxels import Voxels, voxelize
from core.registry import load_entry

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
        hint = did_you_mean(name, PARTITIONS, "Known partitions")
        raise ValueError(f"unknown partition '{name}'. {hint}")
    section = load_entry(PARTITIONS[name])
    try:
        return section.model_validate(value)
    except ValidationError as error:
        sentences = [explain(detail, section, "", value)[1] for detail in error.errors()]
        raise ValueError("; ".join(sentences)) from error
