"""PandaSet: the reader, its cuboids, and the safe reading of its pickled tables."""

from core.datasets.pandaset.reader import CAMERAS, PandaSet, PandaSetConfig

__all__ = ["CAMERAS", "PandaSet", "PandaSetConfig"]
