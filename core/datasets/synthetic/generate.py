"""Generates a world: frames in a pool of processes, what they leave to write as they come, the manifest last."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from loguru import logger
from tqdm import tqdm

from core.datasets.base import MANIFEST
from core.datasets.synthetic.spec import WorldSpec
from core.datasets.synthetic.world_format import WorldFormat
from core.decode import read_json
from core.errors import UserError
from core.io import write_json
from core.names import WORLDS
from core.processes import WorkerPool
from core.registry import load_entry

__all__ = ["GENERATOR", "MANIFEST", "generate"]

GENERATOR = 1  # raised whenever equal specs give other bytes than before
_STARTED = "synthetic.partial.json"
_Task = tuple[str, WorldSpec, int, int]  # root, world, scene, frame


def generate(root: str | Path, spec: WorldSpec) -> Path:
    """Write the world of ``spec`` under ``root``, in its data set's official layout.

    Returns at once when ``root`` already holds exactly this world. An unfinished or other synthetic world there is
    replaced; a folder with anything else in it is left alone.

    Args:
        root: folder, created if need be. spec: the world.

    Returns:
        ``root``, which then also holds ``synthetic.json``: spec, generator version, number of files.

    Raises:
        UserError: ``root`` holds other data, or cannot be written.
    """
    root = Path(root)
    described = asdict(spec)
    del described["workers"]
    identity = {"generator": GENERATOR, "spec": described}
    if _complete(root, identity):
        logger.info(f"{root} already holds this world")
        return root
    _clear(root)
    write_json(root / _STARTED, identity)
    began = time.perf_counter()
    written = _format(spec.format)
    tasks = [
        (str(root), spec, index, frame)
        for index in range(spec.scenes)
        for frame in range(written.frames(spec))
    ]
    written.gather(root, spec, _progress(_run(tasks, spec.workers), len(tasks)))
    write_json(root / MANIFEST, identity | {"files": _count(root)})
    (root / _STARTED).unlink()
    took = time.perf_counter() - began
    logger.info(f"{root}: {spec.scenes} scenes of {spec.keyframes} frames in {took:.1f} s")
    return root


def _format(name: str) -> WorldFormat:
    return cast(WorldFormat, load_entry(WORLDS[name])())


def _folders() -> list[str]:
    """What worlds of all formats leave in their root."""
    return [folder for name in WORLDS for folder in _format(name).folders]


def _complete(root: Path, identity: dict[str, Any]) -> bool:
    if not (root / MANIFEST).exists():
        return False
    manifest = read_json(root / MANIFEST)
    for key, value in identity.items():
        if manifest.get(key) != value:
            return False
    return manifest.get("files") == _count(root)


def _count(root: Path) -> dict[str, int]:
    """Number of files in each folder of the layout that exists."""
    counts = {}
    for name in _folders():
        if (root / name).is_dir():
            counts[name] = sum(path.is_file() for path in (root / name).rglob("*"))
    return counts


def _clear(root: Path) -> None:
    """Empty ``root`` of a former synthetic world."""
    if not root.exists() or not any(root.iterdir()):
        return
    if not (root / MANIFEST).exists() and not (root / _STARTED).exists():
        raise UserError(
            f"the folder is not empty and holds no synthetic world ({MANIFEST} is missing), so nothing was written",
            where=str(root),
            cure="Name a new or an empty folder",
        )
    (root / MANIFEST).unlink(missing_ok=True)
    for name in _folders():
        if (root / name).is_dir():
            shutil.rmtree(root / name)


def _record(task: _Task) -> Any:
    """Record one frame; returns what its format gathers."""
    root, spec, index, frame = task
    return _format(spec.format).record(Path(root), spec, index, frame)


def _run(tasks: list[_Task], workers: int) -> Iterator[Any]:
    """Results in the order of ``tasks``; the first runs here, so that the kernels compile once."""
    yield _record(tasks[0])
    workers = min(workers, len(tasks) - 1)
    if workers <= 1:
        yield from map(_record, tasks[1:])
        return
    with WorkerPool(_record, workers, "--workers", _name, fresh=__name__) as pool:
        yield from pool.run(tasks[1:])


def _name(task: _Task) -> str:
    _, spec, index, frame = task
    return f"{spec.names[index]}, frame {frame}"


def _progress(results: Iterator[Any], total: int) -> Iterator[Any]:
    """A bar on a terminal, else a line every ten seconds."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, desc="synthetic world", unit="frame")
        return
    spoke = time.monotonic()
    for done, result in enumerate(results, 1):
        if time.monotonic() - spoke > 10.0:
            spoke = time.monotonic()
            logger.info(f"synthetic world: {done} of {total} frames")
        yield result
