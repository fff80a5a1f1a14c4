"""How points fall into cells. A new partition is a file here and a line in ``PARTITIONS``."""

from __future__ import annotations

from typing import Any

from core.data.partitions.base import PartitionSection, group
from core.data.partitions.voxels import Voxels, voxelize
from core.registry import read_choice

__all__ = ["PARTITIONS", "PartitionSection", "Voxels", "group", "read_partition", "voxelize"]

PARTITIONS: dict[str, str] = {  # data.partition.name -> module:class; imported when asked for
    "voxels": "core.data.partitions.voxels:Voxels",
    "cylinder": "core.data.partitions.cylinder:Cylinder",
    "grid": "core.data.partitions.grid:Grid",
    "range_image": "core.data.partitions.range_image:RangeImage",
}


def read_partition(value: Any) -> Any:
    """For a field of the configuration: the section that ``name`` picks.

    Raises:
        ValueError: no such partition, or an unknown or ill-typed key.
    """
    return read_choice(PARTITIONS, value, "data.partition", "partition")
