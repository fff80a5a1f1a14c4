"""nuScenes: the reader and its memory-mapped index of the tables."""

from core.datasets.nuscenes.reader import NuScenes, NuScenesConfig

__all__ = ["NuScenes", "NuScenesConfig"]
