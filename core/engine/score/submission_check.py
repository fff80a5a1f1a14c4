"""What the benchmarks' own validators ask of a submission, and what their servers refuse later, file by file.

SemanticKITTI (``validate_submission.py`` of semantic-kitti-api): folder entries in the zip, one file per scan, one u32
per point. nuScenes (``nuscenes.eval.lidarseg.validate_submission``): ``submission.json`` with five booleans, one file
per keyframe, one u8 of 1 to 16 per point. Added here: ids a server would count as wrong, files that do not belong.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from core.config import Config
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.errors import UserError
from core.labels import LabelSpace

__all__ = [
    "DESCRIPTION",
    "META_KEYS",
    "ZIP",
    "check_submission",
    "eval_set",
    "meta_name",
    "open_split",
    "prediction_name",
]

ZIP = "submission.zip"
DESCRIPTION = "description.txt"  # optional for SemanticKITTI: name, pdf url, code url of the method
META_KEYS = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
_OURS = (
    "classes.json",
    ZIP,
)  # beside the files of a submission folder; they do not go into the zip
_WIDTH = {"semantickitti": 4, "nuscenes": 1}  # bytes per point


def eval_set(scans: ScanDataset) -> str:
    """The devkit's name of the split, a folder of nuScenes' submissions; the mini version has splits of its own."""
    return f"mini_{scans.split}" if getattr(scans, "version", None) == "v1.0-mini" else scans.split


def prediction_name(dataset: str, token: str, split: str) -> str:
    """File of one scan below a submission's root; ``split`` as :func:`eval_set` says."""
    if dataset == "nuscenes":
        return f"lidarseg/{split}/{token}_lidarseg.bin"
    sequence, _, frame = token.partition("/")
    return f"sequences/{sequence}/predictions/{frame}.label"


def meta_name(split: str) -> str:
    """File of nuScenes that says what the network sees."""
    return f"{split}/submission.json"


def open_split(dataset: str, root: Path, split: str, version: str) -> ScanDataset:
    """The scans a submission answers, without labels.

    Raises:
        UserError: the root, a table or all scans of the split are missing.
    """
    section = {"name": dataset, "root": str(root), "use_labels": False}
    section |= {"version": version} if dataset == "nuscenes" else {}
    return build_dataset(Config({"dataset": section}, source="command line"), split)


class _Files(ABC):
    """Files of a submission by name, with their sizes; ``folders`` are the explicit entries of a zip."""

    sizes: dict[str, int]
    folders: set[str] | None = None

    @abstractmethod
    def read(self, name: str) -> bytes: ...


class _FolderFiles(_Files):
    def __init__(self, root: Path) -> None:
        self.root = root
        paths = {
            path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()
        }
        self.sizes = {
            name: path.stat().st_size for name, path in paths.items() if name not in _OURS
        }

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class _ZipFiles(_Files):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        entries = archive.infolist()
        self.sizes = {entry.filename: entry.file_size for entry in entries if not entry.is_dir()}
        self.folders = {entry.filename for entry in entries if entry.is_dir()}
        names = [entry.filename for entry in entries]
        self.twice = (
            sorted({name for name in names if names.count(name) > 1})
            if len(set(names)) < len(names)
            else []
        )

    def read(self, name: str) -> bytes:
        return self.archive.read(name)


def check_submission(path: Path, scans: ScanDataset) -> Iterator[str]:
    """Look for everything a benchmark would refuse, one scan in memory at a time.

    Args:
        path: a zip, or the folder that is to be zipped.
        scans: the split, without labels; its files on disk say how many points there are.

    Yields:
        one line per fault, which begins with the file's name.

    Raises:
        UserError: ``path`` is neither, or no zip in spite of its name.
    """
    if path.is_dir():
        yield from _faults(_FolderFiles(path), scans)
        return
    if not path.is_file() or path.suffix != ".zip":
        what = (
            "this file's name does not end in .zip" if path.is_file() else "no such file or folder"
        )
        raise UserError(what, where=str(path), cure="Give a submission's folder, or its zip")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"this is no zip archive ({error})", where=str(path), cure="Pack it again"
        ) from error
    with archive:
        files = _ZipFiles(archive)
        yield from (f"{name}: the zip holds this entry twice" for name in files.twice)
        yield from _faults(files, scans)


def _faults(files: _Files, scans: ScanDataset) -> Iterator[str]:
    dataset, split = scans.labels.name, eval_set(scans)
    yield from (
        f"data set: {gap.text}; unpack it, its predictions cannot be checked"
        for gap in _lacking(scans)
    )
    names = [prediction_name(dataset, scans.token(i), split) for i in range(len(scans))]
    if files.folders is not None and dataset == "semantickitti":
        wanted = {
            f"{parent}/": None
            for name in names
            for parent in reversed(PurePosixPath(name).parents[:-1])
        }
        yield from (
            f"{folder}: the zip has no entry for this folder"
            for folder in wanted
            if folder not in files.folders
        )
    if dataset == "nuscenes":
        yield from _meta_faults(files, meta_name(split))
    for index, name in enumerate(names):
        points = scans.files(index).points.stat().st_size // (4 * scans.point_fields)
        yield from _file_faults(files, name, points, scans.labels)
    known = {*names, meta_name(split) if dataset == "nuscenes" else DESCRIPTION}
    yield from (
        f"{name}: this file does not belong to a submission"
        for name in files.sizes
        if name not in known
    )


def _lacking(scans: ScanDataset) -> Iterator:
    return (gap for gap in scans.gaps() if gap.needed_for == "lidar")


def _meta_faults(files: _Files, name: str) -> Iterator[str]:
    if name not in files.sizes:
        yield f"{name}: this file is missing"
        return
    try:
        meta = json.loads(_content(files, name))["meta"]
        wrong = {
            key: meta[key]
            for key in meta
            if key not in META_KEYS or not isinstance(meta[key], bool)
        }
        lacking = [key for key in META_KEYS if key not in meta]
    except (ValueError, KeyError, TypeError) as error:
        yield f"{name}: this is not JSON with an object 'meta' ({error})"
        return
    if lacking or wrong:
        listed = ", ".join(
            [f"{key} is missing" for key in lacking] + [f"{k} is {v!r}" for k, v in wrong.items()]
        )
        yield f"{name}: 'meta' must hold true or false for {', '.join(META_KEYS)} and nothing else; {listed}"


def _content(files: _Files, name: str) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: the entry is damaged.
    """
    try:
        return files.read(name)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted
        raise ValueError(f"damaged: {error}") from error


def _file_faults(files: _Files, name: str, points: int, labels: LabelSpace) -> Iterator[str]:
    width = _WIDTH[labels.name]
    if name not in files.sizes:
        yield f"{name}: this file is missing"
        return
    size = files.sizes[name]
    if size != width * points:
        other = (
            f"; {size // points} bytes per point are another type"
            if size % points == 0 and size
            else ""
        )
        yield f"{name}: {size} bytes; expected {width * points}, for {points} points one uint{8 * width} each{other}"
        return
    try:
        ids = np.frombuffer(_content(files, name), f"<u{width}")
    except ValueError as error:
        yield f"{name}: cannot be read ({error})"
        return
    allowed = np.asarray(
        labels.train_to_raw if width == 4 else range(1, labels.num_classes), np.uint32
    )
    found, counts = np.unique(
        ids & 0xFFFF if width == 4 else ids, return_counts=True
    )  # above: instance numbers
    wrong = ~np.isin(found, allowed)
    if wrong.any():
        listed = ", ".join(f"{i} ({n} points)" for i, n in zip(found[wrong][:5], counts[wrong][:5]))
        more = f" and {int(wrong.sum()) - 5} more" if wrong.sum() > 5 else ""
        yield f"{name}: id {listed}{more}; {_allowed(labels, int(found[wrong].max()))}"


def _allowed(labels: LabelSpace, largest: int) -> str:
    """What would be right, and how to get there."""
    if labels.name == "nuscenes":
        return f"every point needs a class, 1 to {labels.num_classes - 1}"
    ids = ", ".join(str(i) for i in labels.train_to_raw)
    hint = "these look like train ids, see 'remap': " if largest < labels.num_classes else ""
    return f"{hint}ids of a submission are {ids}"
