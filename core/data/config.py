"""The ``data:`` section: how a scan becomes a sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from core.config import Section

__all__ = ["AugmentConfig", "DataConfig", "FlipAxes"]

FlipAxes = Literal["none", "x", "y", "xy"]
Range = tuple[float, float]


class AugmentConfig(Section):
    """``data.augment:``, training only; the defaults are those of 2DPASS and U2MKD, ``null`` switches a step off.

    Attributes:
        flip: true = one of none, x, y, xy with equal chance, or a list of those to choose from; "x" negates x.
        rotate: degrees about z, uniform in [low, high]; true = [-180, 180].
        scale: factor on all three axes, uniform in [low, high].
        translate_std: m, standard deviation along x, y, z of one shift of the whole scan.
        dropout: the largest fraction of points left out; the fraction of a scan is uniform in [0, dropout].
    """

    flip: bool | tuple[FlipAxes, ...] = True
    rotate: bool | Range | None = True
    scale: Range | None = (0.95, 1.05)
    translate_std: tuple[float, float, float] | None = (0.1, 0.1, 0.1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("rotate", "scale")
    @classmethod
    def _ordered(cls, value: bool | Range | None) -> bool | Range | None:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("a range is written [low, high] with low <= high")
        return value

    @field_validator("scale")
    @classmethod
    def _positive(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] <= 0:
            raise ValueError("scale factors are positive")
        return value

    @field_validator("translate_std")
    @classmethod
    def _no_negative(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and min(value) < 0:
            raise ValueError("standard deviations are not negative")
        return value

    @property
    def flip_choices(self) -> tuple[FlipAxes, ...]:
        """What a flip is drawn from; empty = no flip."""
        if isinstance(self.flip, bool):
            return ("none", "x", "y", "xy") if self.flip else ()
        return self.flip

    @property
    def rotate_range(self) -> Range | None:
        """Degrees [low, high], None = no rotation."""
        if isinstance(self.rotate, bool):
            return (-180.0, 180.0) if self.rotate else None
        return self.rotate


class DataConfig(Section):
    """``data:`` section.

    Attributes:
        voxel_size: m, edge of a voxel.
        augment: training augmentation; null = none.
        point_range: m, [x0, y0, z0, x1, y1, z1] in the LiDAR frame; points outside are in no voxel, and are scored as
            errors. null = all points.
        max_voxels: training only; of a larger sample the voxels nearest to a random one are kept. null = all.
        label_vote: label of a voxel: "first" = its first point's, "majority" = the most frequent of its keyframe
            points, ignore left out (the smaller train id wins a tie).
        intensity_divisor: intensities are divided by it (1 = as recorded: KITTI 0..1, nuScenes 0..255).
        sweeps: false = the view sees the keyframe's own points only, whatever the reader appends.
        images: give the cameras' images and the pixel of each voxel.
        image_size: px, [width, height] images are resized to (bilinear); null = as recorded.
        train_cameras: training only; this many cameras, drawn anew for each sample, are used. null = all.
        on_bad_sample: "raise" stops at a damaged scan; "skip" takes the next one and reports it.
    """

    voxel_size: float = Field(0.05, gt=0)
    augment: AugmentConfig | None = AugmentConfig()
    point_range: tuple[float, float, float, float, float, float] | None = None
    max_voxels: int | None = Field(None, ge=1)
    label_vote: Literal["first", "majority"] = "first"
    intensity_divisor: float = Field(1.0, gt=0)
    sweeps: bool = True
    images: bool = False
    image_size: tuple[int, int] | None = None
    train_cameras: int | None = Field(None, ge=1)
    on_bad_sample: Literal["raise", "skip"] = "raise"

    @field_validator("image_size")
    @classmethod
    def _size_positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("width and height are at least 1 px")
        return value

    @model_validator(mode="after")
    def _range_ordered(self) -> DataConfig:
        box = self.point_range
        if box is not None and any(low >= high for low, high in zip(box[:3], box[3:])):
            raise ValueError("point_range is [x0, y0, z0, x1, y1, z1] with x0 < x1, y0 < y1, z0 < z1")
        return self
