"""How motion features are made and read: ``dataset.columns.<name>.motion:``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from core.config import Section

__all__ = ["MotionConfig"]

_MOST_BINS = 4096  # per axis


class MotionConfig(Section):
    """Two windows of scans, the grid in which they are compared, and how much of the future is looked at.

    The defaults are MotionBEV's on SemanticKITTI.
    """

    delay: int = Field(
        7,
        ge=0,
        description="scans after a scan that its features may look at: channel k looks at k of them; 0 = none, the "
        "first channel alone; last + previous - 1 = all channels (published). Channels beyond it are 0",
    )
    last: int = Field(4, ge=1, le=64, description="scans of the window that ends at a time")
    previous: int = Field(4, ge=1, le=64, description="scans of the window before it")
    bins: tuple[int, int] = Field((360, 480), description="cells along azimuth and range")
    azimuth: tuple[float, float] = Field(
        (-180.0, 180.0), description="degrees, counter-clockwise from x; points outside are 0"
    )
    range: tuple[float, float] = Field(
        (0.0, 60.0), description="m from the scanner, in three dimensions; points outside are 0"
    )
    height: tuple[float, float] = Field(
        (-4.0, 2.0), description="m above the scanner; points outside are 0"
    )
    extent: tuple[float, float] = Field(
        (0.4, 4.0), description="m, smallest and largest height extent of what can have moved"
    )
    remains: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of a cell's extent that the other window may have there, at most",
    )
    occlusion: bool = Field(
        True,
        description="no motion where the other window has nothing from there outwards: it may be hidden there",
    )

    @property
    def channels(self) -> int:
        """Values per point."""
        return self.last + self.previous

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.delay >= self.channels:
            raise ValueError(f"delay is at most {self.channels - 1}, last + previous - 1")
        if not all(1 <= bins <= _MOST_BINS for bins in self.bins):
            raise ValueError(f"bins are 1 to {_MOST_BINS} per axis")
        for key in ("azimuth", "range", "height", "extent"):
            low, high = getattr(self, key)
            if low >= high:
                raise ValueError(f"{key} is [low, high] with low < high")
        if self.azimuth[0] < -180 or self.azimuth[1] > 180:
            raise ValueError("azimuth lies within -180 and 180 degrees")
        if self.range[0] < 0 or self.extent[0] <= 0:
            raise ValueError("range is not negative, and the smallest extent is positive")
        return self
