"""Generates a world: frames in a pool of processes, tables when all frames are there, the manifest last."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loguru import logger
from tqdm import tqdm

from core.datasets.base import MANIFEST
from core.datasets.synthetic import kitti_format, nuscenes_format
from core.datasets.synthetic.nuscenes_format import token, write_keyframe, write_map
from core.datasets.synthetic.nuscenes_tables import Row, write_tables
from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.spec import WorldSpec
from core.decode import read_json
from core.errors import UserError
from core.io import write_json
from core.processes import WorkerPool

__all__ = ["GENERATOR", "MANIFEST", "generate"]

GENERATOR = 1  # raised whenever equal specs give other bytes than before
_STARTED = "synthetic.partial.json"
_Task = tuple[str, WorldSpec, int, int]  # root, world, scene, frame
_FOLDERS = (
    "samples",
    "sweeps",
    "lidarseg",
    "panoptic",
    "maps",
    "v1.0-mini",
    "v1.0-trainval",
    "sequences",
)


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
    tasks = [
        (str(root), spec, index, frame)
        for index in range(spec.scenes)
        for frame in range(spec.keyframes)
    ]
    results = list(_progress(_run(tasks, spec.workers), len(tasks)))
    if spec.format == "nuscenes":
        scenes = [_scene(spec, index) for index in range(spec.scenes)]
        starts = range(0, len(results), spec.keyframes)
        per_scene = [results[k : k + spec.keyframes] for k in starts]
        write_tables(root, spec, scenes, per_scene)
    write_json(root / MANIFEST, identity | {"files": _count(root)})
    (root / _STARTED).unlink()
    took = time.perf_counter() - began
    logger.info(f"{root}: {spec.scenes} scenes of {spec.keyframes} frames in {took:.1f} s")
    return root


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
    for name in _FOLDERS:
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
    for name in _FOLDERS:
        if (root / name).is_dir():
            shutil.rmtree(root / name)


@functools.lru_cache(maxsize=2)
def _cached_scene(seed: int, index: int, duration: float) -> Scene:
    return Scene(seed, index, duration)


def _scene(spec: WorldSpec, index: int) -> Scene:
    period = kitti_format.PERIOD
    if spec.format == "nuscenes":
        period = nuscenes_format.PERIOD
    return _cached_scene(spec.seed, index, period * max(spec.keyframes - 1, 1))


def _frame(task: _Task) -> Row:
    """Write one frame, and with a scene's first frame what the scene has one of; returns its rows of tables."""
    folder, spec, index, frame = task
    root = Path(folder)
    name = spec.names[index]
    scene = _scene(spec, index)
    if spec.format == "semantickitti":
        if frame == 0:
            kitti_format.write_sequence(root, spec, name, scene)
        kitti_format.write_scan(root, spec, index, name, scene, frame)
        return {}
    if frame == 0:
        write_map(root / "maps" / f"{token(spec.seed, name, 'map')}.png", scene)
    return write_keyframe(root, spec, index, name, scene, frame)


def _run(tasks: list[_Task], workers: int) -> Iterator[Row]:
    """Results in the order of ``tasks``; the first runs here, so that the kernels compile once."""
    yield _frame(tasks[0])
    workers = min(workers, len(tasks) - 1)
    if workers <= 1:
        yield from map(_frame, tasks[1:])
        return
    with WorkerPool(_frame, workers, "--workers", _name, fresh=__name__) as pool:
        yield from pool.run(tasks[1:])


def _name(task: _Task) -> str:
    _, spec, index, frame = task
    return f"{spec.names[index]}, frame {frame}"


def _progress(results: Iterator[Row], total: int) -> Iterator[Row]:
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
