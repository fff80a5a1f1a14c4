"""The ``data:`` section: how a scan becomes a sample."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from core.config import Section
from core.data.partitions import PartitionSection, Voxels, read_partition
from core.data.paste_config import PasteSection, read_paste

__all__ = [
    "CELLS",
    "DRAWN",
    "AugmentConfig",
    "BeamsConfig",
    "DataConfig",
    "FlipAxes",
    "ImageAugmentConfig",
    "ResizedCropConfig",
    "ScanMixConfig",
    "VoteAugmentConfig",
]

FlipAxes = Literal["none", "x", "y", "xy"]
Range = tuple[float, float]
Bound = Annotated[float, Field(allow_inf_nan=True)]  # .inf = no bound

CELLS = ("partition", "voxel_size")  # two keys of ``data:`` that say what DataConfig.cells is
DRAWN = (  # keys that say how a training draws samples and what it does with them, not what a network reads
    *("augment", "paste", "mix", "scan_mix", "max_voxels", "label_vote"),
    *("image_augment", "train_cameras", "on_bad_sample"),
)


class AugmentConfig(Section):
    """``data.augment:``, training only; the defaults are those of 2DPASS and U2MKD, ``null`` switches a step off."""

    flip: bool | tuple[FlipAxes, ...] = Field(
        True,
        description="true = one of none, x, y, xy with equal chance, or a list of those to choose from; "
        '"x" negates x',
    )
    rotate: bool | Range | None = Field(
        True, description="degrees about z, uniform in [low, high]; true = [-180, 180]"
    )
    scale: Range | None = Field(
        (0.95, 1.05),
        description="factor uniform in [low, high], on all three axes; without scale_z on x and y",
    )
    scale_z: bool = Field(True, description="scale z too; false as in 2DPASS")
    translate_std: tuple[float, float, float] | None = Field(
        (0.1, 0.1, 0.1),
        description="m, standard deviation along x, y, z of one shift of the whole scan",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest fraction of points left out; that of a scan is uniform in [0, dropout]",
    )
    drop_box: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest sides of a box about a random point whose points are left out, as a share of the scan's; "
        "SLidR: 0.2",
    )
    drop_box_sight: int = Field(
        1024,
        ge=0,
        description="the box stays in where a camera would see fewer points than this without it",
    )

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
    def _no_negative(
        cls, value: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
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


class VoteAugmentConfig(AugmentConfig):
    """``eval.vote_augment:``: what the views of ``--vote-mode legacy_random`` are drawn from.

    The defaults are those of 2DPASS's published scores: any yaw and a small shift. No view leaves a point out.
    """

    flip: bool | tuple[FlipAxes, ...] = Field(
        False, description='as in data.augment: true, or a list of axes; "x" negates x'
    )
    scale: Range | None = Field(
        None, description="factor uniform in [low, high], on x and y, with scale_z on z too"
    )
    scale_z: bool = Field(False, description="scale z too")
    dropout: float = Field(0.0, ge=0, le=0, description="0: no view leaves a point out")
    drop_box: float = Field(0.0, ge=0, le=0, description="0: no view leaves a point out")


class ResizedCropConfig(Section):
    """``data.image_augment.resized_crop:``, a random part of each image; the defaults are SLidR's on nuScenes."""

    size: tuple[int, int] = Field((416, 224), description="px, [width, height] of the result")
    area: tuple[float, float] = Field(
        (0.3, 1.0), description="share of the image that is cut out, uniform in [low, high]"
    )
    ratio: tuple[float, float] = Field(
        (14 / 9, 17 / 9), description="width / height of the part, log-uniform in [low, high]"
    )
    points: int = Field(
        1024, ge=0, description="parts are drawn until more points than this are in sight, …"
    )
    share: float = Field(0.75, ge=0, le=1, description="… or more than this share of the image's")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if min(self.size) < 2:
            raise ValueError("width and height are at least 2 px")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError("area is [low, high] with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio is [low, high] with 0 < low <= high")
        return self


class ImageAugmentConfig(Section):
    """``data.image_augment:``, training only, each camera on its own; the defaults are those of 2DPASS on nuScenes."""

    crop: tuple[int, int] | None = Field(
        None,
        description="px, [width, height] of a cut-out at the image's lower edge, anywhere along it, after "
        "data.image_size; null = the whole image",
    )
    resized_crop: ResizedCropConfig | None = Field(
        None,
        description="in place of crop: a random part of the image in a size of its own, in which evaluation sees the "
        "whole image; null = none",
    )
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored image")
    jitter: tuple[float, float, float] | None = Field(
        (0.4, 0.4, 0.4),
        description="brightness, contrast, saturation: each changed by a factor uniform in 1 +- this; "
        "null = none",
    )

    @field_validator("crop")
    @classmethod
    def _two_pixels(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 2:
            raise ValueError("width and height are at least 2 px")
        return value

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop is not None and self.resized_crop is not None:
            raise ValueError("crop and resized_crop both cut the image; choose one")
        return self

    @field_validator("jitter")
    @classmethod
    def _strength(
        cls, value: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if value is not None and not all(0 <= strength < float("inf") for strength in value):
            raise ValueError("jitter is finite and not negative")
        return value


Share = Annotated[float, Field(ge=0, le=1)]


class ScanMixConfig(Section):
    """``data.scan_mix:``, training only: another scan of the split, mixed in before the augmentation."""

    chance: Share = Field(1.0, description="of a scan to be mixed")
    kinds: tuple[Literal["laser", "polar"], ...] = Field(
        ("laser", "polar"), min_length=1, description="one is drawn for each scan"
    )
    areas: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field(
        (3, 4, 5, 6), min_length=1, description="LaserMix: numbers of pitch bands to draw from"
    )
    pitch: tuple[float, float] = Field(
        (-25.0, 3.0), description="degrees, LaserMix: range that is divided into equal bands"
    )
    swap: Share = Field(0.5, description="PolarMix: chance of half a turn to be exchanged")
    paste: Share = Field(1.0, description="PolarMix: chance of the other's things to be pasted")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not -90 <= self.pitch[0] < self.pitch[1] <= 90:
            raise ValueError("pitch is [low, high] with -90 <= low < high <= 90")
        return self


class BeamsConfig(Section):
    """``data.beams:``, a scanner with fewer lasers: points of the others are in no cell and in no score."""

    every: int = Field(ge=2, description="one of so many neighbouring beams is kept")
    first: int = Field(
        0, ge=0, description="the first one that is, counted from 0 as the data set does (its ring)"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.first >= self.every:
            raise ValueError(f"first is one of 0 to {self.every - 1}, of every {self.every} beams")
        return self


PartitionChoice = Annotated[SerializeAsAny[PartitionSection], BeforeValidator(read_partition)]
PasteChoice = Annotated[SerializeAsAny[PasteSection], BeforeValidator(read_paste)]


class DataConfig(Section):
    """``data:`` section: how a scan becomes a sample."""

    voxel_size: float = Field(
        0.05, gt=0, description="m, edge of a voxel; short for partition: {name: voxels, size: …}"
    )
    partition: PartitionChoice | None = Field(
        None, description="how points fall into cells; null = voxels of voxel_size"
    )
    features: tuple[str, ...] = Field(
        ("xyz", "intensity"),
        min_length=1,
        description="columns of the points that networks read, in this order: xyz (m), intensity, distance (m), "
        "lag (s), and those of dataset.columns",
    )
    cell_features: Literal["point", "mean"] = Field(
        "point",
        description='what networks of cells read: "point" = the features of the point that represents a cell, '
        '"mean" = the mean over its points, so that lag also tells how a cell was seen in past sweeps',
    )
    augment: AugmentConfig | None = Field(
        AugmentConfig(), description="training only: augmentation of the points; null = none"
    )
    paste: PasteChoice | None = Field(
        None, description="training only: objects from an instance database; null = none"
    )
    mix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="training only: chance of a scan to take in all instances of another one, drawn at random "
        "(2DPASS); they count as pasted; the reader has to give instance numbers",
    )
    scan_mix: ScanMixConfig | None = Field(
        None, description="training only: LaserMix and PolarMix with another scan; null = none"
    )
    beams: BeamsConfig | None = Field(
        None,
        description="the view of a scanner with fewer lasers: {every: 4} keeps every fourth; the laser of a point is "
        "that of the file (nuScenes, a column ring), else estimated; null = all",
    )
    point_range: tuple[Bound, Bound, Bound, Bound, Bound, Bound] | None = Field(
        None,
        description="m, [x0, y0, z0, x1, y1, z1] in the LiDAR frame; points outside are in no voxel, and are "
        "scored as errors; null = all points",
    )
    max_voxels: int | None = Field(
        None,
        ge=1,
        description="training only: of a larger sample the voxels nearest to a random one are kept; "
        "null = all",
    )
    label_vote: Literal["first", "majority"] = Field(
        "first",
        description='label of a voxel: "first" = its first point\'s, "majority" = the most frequent of its '
        "labelled points (the smaller train id wins a tie)",
    )
    intensity_divisor: float = Field(
        1.0,
        gt=0,
        description="intensities are divided by it (1 = as recorded: KITTI 0..1, nuScenes 0..255)",
    )
    intensity_offset: float = Field(
        0.0, description="added to them then; 1 where SLidR's network is trained on SemanticKITTI"
    )
    sweeps: bool = Field(
        True, description="false = the keyframe's own points only, whatever the reader appends"
    )
    images: bool = Field(False, description="give the cameras' images and the pixel of each voxel")
    eval_images: bool = Field(
        True,
        description="in evaluation too; false is for students that need cameras only while they learn",
    )
    planes: tuple[str, ...] = Field(
        (), description="maps aligned with the images that samples carry, by name, e.g. superpixels"
    )
    image_augment: ImageAugmentConfig | None = Field(
        None, description="training only: augmentation of the images; null = none"
    )
    image_size: tuple[int, int] | None = Field(
        None,
        description="px, [width, height] images are resized to (bilinear); null = as recorded",
    )
    train_cameras: int | None = Field(
        None,
        ge=1,
        description="training only: this many cameras, drawn anew for each sample; null = all",
    )
    on_bad_sample: Literal["raise", "skip"] = Field(
        "raise",
        description='"raise" stops at a damaged scan; "skip" takes the next one and reports it',
    )

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
            raise ValueError(
                "point_range is [x0, y0, z0, x1, y1, z1] with x0 < x1, y0 < y1, z0 < z1"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> DataConfig:
        given = {"partition", "voxel_size"} <= self.model_fields_set
        if given and isinstance(self.partition, Voxels) and self.partition.size != self.voxel_size:
            raise ValueError(
                f"voxel_size is {self.voxel_size:g} m and partition.size {self.partition.size:g} m; give one of them"
            )
        return self

    @property
    def cells(self) -> PartitionSection:
        """The partition; voxels of ``voxel_size`` where none is named."""
        return Voxels(size=self.voxel_size) if self.partition is None else self.partition

    def view(self) -> dict[str, Any]:
        """What a network reads of a scan, as plain values by key, each way to say it in the same words."""
        view = self.model_dump(mode="json", exclude={*DRAWN, *CELLS})
        if self.beams is None:
            del view["beams"]  # what was kept before there was this key says nothing of it
        if self.cell_features == "point":
            del view["cell_features"]  # likewise
        cells = self.cells
        if isinstance(cells, Voxels):
            return {"voxel_size": cells.size} | view
        partition = cells.model_dump(mode="json")
        if partition.get("start") == "lowest":
            del partition["start"]  # as above
        return {"partition": partition} | view

    def uses_images(self, training: bool) -> bool:
        """The view has images."""
        return self.images and (training or self.eval_images)
