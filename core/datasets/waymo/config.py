"""``dataset:`` section of the Waymo Open Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from core.datasets.base import DatasetConfig, Multisweeps, SplitName
from core.datasets.waymo.frame import LASERS
from core.datasets.waymo.source import PointOptions
from core.datasets.waymo.splits import TEST_LIST, FormatName

__all__ = ["WaymoConfig"]

LaserName = Literal["TOP", "FRONT", "SIDE_LEFT", "SIDE_RIGHT", "REAR"]


class WaymoConfig(DatasetConfig):
    """``dataset:`` section of the Waymo Open Dataset."""

    format: FormatName | None = Field(
        None,
        description="v1 (TFRecord), v2 (Parquet) or npy (points exported as for PVKD); null = what lies there",
    )
    frames: Literal["labelled", "all"] = Field(
        "labelled",
        description="labelled = those with ground truth, 2 per second, and of the test split those of test_frames; "
        "all = 10 per second",
    )
    test_frames: Path | None = Field(
        None,
        description=f"list of the frames that the benchmark's test split has, {TEST_LIST} of the "
        "waymo-open-dataset repository",
    )
    segments: dict[SplitName, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="by split, context names of the segments that are read, {train: [1005081002024129653_5313_150_"
        "5333_150]}; null = all that are there",
    )
    returns: Literal["both", "first"] = Field(
        "both", description="of each pulse; the benchmark scores both"
    )
    lasers: Annotated[tuple[LaserName, ...], Field(min_length=1)] = Field(
        ("TOP",),
        description=f"whose points a scan holds: {', '.join(LASERS.values())}; only TOP has labels",
    )
    intensity: Literal["tanh", "raw"] = Field(
        "tanh",
        description="intensities are recorded without a bound; tanh of them lies in 0..1",
    )
    multisweeps: Multisweeps = Field(
        Multisweeps(),
        description="neighbouring frames of the segment (10 Hz: 1 = 0.1 s) through the vehicle's poses, labelled or "
        "not; their labels are not read",
    )
    sweep_stride: int = Field(
        1, ge=1, description="every so many frames is a sweep: 5 = sweeps 0.5 s apart"
    )
    index_workers: int | None = Field(
        None,
        ge=0,
        description="processes that go through segments that are not indexed yet; 0 = none but the job itself, "
        "null = one per core, at most 16",
    )

    @model_validator(mode="after")
    def _rest_has_no_labels(self) -> Self:
        if "rest" in self.unlabelled and self.frames == "all" and self.labelled is None:
            raise ValueError(
                "frames: all counts frames without labels as scans of the split; for a training on them write "
                "frames: labelled and unlabelled: sweeps"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.lasers)) < len(self.lasers):
            raise ValueError("lasers names one twice")
        return self

    @property
    def options(self) -> PointOptions:
        """Which points are read."""
        returns = 1 if self.returns == "first" else 2
        return PointOptions(self.lasers, returns, self.intensity == "tanh")
