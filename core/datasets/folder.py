"""One's own scans: a folder of files of any format in :mod:`core.datasets.scan_formats`, ids per scan, cameras.

Beside the scans, ``calibration.yaml`` (:mod:`core.datasets.calibration`) and ``images/<camera>/<token>.png`` or
``.jpg`` give the cameras, if there are some.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from core.contracts import IGNORE, Camera, Points, Scan
from core.datasets.base import DatasetConfig, Gap, ScanDataset, ScanFiles, SplitName
from core.datasets.calibration import (
    CALIBRATION,
    CameraCalibration,
    image_of,
    open_camera,
    read_calibration,
)
from core.datasets.files import listing
from core.datasets.find import check_pattern, contents, find_files, is_hidden
from core.datasets.label_files import check_ids, read_ids
from core.datasets.numbered import first_names
from core.datasets.scan_columns import ColumnsConfig, column_of, make_points
from core.datasets.scan_formats import Table, has_fixed_rows, read_table, stem_of
from core.errors import UserError, counted
from core.labels import SEMANTICKITTI

__all__ = ["FolderConfig", "FolderDataset"]


def _names_scan(pattern: str) -> str:
    if "{stem}" not in pattern and "{token}" not in pattern:
        raise ValueError(
            "must contain {stem}, the scan's file name without its suffix, or {token}, its path without suffix"
        )
    return pattern


class FolderConfig(DatasetConfig, ColumnsConfig):
    """``dataset:`` section of one's own data."""

    scans: Annotated[str, AfterValidator(check_pattern)] = Field(
        "*.bin",
        description="glob of the scan files below root: .bin (float32), .npy, .npz, .pcd, .las or .laz; ** stands for "
        "any folders",
    )
    label_files: Annotated[str, AfterValidator(_names_scan)] | None = Field(
        None,
        description="label file of a scan below root, .npy, .npz or ids of label_dtype, e.g. {stem}.label; {stem} is "
        "the scan's file name without its suffix, {parent} its folder below root, {token} its path below the fixed "
        "part of scans, without suffix; null = no labels",
    )
    label_column: str | int | None = Field(
        None,
        description="column of the scan file that holds the labels, e.g. classification of .las; in place of "
        "label_files",
    )
    label_key: str | None = Field(
        None, description="array of an .npz label file; null = the only one"
    )
    point_fields: int = Field(
        4,
        ge=3,
        description="values per point of .bin and plain .npy scans; the first are x, y, z (m, z up) and intensity, "
        "which 3 leave out",
    )
    label_dtype: Literal["uint8", "uint16", "uint32"] = Field(
        "uint32", description="type of one id in a label file that is no .npy or .npz"
    )
    label_bits: int = Field(
        16,
        ge=1,
        le=16,
        description="low bits of an id that name the class; the bits above are the instance",
    )
    split: dict[SplitName, tuple[int, int]] = Field(
        default_factory=dict,
        description="inclusive range of positions in the list of scans, {train: [0, 9], val: [10, 11]}; the list is "
        "sorted by folders and names, numbers by value; without it all scans",
    )

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> FolderConfig:
        if self.label_files is not None and self.label_column is not None:
            raise ValueError("labels come from label_files or from label_column, not from both")
        if self.point_fields == 3:
            self.point_columns.setdefault("intensity", None)
        return self

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
    """One split of a folder of scans. Poses are unknown and therefore NaN; tokens are the files' paths.

    A token is the path below the part of ``dataset.scans`` without wildcards, and has no suffix: of ``lidar/*.bin`` it
    is the file's name, of ``*/*.bin`` also its folder, so that drives may count their frames alike.
    """

    Config = FolderConfig
    config: FolderConfig
    title = "Folder"
    labels = SEMANTICKITTI

    def __init__(self, config: FolderConfig, split: str) -> None:
        """List the split's scans.

        Raises:
            UserError: the root, the labels' folder or the label space is missing, two scans have one name or one label
                file, a camera is not calibrated, or the split is empty.
        """
        super().__init__(config, split)
        self.label_dtype = np.dtype(config.label_dtype).newbyteorder("<")
        wanted = config.label_files is not None or config.label_column is not None
        self.labelled = config.use_labels and wanted and split != "test"
        if not self.root.is_dir():
            raise UserError(
                "this folder does not exist",
                where=str(self.root),
                cure=f"dataset.root must contain scans matching '{config.scans}'; pass --dataset.root FOLDER",
            )
        self._fault: UserError | None = (
            None  # of the calibration, which only jobs with cameras read
        )
        try:
            self.calibration = self._calibrated()
        except UserError as error:
            if self.config.cameras:
                raise
            self.calibration = {}
            self._fault = error
            self._gaps.append(Gap(str(error), "cameras"))
        self.cameras = tuple(self.calibration)
        found = self._found()
        self._scans = self._whole(self._ranged(found))
        if not self._scans:
            raise self._empty()
        self._note_unread(found)
        self.warn_of_unread()
        self.point_fields = config.point_fields
        if not all(has_fixed_rows(scan) for scan in self._scans):
            self.point_fields = 0

    def _empty(self) -> UserError:
        """The error of a split without scans."""
        why = "; ".join(gap.text for gap in self._gaps)
        if not why:
            why = f"dataset.split.{self.split} selects nothing"
        cure = "Check dataset.split"
        if not self._found():
            cure = f"{contents(self.root)}; check dataset.root and dataset.scans"
        return UserError(f"the {self.split} split is empty: {why}", where=str(self.root), cure=cure)

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
        scans = find_files(self.root, self.config.scans)
        if not scans:
            self._gaps.append(Gap(f"no file matches dataset.scans '{self.config.scans}'"))
        by_token: dict[str, Path] = {}
        for path in scans:
            other = by_token.setdefault(self._token(path), path)
            if other is not path:
                raise UserError(
                    f"two scans share the name '{self._token(path)}': {other.relative_to(self.root)}",
                    where=str(path),
                    cure="Names without suffix tell scans apart: narrow dataset.scans, or rename the files",
                )
        return scans

    def _token(self, scan: Path) -> str:
        fixed = 0
        for part in self.config.scans.split("/")[:-1]:
            if any(sign in part for sign in "*?["):
                break
            fixed += 1
        parts = scan.relative_to(self.root).parts[fixed:]
        return "/".join([*parts[:-1], stem_of(scan)])

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
        """The scans that have what the job needs of them."""
        if not self.labelled or not scans or self.config.label_files is None:
            return scans
        folder = self._label_file(scans[0]).parent
        if not folder.is_dir():
            raise UserError(
                "this folder of labels does not exist",
                where=str(folder),
                cure="Check dataset.label_files; for label-free jobs set dataset.use_labels false",
            )
        by_file: dict[Path, Path] = {}
        for path in scans:
            other = by_file.setdefault(self._label_file(path), path)
            if other is not path:
                raise UserError(
                    f"{other.relative_to(self.root)} and {path.relative_to(self.root)} would share this label file",
                    where=str(self._label_file(path)),
                    cure="Use {token} or {parent}/{stem} in dataset.label_files",
                )
        whole = [path for path in scans if self._label_file(path).is_file()]
        lost = len(scans) - len(whole)
        if lost:
            self._gaps.append(Gap(f"{lost} of {len(scans)} scans have no label file in {folder}"))
        return whole

    def _note_unread(self, scans: list[Path]) -> None:
        """Note files that lie among scans and labels, look like them, and are not read.

        A pattern without wildcards asks for one scan, and means to leave the others out.
        """
        if not has_magic(self.config.scans):
            return
        labels: set[Path] = set()
        if self.config.label_files is not None:
            labels = {self._label_file(scan) for scan in scans}
        known = labels.union(scans)
        for files, kind in ((scans, "a scan"), (labels, "a scan's labels")):
            names = [
                str(path.relative_to(self.root)) for path in _alike(files) if path not in known
            ]
            if names:
                what = f"{counted(len(names), 'file')} could be {kind} and no name leads there"
                self._gaps.append(Gap(f"{what} ({first_names(names)})", "nothing", unread=True))

    def check_images(self) -> None:
        """See that the calibration is sound, and that scans have their images; see :class:`ScanDataset`.

        Raises:
            UserError: it is not, or one is missing.
        """
        if self._fault is not None:
            raise self._fault
        if self.calibration:  # without one there are no cameras, and prediction does without images
            super().check_images()

    def _label_file(self, scan: Path) -> Path:
        name = str(self.config.label_files)
        name = name.replace("{parent}", str(scan.parent.relative_to(self.root)))
        name = name.replace("{token}", self._token(scan)).replace("{stem}", stem_of(scan))
        return self.root / os.path.normpath(name)

    def __len__(self) -> int:
        return len(self._scans)

    def token(self, index: int) -> str:
        """The scan file's path without suffix; see :class:`FolderDataset`."""
        return self._token(self._scans[index])

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self._token(path): i for i, path in enumerate(self._scans)}

    def index_of(self, token: str) -> int:
        """Position of the scan file of that name."""
        if token not in self._positions:
            raise self._unknown_token(token)
        return self._positions[token]

    def gaps(self) -> list[Gap]:
        """What was noted while the folder was opened, and how many images each camera lacks."""
        gaps = list(self._gaps)
        for name in self.cameras:
            lacking = 0
            for scan in self._scans:
                lacking += not image_of(self.root, name, self._token(scan)).is_file()
            if lacking:
                folder = self.root / "images" / name
                text = f"{lacking} of {len(self)} scans have no image in {folder}"
                gaps.append(Gap(text, "cameras"))
        return gaps

    def files(self, index: int) -> ScanFiles:
        """The scan, the file that holds its labels, and the image of the same name of each camera."""
        scan = self._scans[index]
        labels = None
        if self.labelled:
            labels = scan
            if self.config.label_files is not None:
                labels = self._label_file(scan)
        images = {name: image_of(self.root, name, self._token(scan)) for name in self.cameras}
        return ScanFiles(points=scan, labels=labels, images=images)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the columns of points; ids of ``label_bits`` bits hold a class, those above an instance."""
        files = self.files(index)
        table = read_table(files.points, self.config.point_fields)
        points = make_points(table, self.config, str(files.points))
        if files.labels is not None:
            points = self._labelled(points, table, files.labels)
        return Scan(
            token=self.token(index),
            points=points,
            sensor=self.sensor,
            cameras=self._open_cameras(files) if cameras else (),
        )

    def _labelled(self, points: Points, table: Table, path: Path) -> Points:
        """The points with classes and, where ids have bits for them, instances; none where there is no return."""
        raw = self._ids(table, len(points), path)
        instances = None
        bits = self.config.label_bits
        if bits < 8 * raw.itemsize:
            instances = (raw >> bits).astype(np.int32)
            raw = raw & ((1 << bits) - 1)
        labels = self.labels.to_train(raw, path)
        lost = points.get("no_return")
        if lost is not None:
            labels[lost] = IGNORE
            if instances is not None:
                instances[lost] = 0
        return points.having(label=labels, instance=instances)

    def _ids(self, table: Table, count: int, path: Path) -> np.ndarray:
        column = self.config.label_column
        if column is None:
            return read_ids(path, self.label_dtype, count, self.config.label_key)
        return check_ids(column_of(table, "label_column", column, str(path)), count, path)

    def _open_cameras(self, files: ScanFiles) -> tuple[Camera, ...]:
        if self._fault is not None:
            raise self._fault
        cameras = []
        for name, path in files.images.items():
            cameras.append(open_camera(name, self.calibration[name], path))
        return tuple(cameras)


def _alike(files: Collection[Path]) -> Iterator[Path]:
    """What lies in the same folders under the same suffixes, without hidden files."""
    suffixes = {path.suffix.lower() for path in files}
    for folder in sorted({path.parent for path in files}):
        for name in sorted(listing(folder)):
            path = folder / name
            if path.suffix.lower() in suffixes and not is_hidden(name):
                yield path
