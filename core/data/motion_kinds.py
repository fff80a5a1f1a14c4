"""The stream that makes motion features of a kind."""

from __future__ import annotations

from core.data.motion import MotionStream
from core.data.motion_residual import ResidualStream
from core.datasets.motion_config import MotionConfig, ResidualConfig

__all__ = ["Stream", "motion_stream"]

Stream = MotionStream | ResidualStream


def motion_stream(settings: MotionConfig | ResidualConfig, skip: int = 0) -> Stream:
    """The stream of these settings; ``skip`` as in :class:`core.data.motion.MotionStream`."""
    if isinstance(settings, ResidualConfig):
        return ResidualStream(settings, skip)
    return MotionStream(settings, skip)
