"""How motion features are made and read: ``dataset.columns.<name>.motion:``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from core.config import Section
from core.config.explain import explain

__all__ = ["MOTION_KINDS", "Motion", "MotionConfig", "ResidualConfig"]

_MOST_BINS = 4096  # per axis


class MotionConfig(Section):
    """Two windows of scans, the grid in which they are compared, and how much of the future is looked at.

    The defaults are MotionBEV's on SemanticKITTI.
    """

    kind: Literal["polar"] = Field(
        "polar",
        exclude=True,  # files of before there were others do not name it
        description='"polar" = height extent lost or gained in cells of azimuth and range (MotionBEV); "residual" = '
        "change of range in a range image (LMNet), which has keys of its own",
    )
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

    @property
    def past(self) -> int:
        """Scans before a scan that its features look at."""
        return self.channels - 1

    @property
    def shortest(self) -> int:
        """Scans in a row without which there are no features at all."""
        return self.channels

    def known(self, channel: int) -> bool:
        """Whether a network of these settings may see a channel."""
        return channel <= self.delay

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


class ResidualConfig(Section):
    """Range images of earlier scans, seen from where a scan was taken: how much the range has changed.

    The residual images of LMNet (Chen et al., RA-L 2021), with its values on SemanticKITTI as defaults.
    """

    kind: Literal["residual"] = Field(description="change of range in a range image (LMNet)")
    scans: int = Field(
        8, ge=1, le=64, description="earlier scans; channel k compares with the one k + 1 before"
    )
    height: int = Field(64, ge=1, le=_MOST_BINS, description="px, rows")
    width: int = Field(2048, ge=1, le=_MOST_BINS, description="px, columns")
    elevation: tuple[float, float] = Field(
        (-25.0, 3.0),
        description="degrees, of the lower edge and the upper; points beyond go into the border rows",
    )
    range: tuple[float, float] = Field(
        (2.0, 50.0), description="m from the scanner; points outside are no part of any image"
    )

    @property
    def channels(self) -> int:
        """Values per point."""
        return self.scans

    @property
    def bins(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.height, self.width

    @property
    def delay(self) -> int:
        """Scans after a scan that its features look at: none."""
        return 0

    @property
    def past(self) -> int:
        """Scans before a scan that its features look at."""
        return self.scans

    @property
    def shortest(self) -> int:
        """Scans in a row without which there are no features at all."""
        return 2

    def known(self, channel: int) -> bool:
        """Whether a network of these settings may see a channel: each, for all look back."""
        return True

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not -90 <= self.elevation[0] < self.elevation[1] <= 90:
            raise ValueError("elevation is [lowest, highest], between -90 and 90 degrees")
        if not 0 < self.range[0] < self.range[1]:
            raise ValueError("range is [nearest, farthest], both positive")
        return self


MOTION_KINDS: dict[str, type[MotionConfig] | type[ResidualConfig]] = {
    "polar": MotionConfig,
    "residual": ResidualConfig,
}


def _of_kind(value: Any) -> Any:
    """The section that ``kind`` picks."""
    if not isinstance(value, dict):
        return value
    section = MOTION_KINDS.get(value.get("kind", "polar"))
    if section is None:
        raise ValueError(
            f"unknown kind '{value['kind']}'; known kinds are {', '.join(MOTION_KINDS)}"
        )
    try:
        return section.model_validate(value)
    except ValidationError as error:
        key = "dataset.columns.NAME.motion"
        sentences = [explain(detail, section, key, value)[1] for detail in error.errors()]
        raise ValueError("; ".join(sentences)) from error


Motion = Annotated[MotionConfig | ResidualConfig, BeforeValidator(_of_kind)]
