"""The nuScenes v1.0 format of a world: keyframes by the processes, tables when all of them are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.datasets.synthetic.nuscenes_format import (
    PERIOD,
    token,
    write_keyframe,
    write_map,
)
from core.datasets.synthetic.nuscenes_names import names
from core.datasets.synthetic.nuscenes_tables import Row, write_tables
from core.datasets.synthetic.spec import WorldSpec
from core.datasets.synthetic.world_format import WorldFormat

__all__ = ["NuScenesWorld"]


class NuScenesWorld(WorldFormat):
    """nuScenes with lidarseg and panoptic: keyframes at 2 Hz, sweeps between them."""

    folders = ("samples", "sweeps", "lidarseg", "panoptic", "maps", "v1.0-mini", "v1.0-trainval")
    period = PERIOD
    most_train = 700
    most_val = 150

    def names(self, spec: WorldSpec) -> list[str]:
        """See `nuscenes_names.names`."""
        return names(spec)

    def record(self, root: Path, spec: WorldSpec, index: int, frame: int) -> Row:
        """Write a keyframe's files, with the first one the scene's map; returns its rows of tables."""
        name = spec.names[index]
        scene = self.scene(spec, index)
        if frame == 0:
            write_map(root / "maps" / f"{token(spec.seed, name, 'map')}.png", scene)
        return write_keyframe(root, spec, index, name, scene, frame)

    def gather(self, root: Path, spec: WorldSpec, results: Iterator[Row]) -> None:
        """Write the tables."""
        rows = list(results)
        starts = range(0, len(rows), spec.keyframes)
        per_scene = [rows[k : k + spec.keyframes] for k in starts]
        scenes = [self.scene(spec, index) for index in range(spec.scenes)]
        write_tables(root, spec, scenes, per_scene)
