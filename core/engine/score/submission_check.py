"""What the benchmarks' own validators ask of a submission, and what their servers refuse later, file by file.

What files there are and which ids they hold says the data set's :class:`core.datasets.benchmark.Benchmark`. Added here:
ids a server would count as wrong, files that do not belong.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from core.config import Config
from core.datasets import build_dataset, dataset_class
from core.datasets.base import ScanDataset
from core.datasets.benchmark import Benchmark
from core.datasets.official import shortfall
from core.decode import DAMAGE, decoding, reason, unpack
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["ZIP", "check_submission", "file_names", "open_split", "outstanding"]

ZIP = "submission.zip"
_OURS = (
    "classes.json",
    ZIP,
)  # beside the files of a submission folder; they do not go into the zip
_DAMAGE: tuple[type[Exception], ...] = (
    *DAMAGE,
    OSError,
    RuntimeError,
)  # RuntimeError: an encrypted entry


def open_split(
    dataset: str,
    root: Path,
    split: str,
    version: str,
    labels: str | None = None,
    partial: bool = False,
    test_frames: Path | None = None,
) -> ScanDataset:
    """The scans a submission answers, without labels.

    Args:
        version: nuScenes: folder of the tables. labels: label space; None = the data set's own.
        partial: scans that are not on disk are left out on purpose.
        test_frames: Waymo: list of the frames of the test split.

    Raises:
        UserError: the root, a table or all scans of the split are missing.
    """
    section = {
        "name": dataset,
        "root": str(root),
        "use_labels": False,
        "labels": labels,
        "partial": partial,
    }
    if "version" in dataset_class(Config({"dataset": section})).Config.model_fields:
        section["version"] = version
    if test_frames is not None:
        section["test_frames"] = str(test_frames)
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
        return unpack(self.archive, self.archive.getinfo(name))


def file_names(path: Path) -> set[str]:
    """Names of the files in a submission's folder or zip, with forward slashes."""
    if path.is_dir():
        return set(_FolderFiles(path).sizes)
    with zipfile.ZipFile(path) as archive:
        return set(_ZipFiles(archive).sizes)


def outstanding(scans: ScanDataset, names: Collection[str]) -> list[str]:
    """What keeps a submission without a fault from being taken: it is a rehearsal until nothing is outstanding.

    Args:
        names: the files it holds.
    """
    benchmark = scans.benchmark
    if scans.made_up:
        return [f"scans of the real data set (this is a {scans.title})"]
    wanted = []
    if scans.split != "test":
        wanted.append("--split test")
    elif scans.expected is None:
        wanted.append("the whole official split (dataset.split or dataset.frames chooses another)")
    elif not scans.complete:
        wanted.append(f"all {scans.expected:,} scans of the official split")
    for name in benchmark.optional if benchmark is not None else ():
        if name not in names:
            wanted.append(f"{name} in the submission's folder")
    return wanted


def check_submission(path: Path, scans: ScanDataset) -> Iterator[str]:
    """Look for everything a benchmark would refuse, one scan in memory at a time.

    Args:
        path: a zip, or the folder that is to be zipped; or what the benchmark takes in its place.
        scans: the split, without labels; its files on disk say how many points there are.

    Yields:
        one line per fault, which begins with the file's name.

    Raises:
        UserError: ``path`` is neither, or no zip in spite of its name, or the data set has no benchmark.
    """
    if scans.benchmark is not None and scans.benchmark.container is not None:
        yield from _split_faults(scans)
        yield from scans.benchmark.container.faults(path, scans)
        return
    if path.is_dir():
        yield from _faults(_FolderFiles(path), scans)
        return
    if not path.is_file() or path.suffix != ".zip":
        what = (
            "this file's name does not end in .zip" if path.is_file() else "no such file or folder"
        )
        raise UserError(what, where=str(path), cure="Give a submission's folder, or its zip")
    with decoding(path, "zip archive", "Pack it again"):
        archive = zipfile.ZipFile(path)
    with archive:
        files = _ZipFiles(archive)
        yield from (f"{name}: the zip holds this entry twice" for name in files.twice)
        yield from _faults(files, scans)


def _faults(files: _Files, scans: ScanDataset) -> Iterator[str]:
    benchmark, split = scans.benchmark, scans.official_split
    if benchmark is None:
        raise UserError(
            f"{scans.title} has no benchmark to submit to",
            where=str(scans.root),
            cure="Only predictions of a data set with a benchmark can be checked",
        )
    yield from _split_faults(scans)
    names = [benchmark.submitted_path(scans.token(i), split) for i in range(len(scans))]
    if files.folders is not None and benchmark.folder_entries:
        yield from _folder_faults(files.folders, names)
    metadata = list(benchmark.metadata(split, uses_camera=False))
    for name in metadata:
        yield from _metadata_faults(files, name, benchmark)
    for index, name in enumerate(names):
        points = scans.num_points(index)
        yield from _file_faults(files, name, points, scans.labels, benchmark)
    known = {*names, *metadata, *benchmark.optional}
    for name in files.sizes:
        if name not in known:
            yield f"{name}: this file does not belong to a submission"


def _split_faults(scans: ScanDataset) -> Iterator[str]:
    """What the split itself lacks."""
    if scans.config.partial:
        return
    lack = shortfall(scans)
    if lack is not None:
        yield f"data set: {lack}; the server wants a prediction of every scan"
    for gap in scans.gaps():
        if gap.needed_for == "lidar":
            yield f"data set: {gap.text}; unpack it, its predictions cannot be checked"


def _folder_faults(folders: set[str], names: list[str]) -> Iterator[str]:
    """Folders of the files ``names`` that have no entry of their own."""
    wanted: dict[str, None] = {}
    for name in names:
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            wanted[f"{parent}/"] = None
    for folder in wanted:
        if folder not in folders:
            yield f"{folder}: the zip has no entry for this folder"


def _metadata_faults(files: _Files, name: str, benchmark: Benchmark) -> Iterator[str]:
    if name not in files.sizes:
        yield f"{name}: this file is missing"
        return
    try:
        fault = benchmark.metadata_fault(_content(files, name))
    except ValueError as error:
        fault = f"cannot be read ({error})"
    if fault is not None:
        yield f"{name}: {fault}"


def _content(files: _Files, name: str) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: the entry is damaged.
    """
    try:
        return files.read(name)
    except _DAMAGE as error:
        raise ValueError(f"damaged: {reason(error)}") from error


def _file_faults(
    files: _Files, name: str, points: int, labels: LabelSpace, benchmark: Benchmark
) -> Iterator[str]:
    width = benchmark.dtype.itemsize
    if name not in files.sizes:
        yield f"{name}: this file is missing"
        return
    size = files.sizes[name]
    if size != width * points:
        other = ""
        if size and size % points == 0:
            other = f"; {size // points} bytes per point are another type"
        yield f"{name}: {size} bytes; expected {width * points}, for {points} points one uint{8 * width} each{other}"
        return
    try:
        ids = np.frombuffer(_content(files, name), benchmark.dtype)
    except ValueError as error:
        yield f"{name}: cannot be read ({error})"
        return
    allowed = np.asarray(benchmark.allowed_ids(labels), np.uint32)
    found, counts = np.unique(benchmark.class_ids(ids), return_counts=True)
    wrong = ~np.isin(found, allowed)
    if wrong.any():
        listed = ", ".join(f"{i} ({n} points)" for i, n in zip(found[wrong][:5], counts[wrong][:5]))
        more = ""
        if wrong.sum() > 5:
            more = f" and {int(wrong.sum()) - 5} more"
        yield f"{name}: id {listed}{more}; {benchmark.advice(labels, int(found[wrong].max()))}"
