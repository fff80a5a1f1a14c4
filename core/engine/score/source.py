"""What a person asks to be predicted: a split of the data set, a folder of scans, or one scan."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from loguru import logger

from core.config import Config
from core.datasets import dataset_class
from core.datasets.base import DatasetConfig, ScanDataset, check_split
from core.datasets.find import contents, find_files
from core.datasets.folder import FolderConfig, FolderDataset
from core.datasets.scan_columns import ColumnsConfig
from core.datasets.scan_formats import SCAN_FORMATS, check_scan_file, has_fixed_rows, stem_of
from core.errors import UserError

__all__ = ["default_out", "folder_section", "open_source"]


def open_source(config: Config, source: str, point_fields: int | None = None) -> ScanDataset:
    """The scans to predict; labels are never read.

    Args:
        config: names the data set, for its splits or its label space and point format.
        source: ``split:val`` (or train, test), a scan, or a folder of scans (:mod:`core.datasets.scan_formats`), with
            images where it holds a ``calibration.yaml`` (:mod:`core.datasets.calibration`).
        point_fields: values per point in ``.bin`` and plain ``.npy`` scans; None = as in the data set.

    Raises:
        UserError: no such split or folder, no scans, or files of another number of values per point.
    """
    reader = dataset_class(config)
    section = config.parse(reader.Config, "dataset")
    kind, _, split = source.partition(":")
    if kind == "split":
        check_split(split)
        return reader(section.model_copy(update={"use_labels": False}), split)
    scans = _open_folder(Path(source), reader, section, point_fields)
    if section.model_dump().get("multisweeps", {}).get("num_sweeps"):
        logger.warning(
            "the network was trained on joined sweeps; each scan of a folder stands alone"
        )
    return scans


def _open_folder(
    source: Path, reader: type[ScanDataset], section: DatasetConfig, point_fields: int | None
) -> FolderDataset:
    """Scans with the classes, the scanner and, as far as they are known, the columns of a data set."""
    root, scans = _scans_of(source)
    given = folder_section(root, scans, reader, section, point_fields)
    found = FolderDataset(given, "test")
    found.labels = reader.label_space(section)
    found.sensor = section.sensor.over(reader.sensor)
    _check_rows(found, found.config.point_fields)
    return found


def folder_section(
    root: Path,
    scans: str,
    reader: type[ScanDataset],
    section: DatasetConfig,
    point_fields: int | None = None,
) -> FolderConfig:
    """How scans of a folder are read, with what is known of the columns of a data set's.

    Args:
        scans: pattern of their names below ``root``. point_fields: see :func:`open_source`.

    Raises:
        UserError: ``point_fields`` is given for files that say it themselves.
    """
    keys: dict[str, Any] = {}
    if isinstance(section, FolderConfig):
        keys = section.model_dump(include={"point_fields", *ColumnsConfig.model_fields})
    elif reader.point_fields:  # 0 where a data set keeps its scans in no array at all
        keys["point_fields"] = reader.point_fields
    if point_fields is not None:
        if not has_fixed_rows(Path(scans)) and Path(scans).suffix != ".npy":
            raise UserError(
                "files of this kind say themselves which values a point has",
                where=f"--point-fields {point_fields}, {root}",
                cure="Leave --point-fields out; dataset.point_columns names columns",
            )
        keys["point_fields"] = point_fields
    folder = {"name": "folder", "root": root, "scans": scans, "columns": section.columns} | keys
    return Config({"dataset": folder}, source="--predict").parse(FolderConfig, "dataset")


def _check_rows(scans: FolderDataset, fields: int) -> None:
    """Look at the first scan, and at those whose size alone shows that they have other values per point."""
    for index in range(len(scans)):
        path = scans.files(index).points
        if index == 0 or (has_fixed_rows(path) and path.stat().st_size % (4 * fields)):
            check_scan_file(path, fields)


def _scans_of(source: Path) -> tuple[Path, str]:
    """The folder of the scans that a person names, and the pattern of their names.

    Raises:
        UserError: there is no such file or folder, or it holds no scans, or scans of several kinds.
    """
    if source.is_file():
        if source.suffix.lower() in SCAN_FORMATS:
            return source.parent, glob.escape(source.name)
        raise UserError(
            f"scans end in {', '.join(SCAN_FORMATS)}; this file does not", where=str(source)
        )
    found = "no such file or folder"
    if source.is_dir():
        kinds = {path.suffix.lower() for path in find_files(source, "*")} & set(SCAN_FORMATS)
        if len(kinds) == 1:
            return source, f"*{kinds.pop()}"
        found = f"no scans; {contents(source)}"
        if kinds:
            found = f"both {' and '.join(sorted(kinds))} files"
    raise UserError(
        f"{found}; expected a scan or one folder of scans of one kind",
        where=str(source),
        cure=f"Give {', '.join(SCAN_FORMATS)} files, or a split of the data set: split:val",
    )


def default_out(run: Path, source: str, job: str = "predictions") -> Path:
    """Where predictions go unless told: ``<run>/<job>/<name>`` of a split, a folder or a scan."""
    kind, _, split = source.partition(":")
    if kind == "split":
        return run / job / split
    return run / job / stem_of(Path(source).resolve())
