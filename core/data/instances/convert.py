"""Takes over instance databases in the old layout: one file per instance, and a pickled dict of lists of paths.

``inst_database_train_info.pkl`` maps class names to absolute paths on the machine that wrote it; only the last three
components count, below the pickle's own folder: ``inst_database_train/<class>/<scan>_<class>_<instance>.bin``, float32
x, y, z, intensity and, for some data sets, one value more.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from core.config import Config
from core.data.instances.build import anchors, default_folder, rules_of, smallest, training_scans
from core.data.instances.database import Database, index_dtype
from core.data.instances.writer import CONTENT, Part, write_database
from core.data.paste_config import ThingRule
from core.datasets import dataset_class
from core.datasets.base import ScanDataset
from core.datasets.files import read_points
from core.errors import UserError
from core.io import file_stamp
from core.labels import LabelSpace
from core.paths import check_name

__all__ = ["convert_database", "read_old_index"]

_FILES_PER_PART = 512


class Record(NamedTuple):
    """One file of the old database; ``scan`` is its position in the training split, -1 = not in it."""

    cls: int
    scan: int
    instance: int
    token: str
    path: str


def convert_database(
    config: Config, old: Path, out: Path | None = None, workers: int = 1
) -> Database:
    """Write the instances of an old database that belong to the training split.

    Instances of other scans are left out and counted: old databases of nuScenes hold scans of the validation split.

    Args:
        old: the pickled index. out: as for :func:`core.data.instances.build.build_database`.

    Raises:
        UserError: the index is not what it should be, a file is missing or cut short, a class is unknown.
    """
    dataset = training_scans(config)
    rules = rules_of(config, dataset)
    records = _records(read_old_index(old), old, dataset)
    identity = {
        "source": "converted",
        "old_index": hashlib.sha256(old.read_bytes()).hexdigest(),
        "dataset": dataset_class(config).title,
        "records": len(records),
        CONTENT: _stamp_of(records),
        "labels": dataset.labels.fingerprint,
        "min_points": smallest(rules, dataset),
    }
    work = _Converter(dataset.point_fields, rules)
    starts = range(0, len(records), _FILES_PER_PART)
    tasks = [records[k : k + _FILES_PER_PART] for k in starts]
    folder = default_folder(config, dataset) if out is None else out
    return write_database(folder, identity, dataset.labels, tuple(rules), work, tasks, workers)


def _stamp_of(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(file_stamp(Path(record.path)).encode())
    return digest.hexdigest()


class _PlainUnpickler(pickle.Unpickler):  # noqa: S301  (it loads no code)
    """Builds dicts, lists, tuples, strings and numbers, and refuses everything that names code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_old_index(path: Path) -> dict[str, list[str]]:
    """Read class name -> paths. Nothing in the file can run.

    Raises:
        UserError: the file is missing, no pickle, names code, or holds something else.
    """
    cure = "Give the inst_database_*_info.pkl that the old script wrote"
    try:
        with open(path, "rb") as stream:
            content = _PlainUnpickler(stream).load()
    except FileNotFoundError as error:
        raise UserError("this file does not exist", where=str(path), cure=cure) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"refused: {error}; an index holds only names and paths", where=str(path), cure=cure
        ) from error
    except Exception as error:
        raise UserError(
            f"this is no pickled index ({error})", where=str(path), cure=cure
        ) from error
    if not _is_index(content):
        raise UserError(
            "this is not a dict from class names to lists of paths", where=str(path), cure=cure
        )
    return {name: list(files) for name, files in content.items()}


def _is_index(content: object) -> bool:
    """It is a dict from names to lists (or tuples) of paths."""
    if not isinstance(content, dict):
        return False
    for name, files in content.items():
        if not isinstance(name, str) or not isinstance(files, list | tuple):
            return False
        if not all(isinstance(file, str) for file in files):
            return False
    return True


def _records(index: dict[str, list[str]], old: Path, dataset: ScanDataset) -> list[Record]:
    """Records by class, then in the order of the data set."""
    known = {dataset.token(i): i for i in range(len(dataset))}
    records = []
    for name, files in index.items():
        cls = _class_of(name, dataset.labels, old)
        for file in files:
            parts = PurePosixPath(file.replace("\\", "/")).parts[-3:]
            if len(parts) < 3:
                raise UserError(f"cannot use the path {file!a}", where=str(old))
            check_name("/".join(parts), str(old))
            token, instance = _named(Path(parts[-1]).stem, name, known, old)
            path = str(old.parent.joinpath(*parts))
            records.append(Record(cls, known.get(token, -1), instance, token, path))
    return sorted(records)


def _class_of(name: str, labels: LabelSpace, old: Path) -> int:
    plain = [other.replace("-", "_").lower() for other in labels.classes]
    wanted = name.replace("-", "_").replace(" ", "_").lower()
    if wanted not in plain[1:]:
        raise UserError(
            f"it has the class '{name}', which the label space '{labels.name}' does not know",
            where=str(old),
            cure="Name the configuration of the data set that the old database was made from",
        )
    return plain.index(wanted)


def _named(stem: str, name: str, known: dict[str, int], old: Path) -> tuple[str, int]:
    """(token, instance) of ``<scan>_<class>_<instance>``; SemanticKITTI's scans are written ``08_000123``."""
    scan, _, instance = stem.rpartition(f"_{name}_")
    if not scan or not instance.isdecimal() or int(instance) >= 2**31:
        raise UserError(f"'{stem}' is not named <scan>_{name}_<number>", where=str(old))
    slashed = scan.replace("_", "/", 1)
    if scan not in known and slashed in known:
        scan = slashed
    return scan, int(instance)


@dataclass(frozen=True)
class _Converter:
    """Makes the part of some records."""

    fields: int
    rules: dict[int, ThingRule]

    def __call__(self, records: Sequence[Record]) -> Part:
        kept = []
        clouds = [np.zeros((0, 4), np.float32)]
        small = 0
        foreign = 0
        for record in records:
            if record.scan < 0:
                foreign += 1
            elif record.cls in self.rules:
                cloud = _read(Path(record.path), self.fields)
                if len(cloud) < self.rules[record.cls].min_points:
                    small += 1
                else:
                    kept.append(record)
                    clouds.append(cloud)
        points = np.concatenate(clouds)
        tokens = [record.token.encode() for record in kept]
        index = np.zeros(len(kept), index_dtype(max(map(len, tokens), default=1)))
        index["cls"] = [record.cls for record in kept]
        index["instance"] = [record.instance for record in kept]
        index["count"] = [len(cloud) for cloud in clouds[1:]]
        index["token"] = tokens
        anchors(points, index)
        return Part(points, index, small, foreign)


def _read(path: Path, fields: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(
            "this file of the old database does not exist",
            where=str(path),
            cure="Copy the whole folder; the index must lie beside it",
        )
    return read_points(path, fields)
