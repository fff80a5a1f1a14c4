"""The ``dataset:`` section, as far as all data sets share it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from core.config import Section
from core.contracts import Sensor
from core.datasets.budget import LabelBudget
from core.datasets.columns import Column, check_names
from core.datasets.pseudo import Source

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "DatasetConfig",
    "DropStatic",
    "Multisweeps",
    "SensorConfig",
    "SplitName",
    "UnlabelledKind",
]

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)
UnlabelledKind = Literal["rest", "sweeps", "scenes"]
UNLABELLED: tuple[UnlabelledKind, ...] = get_args(UnlabelledKind)
Probability = Annotated[float, Field(ge=0, le=1)]


def _kinds(value: object) -> object:
    """A word as a list of one; a list in the order of ``UNLABELLED``, each word once."""
    if value is None or value == "none":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not set(value) <= set(UNLABELLED):
        return value
    return tuple(kind for kind in UNLABELLED if kind in value)


class Multisweeps(Section):
    """Neighbouring sweeps appended to a keyframe."""

    num_sweeps: int = Field(
        0,
        ge=0,
        le=1000,
        description="sweeps before the keyframe, and as many after it unless only_past",
    )
    only_past: bool = Field(True, description="take none after the keyframe")


class SensorConfig(Section):
    """``dataset.sensor:``, what is known of the scanner; null = the data set's own value."""

    origin: tuple[float, float, float] | None = Field(
        None, description="m, x, y, z of the scanner in the scans' frame"
    )
    beams: int | None = Field(None, ge=1, description="lasers of the scanner")
    elevation: tuple[float, float] | None = Field(
        None, description="degrees, [lowest, highest] beam above the horizon"
    )
    intensity_scale: float | None = Field(
        None, gt=0, description="largest intensity in the files, e.g. 1 or 255"
    )

    @field_validator("elevation")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not -90 <= value[0] < value[1] <= 90:
            raise ValueError("elevation is [lowest, highest], between -90 and 90 degrees")
        return value

    def over(self, sensor: Sensor) -> Sensor:
        """``sensor`` with what is given here in its place."""
        given = self.model_dump(exclude_none=True)
        if self.elevation is not None:
            low, high = np.radians(self.elevation).tolist()
            given["elevation"] = (low, high)
        return replace(sensor, **given)


class DropStatic(Section):
    """``dataset.drop_static:``, which scans with few moving points are left out; {} = as published."""

    least: int = Field(10, ge=1, description="moving points with which a scan always stays")
    every: int = Field(
        10,
        ge=1,
        description="of the other scans one in so many stays, counted from the last one that did",
    )


class DatasetConfig(Section):
    """The ``dataset:`` section, as far as all data sets share it."""

    name: str = Field(description="the reader")
    root: Path = Field(description="folder of the data")
    labels: str | None = Field(
        None,
        description="label space: semantickitti, semantickitti_multiscan, semantickitti_mos, "
        "semantickitti_movable, nuscenes, pandaset, waymo, or a YAML file with classes and map; null = its own",
    )
    use_labels: bool = Field(
        True,
        description="read ground truth where the split has it; false for label-free pretraining",
    )
    cameras: tuple[str, ...] | None = Field(
        None,
        description="cameras to give with each scan, in this order; null = all of the data set, [] = none",
    )
    sensor: SensorConfig = Field(
        SensorConfig(), description="the scanner, where it differs from the data set's own"
    )
    partial: bool = Field(
        False,
        description="work on what is there of an official split; false: an incomplete one is an error",
    )
    columns: Annotated[dict[str, Column], AfterValidator(check_names)] = Field(
        default_factory=dict,
        description="further values per point, from a file per scan; data.features may name them",
    )
    planes: dict[str, Path] = Field(
        default_factory=dict,
        description="maps aligned with the images, by name: folder with <token>/<camera>.png of one channel, 8 or 16 "
        "bits; 65535 = no label; data.planes takes them into samples, e.g. {superpixels: FOLDER}",
    )
    labelled: LabelBudget | None = Field(
        None, description="training split only: the scans that keep their labels; null = all"
    )
    drop_static: DropStatic | None = Field(
        None,
        description="training split only: leave out scans with labels in which nearly nothing moves; needs a class "
        "'moving'; {} = the white list of MotionBEV and KDMOS; null = all stay",
    )
    unlabelled: Annotated[tuple[UnlabelledKind, ...], BeforeValidator(_kinds)] = Field(
        (),
        description="training split only: scans without labels, for a teacher to speak of; one of these or a list, "
        '[] or "none" = none. "rest" = scans of the split without labels, under dataset.labelled or on disk; '
        '"sweeps" = sweeps between its keyframes, each a scan of its own; "scenes" = those of unlabelled_scenes',
    )
    unlabelled_scenes: dict[str, Any] | None = Field(
        None,
        description="further scans, whose labels are not read: keys in place of this section's, "
        "e.g. {root: data/more}; with another 'name' all keys of that reader",
    )
    unlabelled_split: SplitName = Field(
        "train", description="split of unlabelled_scenes that is taken"
    )
    pseudo_labels: Path | None = Field(
        None,
        description="folder that prepare_pseudo_labels.py wrote: labels of the scans that dataset.unlabelled adds; "
        "null = they have none",
    )
    pseudo_confidence: Probability | dict[Source, Probability] = Field(
        0.0,
        description="smallest confidence of a pseudo-label that is used; or by who gave it, 0 for those not named: "
        "poses (1 = a labelled point at the very place, 0 = at the radius), teacher (probability)",
    )
    unlabelled_share: float = Field(
        0.5, gt=0, lt=1, description="share of each process's batch that unlabelled scans fill"
    )

    @model_validator(mode="after")
    def _scenes_are_named(self) -> Self:
        if "scenes" in self.unlabelled and self.unlabelled_scenes is None:
            raise ValueError("unlabelled 'scenes' are those of unlabelled_scenes: give it")
        return self
