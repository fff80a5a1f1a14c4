"""One's own scans: a folder of float32 files (or NumPy's .npy), one file of ids per scan, cameras if calibrated.

Beside the scans, ``calibration.yaml`` (:mod:`core.datasets.calibration`) and ``images/<camera>/<stem>.png`` or ``.jpg``
give the cameras.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from core.contracts import Camera, Points, Scan
from core.datasets.base import DatasetConfig, Gap, ScanDataset, ScanFiles, SplitName
from core.datasets.calibration import (
    CALIBRATION,
    CameraCalibration,
    image_of,
    open_camera,
    read_calibration,
)
from core.datasets.files import listing, read_labels, read_points
from core.decode import read_array
from core.errors import UserError
from core.labels import SEMANTICKITTI

__all__ = ["FolderConfig", "FolderDataset"]


def _has_stem(pattern: str) -> str:
    if "{stem}" not in pattern:
        raise ValueError(
            "must contain {stem}, which stands for the scan's file name up to its first dot"
        )
    return pattern


class FolderConfig(DatasetConfig):
    """``dataset:`` section of one's own data."""

    scans: str = Field(
        "*.bin",
        description="glob of the scan files below root; a .npy file holds numbers [points, point_fields]",
    )
    label_files: Annotated[str, AfterValidator(_has_stem)] | None = Field(
        None,
        description="label file below root, e.g. {stem}.label; {stem} is the scan's file name up to its first "
        "dot; null = no labels",
    )
    point_fields: int = Field(
        4,
        ge=4,
        description="float32 values per point; the first four are x, y, z (m, z up) and intensity",
    )
    label_dtype: Literal["uint8", "uint16", "uint32"] = Field(
        "uint32", description="type of one id"
    )
    label_bits: int = Field(
        16,
        ge=1,
        le=16,
        description="low bits of an id that name the class; the bits above are the instance",
    )
    split: dict[SplitName, tuple[int, int]] = Field(
        default_factory=dict,
        description="inclusive range of positions in the sorted list of scans, {train: [0, 9], val: [10, 11]}; "
        "without it all scans",
    )

    @model_validator(mode="before")
    @classmethod
    def _earlier_keys(cls, values: Any) -> Any:
        """Read the keys as they were called before: ``labels`` was ``label_files``, ``label_space`` was ``labels``.

        Raises:
            UserError: old and new keys say different things.
        """
        if not isinstance(values, dict):
            return values
        given = dict(values)
        labels = given.get("labels")
        if isinstance(labels, str) and "{stem}" in labels:
            given["label_files"] = given.pop("labels")
        elif "labels" in given and labels is None and given.get("label_files") is not None:
            raise UserError(
                "labels: null once meant that there are no labels, but label_files names some",
                where="dataset.labels",
                cure="For scans without labels set dataset.label_files null; else leave dataset.labels out",
            )
        if "label_space" in given:
            space = given.pop("label_space")
            if given.get("labels") not in (None, space):
                raise UserError(
                    f"labels is '{labels}' and label_space, its earlier name, is '{space}'; "
                    "a pattern of label files must contain {stem}",
                    where="dataset.labels",
                    cure="Leave dataset.label_space out",
                )
            given["labels"] = space
        return given


class FolderDataset(ScanDataset):
    """One split of a folder of scans. Poses are unknown and therefore NaN; tokens are the files' stems."""

    Config = FolderConfig
    config: FolderConfig
    title = "Folder"
    labels = SEMANTICKITTI

    def __init__(self, config: FolderConfig, split: str) -> None:
        """List the split's scans.

        Raises:
            UserError: the root, the labels' folder or the label space is missing, two scans share a stem, a camera is
                not calibrated, or the split is empty.
        """
        super().__init__(config, split)
        self.point_fields = config.point_fields
        self.label_dtype = np.dtype(config.label_dtype).newbyteorder("<")
        self.labelled = config.use_labels and config.label_files is not None and split != "test"
        if not self.root.is_dir():
            raise UserError(
                "this folder does not exist",
                where=str(self.root),
                cure=f"dataset.root must contain scans matching '{config.scans}'; pass --dataset.root FOLDER",
            )
        self.calibration = self._calibrated()
        self.cameras = tuple(self.calibration)
        self._gaps: list[Gap] = []
        self._scans = self._whole(self._ranged(self._found()))
        if not self._scans:
            why = "; ".join(gap.text for gap in self._gaps)
            if not why:
                why = f"dataset.split.{split} selects nothing"
            raise UserError(
                f"the {split} split is empty: {why}",
                where=str(self.root),
                cure="Check dataset.split",
            )

    def _calibrated(self) -> dict[str, CameraCalibration]:
        """The wanted cameras; none where the folder has no calibration."""
        path = self.root / CALIBRATION
        known: dict[str, CameraCalibration] = {}
        if path.is_file():
            known = read_calibration(path)
        if self.config.cameras is None:
            return known
        lacking = [name for name in self.config.cameras if name not in known]
        if lacking:
            cure = "The file does not exist, so there are no cameras"
            if known:
                cure = f"The file names {', '.join(known)}"
            raise UserError(
                f"camera {', '.join(lacking)} of dataset.cameras is not calibrated",
                where=str(path),
                cure=cure,
            )
        return {name: known[name] for name in self.config.cameras}

    def _found(self) -> list[Path]:
        scans = sorted(path for path in self.root.glob(self.config.scans) if path.is_file())
        if not scans:
            self._gaps.append(Gap(f"no file matches dataset.scans '{self.config.scans}'"))
        by_stem: dict[str, Path] = {}
        for path in scans:
            other = by_stem.setdefault(_stem(path), path)
            if other is not path:
                raise UserError(
                    f"two scans share the stem '{_stem(path)}': {other.relative_to(self.root)}",
                    where=str(path),
                    cure="Stems name scans and their labels: narrow dataset.scans, or rename the files",
                )
        return scans

    def _ranged(self, scans: list[Path]) -> list[Path]:
        if not self.config.split:
            return scans
        if self.split not in self.config.split:
            return []
        first, last = self.config.split[self.split]
        if scans and last >= len(scans):
            self._gaps.append(
                Gap(f"dataset.split.{self.split} ends at {last}, but there are {len(scans)} scans")
            )
        return scans[first : last + 1]

    def _whole(self, scans: list[Path]) -> list[Path]:
        if not self.labelled or not scans:
            return scans
        folder = self._label_file(scans[0]).parent
        if not folder.is_dir():
            raise UserError(
                "this folder of labels does not exist",
                where=str(folder),
                cure="Check dataset.label_files; for label-free jobs set dataset.use_labels false",
            )
        whole = [path for path in scans if self._label_file(path).is_file()]
        lost = len(scans) - len(whole)
        if lost:
            self._gaps.append(Gap(f"{lost} of {len(scans)} scans have no label file in {folder}"))
        return whole

    def _label_file(self, scan: Path) -> Path:
        return self.root / str(self.config.label_files).replace("{stem}", _stem(scan))

    def __len__(self) -> int:
        return len(self._scans)

    def token(self, index: int) -> str:
        """The scan file's name without its ending."""
        return _stem(self._scans[index])

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {_stem(path): i for i, path in enumerate(self._scans)}

    def index_of(self, token: str) -> int:
        """Position of the scan file of that name."""
        if token not in self._positions:
            raise self._unknown_token(token)
        return self._positions[token]

    def gaps(self) -> list[Gap]:
        """What was noted while the folder was opened, and how many images each camera lacks."""
        gaps = list(self._gaps)
        for name in self.cameras:
            there = {file.split(".", 1)[0] for file in listing(self.root / "images" / name)}
            lacking = sum(_stem(scan) not in there for scan in self._scans)
            if lacking:
                folder = self.root / "images" / name
                text = f"{lacking} of {len(self)} scans have no image in {folder}"
                gaps.append(Gap(text, "cameras"))
        return gaps

    def files(self, index: int) -> ScanFiles:
        """The scan, its label file as ``label_files`` says, and the image of the same name of each camera."""
        scan = self._scans[index]
        labels = None
        if self.labelled:
            labels = self._label_file(scan)
        images = {name: image_of(self.root, name, _stem(scan)) for name in self.cameras}
        return ScanFiles(points=scan, labels=labels, images=images)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the array of points; ids of ``label_bits`` bits hold a class, those above an instance."""
        files = self.files(index)
        if files.points.suffix == ".npy":
            points = _read_npy(files.points, self.point_fields)
        else:
            points = read_points(files.points, self.point_fields)
        labels = instances = None
        if files.labels is not None:
            raw = read_labels(files.labels, self.label_dtype, len(points))
            bits = self.config.label_bits
            if bits < 8 * raw.itemsize:
                instances = (raw >> bits).astype(np.int32)
                raw = raw & ((1 << bits) - 1)
            labels = self.labels.to_train(raw, files.labels)
        return Scan(
            token=self.token(index),
            points=Points(
                xyz=np.ascontiguousarray(points[:, :3]),
                intensity=np.ascontiguousarray(points[:, 3]),
                label=labels,
                instance=instances,
            ),
            sensor=self.sensor,
            cameras=self._open_cameras(files) if cameras else (),
        )

    def _open_cameras(self, files: ScanFiles) -> tuple[Camera, ...]:
        cameras = []
        for name, path in files.images.items():
            cameras.append(open_camera(name, self.calibration[name], path))
        return tuple(cameras)


def _read_npy(path: Path, fields: int) -> np.ndarray:
    """f32 [N, 4] of an array of numbers [N, fields]; :func:`core.datasets.files.read_points` for ``.npy``."""
    values = read_array(path, "scan", cure="Save it with numpy.save")
    if values.ndim != 2 or values.shape[1] != fields or values.dtype.kind not in "fiu":
        raise UserError(
            f"the array is {values.dtype} {list(values.shape)}; expected numbers [points, {fields}]",
            where=str(path),
            cure="One row per point: x, y, z (m), intensity, …; dataset.point_fields says how many values",
        )
    points = np.ascontiguousarray(values[:, :4], np.float32)
    if not len(points) or not np.isfinite(points).all():
        raise UserError(
            "the scan holds no points, or NaN or infinite values",
            where=str(path),
            cure="Leave those out",
        )
    return points


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]
