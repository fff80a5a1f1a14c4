"""The instance database on disk: one flat file of points per class, one index, one description.

``<class>.bin`` holds f32 [n, 4] x, y, z (m, in the LiDAR frame of the instance's own scan, so that range and viewing
angle are kept) and intensity (the data set's own scale), instance after instance. ``index.npy`` has one row per
instance, ordered by class, then as in the data set; ``meta.json`` says what it was made from. Files are memory-mapped,
so that all loading workers share one copy of the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from core.decode import check_json, read_array, read_json
from core.errors import UserError
from core.io import sha256
from core.paths import inside

__all__ = ["FORMAT", "INDEX", "META", "Database", "class_file", "index_dtype"]

FORMAT = 1  # raise when files of an older version can no longer be read
META, INDEX = "meta.json", "index.npy"
_AGAIN = "Write it with 'python prepare_inst_database.py CONFIG'"


def index_dtype(token_bytes: int) -> np.dtype:
    """Describe one row of the index.

    ``cls`` train id; ``offset`` (points) into the class's file and ``count``; ``instance`` the data set's own number;
    ``anchor`` m, mean x, mean y, smallest z; ``azimuth`` rad and ``range`` m of the anchor in the x-y plane; ``token``
    of the scan.
    """
    return np.dtype(
        [
            ("cls", "u1"),
            ("offset", "<i8"),
            ("count", "<i4"),
            ("instance", "<i4"),
            ("anchor", "<f4", 3),
            ("azimuth", "<f4"),
            ("range", "<f4"),
            ("token", f"S{max(token_bytes, 1)}"),
        ]
    )


def class_file(name: str) -> str:
    """Return the file of a class: its name, with what a file system may not like replaced."""
    return re.sub(r"[^\w-]", "_", name) + ".bin"


class _Class(BaseModel):
    """A class's part of ``meta.json``."""

    id: int = Field(ge=0, le=255)
    name: str
    file: str
    instances: int = Field(ge=1)
    points: int = Field(ge=1)
    min: int
    median: int
    max: int


class _Labels(BaseModel):
    name: str
    fingerprint: str


class _Meta(BaseModel):
    """``meta.json``; databases of earlier versions have no ``sha256`` of their files by name."""

    model_config = ConfigDict(extra="allow")

    sha256: dict[str, str] = Field(default_factory=dict)

    identity: dict[str, Any]
    labels: _Labels
    classes: list[_Class] = Field(min_length=1)
    absent: list[str]


class Database:
    """A finished database, read only; arrays are mapped when first used, and again in every process that gets it.

    Attributes:
        folder: where it lies. meta: content of ``meta.json``.
    """

    def __init__(self, folder: Path, *, hashes: bool = True) -> None:
        """Check that the files belong together and are whole.

        Args:
            hashes: read every file once and compare its SHA-256, about a second per GB.

        Raises:
            UserError: the folder holds no finished database, one of another version, or a file is damaged.
        """
        self.folder = Path(folder)
        if not (self.folder / META).is_file():
            raise UserError(
                "this folder holds no finished instance database", where=str(folder), cure=_AGAIN
            )
        path = self.folder / META
        stored = read_json(path, dict[str, Any], cure=_AGAIN)
        if stored.get("format") != FORMAT:
            raise UserError(
                f"this instance database has format {stored.get('format')}, this version reads {FORMAT}",
                where=str(folder),
                cure="Delete the folder and write it anew",
            )
        meta = check_json(stored, str(path), _Meta, cure=_AGAIN)
        self.meta: dict[str, Any] = meta.model_dump()
        for entry in self.meta["classes"]:
            self._check_size(entry["file"], 16 * entry["points"])
        if not self._index_fits():
            raise UserError(
                "the index does not belong to this database",
                where=str(self.folder / INDEX),
                cure=_AGAIN,
            )

        if hashes:
            self._compare_hashes()

    def _compare_hashes(self) -> None:
        for name, expected in self.meta["sha256"].items():
            path = inside(self.folder, name)
            if sha256(path) != expected:
                raise UserError(
                    f"this file is damaged: its SHA-256 is not the one in {META}",
                    where=str(path),
                    cure="Copy the database again, or delete its folder and write it anew",
                )

    def _index_fits(self) -> bool:
        """The index has this version's columns, and its rows lie one after the other in the files of their classes."""
        index = self.index
        fields = index.dtype.fields or {}
        if index.ndim != 1 or "token" not in fields:
            return False
        if index.dtype != index_dtype(index.dtype["token"].itemsize):
            return False
        classes = self.meta["classes"]
        if len(index) != sum(entry["instances"] for entry in classes):
            return False
        for entry in classes:
            rows = index[index["cls"] == entry["id"]]
            counts = rows["count"].astype(np.int64)
            ends = np.cumsum(counts)
            right = len(rows) == entry["instances"] and counts.min(initial=1) > 0
            if not right or ends[-1] != entry["points"] or (ends - counts != rows["offset"]).any():
                return False
        return True

    def _check_size(self, name: str, size: int) -> None:
        path = inside(self.folder, name)
        found = "missing"
        if path.is_file():
            found = f"{path.stat().st_size} bytes"
        if found != f"{size} bytes":
            raise UserError(
                f"{found}, expected {size} bytes",
                where=str(path),
                cure="Copy the database again, or delete its folder and write it anew",
            )

    def __reduce__(self) -> tuple[Callable[..., Database], tuple[Path]]:
        """A worker maps the files again in place of receiving them; they are known to be whole."""
        return partial(Database, hashes=False), (self.folder,)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the label space whose train ids the classes are."""
        return self.meta["labels"]["fingerprint"]

    @cached_property
    def index(self) -> np.ndarray:
        """Rows of :func:`index_dtype`, mapped."""
        return read_array(self.folder / INDEX, "index", cure=_AGAIN, mapped=True)

    @cached_property
    def _points(self) -> dict[int, np.ndarray]:
        """Points of each class by train id, mapped."""
        points: dict[int, np.ndarray] = {}
        for entry in self.meta["classes"]:
            shape = (entry["points"], 4)
            points[entry["id"]] = np.memmap(self.folder / entry["file"], "<f4", "r", shape=shape)
        return points

    def points(self, row: int) -> np.ndarray:
        """Return the points of instance ``row``: f32 [count, 4], a copy."""
        entry = self.index[row]
        start = int(entry["offset"])
        end = start + int(entry["count"])
        points = self._points[int(entry["cls"])]
        return np.array(points[start:end], np.float32)

    def summary(self) -> str:
        """Describe instances and points per class in lines of text."""
        lines = [
            f"  {'class':22}{'instances':>10}{'points':>12}{'smallest':>10}{'median':>8}{'largest':>9}"
        ]
        for entry in self.meta["classes"]:
            line = "  {name:22}{instances:>10,}{points:>12,}{min:>10,}{median:>8,}{max:>9,}"
            lines.append(line.format(**entry))
        absent = ", ".join(self.meta["absent"])
        if absent:
            lines.append(f"  no instance of {absent}")
        return "\n".join(lines)
