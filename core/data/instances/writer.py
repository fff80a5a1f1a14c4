"""Writes an instance database: parts in a pool of processes, joined when all are there, the description last.

A part is a function of its task alone and is written atomically, so a killed command goes on after the last finished
part, and the bytes do not depend on the number of processes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from tqdm import tqdm

from core.data.instances.database import FORMAT, INDEX, META, Database, class_file, index_dtype
from core.decode import kept, read_arrays, read_json
from core.errors import UserError
from core.io import atomic_path, sha256, write_json
from core.labels import LabelSpace
from core.locks import LOCK, sole_writer
from core.processes import WorkerPool

__all__ = ["CONTENT", "Part", "write_database"]

_IDENTITY = "identity.json"
CONTENT = "content"  # of an identity: what the files hold that the database is made from


@dataclass(frozen=True)
class Part:
    """Instances of a few scans.

    Attributes:
        points: f32 [n, 4], instance after instance. index: rows of ``index_dtype``; offsets are filled in later.
        small, foreign: instances left out: too few points, not of the training split.
    """

    points: np.ndarray
    index: np.ndarray
    small: int = 0
    foreign: int = 0


def write_database(
    out: Path,
    identity: dict[str, Any],
    labels: LabelSpace,
    things: Sequence[int],
    work: Callable[[Any], Part],
    tasks: Sequence[Any],
    workers: int,
) -> Database:
    """Write what ``work`` makes of ``tasks`` into ``out``, or find it there.

    Args:
        identity: what the database is made from, JSON; equal identities give equal bytes.
        things: train ids that ``work`` looks for.
        work: picklable. tasks: in the order of the data set.
        workers: processes.

    Raises:
        UserError: ``out`` holds something else, another process is writing there, or a task failed.
    """
    parts = out / "parts"
    identity = {"format": FORMAT, **identity}
    if (out / META).is_file():
        database = Database(out)
        made_of = database.meta["identity"]
        if CONTENT in identity:
            made_of.setdefault(CONTENT, identity[CONTENT])  # earlier versions did not write it
        if made_of != identity:
            raise UserError(
                "this folder holds another instance database",
                where=str(out),
                cure="Give another folder with --out, or delete this one",
            )
        logger.info(f"{out} already holds this instance database")
        return database
    foreign = out.is_dir() and any(path.name != LOCK for path in out.iterdir())
    if foreign and not parts.is_dir():
        raise UserError(
            "this folder is not empty and holds no instance database",
            where=str(out),
            cure="Give a new one with --out",
        )
    with sole_writer(out, "--out"):
        _prepare(parts, identity)
        _make_parts(parts, work, tasks, workers)
        files = [_part_file(parts, number) for number in range(len(tasks))]
        _join(out, files, identity, labels, things)
        shutil.rmtree(parts)
    return Database(out, hashes=False)


def _prepare(parts: Path, identity: dict[str, Any]) -> None:
    """Remove the parts of another database that was never finished."""
    known = parts / _IDENTITY
    if known.is_file() and kept(lambda: read_json(known)) == identity:
        return
    for path in parts.glob("*.npz"):
        path.unlink()
    write_json(known, identity)


def _part_file(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _make_parts(
    parts: Path, work: Callable[[Any], Part], tasks: Sequence[Any], workers: int
) -> None:
    missing = []
    for number, task in enumerate(tasks):
        if not _part_file(parts, number).is_file():
            missing.append((number, task))
    ready = len(tasks) - len(missing)
    if ready:
        logger.info(f"{ready} of {len(tasks)} parts are already there")
    make = partial(_make_part, work, parts)
    with ExitStack() as stack:
        bar = tqdm(
            total=len(tasks),
            initial=ready,
            desc="instances",
            unit="part",
            disable=not sys.stderr.isatty(),
        )
        stack.enter_context(bar)
        done: Iterator[None]
        if workers > 1 and len(missing) > 1:
            count = min(workers, len(missing))
            pool = stack.enter_context(WorkerPool(make, count, "--workers"))
            done = pool.run(missing)
        else:
            done = map(make, missing)
        for _ in done:
            bar.update()


def _make_part(work: Callable[[Any], Part], parts: Path, numbered: tuple[int, Any]) -> None:
    number, task = numbered
    part = work(task)
    with atomic_path(_part_file(parts, number)) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            points=part.points,
            index=part.index,
            left_out=np.array([part.small, part.foreign]),
        )


def _join(
    out: Path,
    parts: Sequence[Path],
    identity: dict[str, Any],
    labels: LabelSpace,
    things: Sequence[int],
) -> None:
    """Write the files of a database from its parts, the description last."""
    rows = []
    left_out = np.zeros(2, np.int64)
    for path in parts:
        part = _read_part(path)
        rows.append(part["index"])
        left_out += part["left_out"]
    present = np.unique(np.concatenate([part["cls"] for part in rows])).tolist()
    if not present:
        raise UserError(
            f"not one instance is large enough ({left_out[0]} are too small, {left_out[1]} not of the training split)",
            where=str(out),
            cure="Lower min_points in data.paste.things",
        )
    files = {c: out / class_file(labels.classes[c]) for c in present}
    _join_points(files, parts, rows)
    index = _joined_index(rows)
    with atomic_path(out / INDEX) as path, open(path, "wb") as stream:
        np.save(stream, index, allow_pickle=False)
    meta = {
        "format": FORMAT,
        "identity": identity,
        "labels": {"name": labels.name, "fingerprint": labels.fingerprint},
        "split": "train",
        "classes": [_describe(c, labels, index["count"][index["cls"] == c]) for c in present],
        "absent": [labels.classes[c] for c in things if c not in present],
        "left_out": {"too_few_points": int(left_out[0]), "not_in_train_split": int(left_out[1])},
        "sha256": {path.name: sha256(path) for path in (out / INDEX, *files.values())},
    }
    write_json(out / META, meta)


def _read_part(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path, "part", cure="Delete it and start the same command again")


def _join_points(
    files: Mapping[int, Path], parts: Sequence[Path], rows: Sequence[np.ndarray]
) -> None:
    """Write the points of each class into its file, part after part; ``rows``: the index of each part."""
    with ExitStack() as stack:
        streams = {}
        for c, file in files.items():
            temporary = stack.enter_context(atomic_path(file))
            streams[c] = stack.enter_context(open(temporary, "wb"))
        for path, index in zip(parts, rows):
            points = _read_part(path)["points"]
            owner = np.repeat(index["cls"], index["count"])
            for c in np.unique(owner).tolist():
                streams[c].write(points[owner == c].astype("<f4").tobytes())


def _joined_index(rows: Sequence[np.ndarray]) -> np.ndarray:
    """All rows, by class, with their offsets."""
    width = max(part.dtype["token"].itemsize for part in rows)
    index = np.concatenate([part.astype(index_dtype(width)) for part in rows])
    index = index[np.argsort(index["cls"], kind="stable")]
    for c in np.unique(index["cls"]):
        members = index["cls"] == c
        counts = index["count"][members].astype(np.int64)
        index["offset"][members] = np.cumsum(counts) - counts
    return index


def _describe(c: int, labels: LabelSpace, counts: np.ndarray) -> dict[str, Any]:
    name = labels.classes[c]
    return {
        "id": c,
        "name": name,
        "file": class_file(name),
        "instances": len(counts),
        "points": int(counts.sum()),
        "min": int(counts.min()),
        "median": int(np.median(counts)),
        "max": int(counts.max()),
    }
