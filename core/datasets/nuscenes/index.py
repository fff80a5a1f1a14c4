"""Compact, memory-mapped index of nuScenes' JSON tables.

The tables of v1.0-trainval hold some 2.6 million sweep records and take several gigabytes as Python objects, in every
process. A job needs a small part of them: this module reads each table once, row by row, keeps LiDAR sweeps and
keyframe images as flat arrays, and stores them as ``.npy`` files that all processes map and share.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from pydantic import BaseModel

from core.datasets.files import meant_above
from core.datasets.index_folder import index_folder, waiting_lock
from core.datasets.nuscenes.checks import check_counts, check_links
from core.datasets.nuscenes.tables import (
    Calibration,
    EgoPose,
    Keyframe,
    Scene,
    SensorName,
    SweepFile,
    iterate_table,
    label_files,
)
from core.decode import kept, read_array, read_json
from core.errors import UserError
from core.io import atomic_path, sha256, write_json

__all__ = ["CAMERAS", "NuScenesIndex", "open_index"]

CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
_LIDAR = "LIDAR_TOP"
_INDEX = "index.json"
_FORMAT = 3  # raise when the arrays change, so that older caches are rebuilt
_TABLES = (
    "scene",
    "sample",
    "sample_data",
    "ego_pose",
    "calibrated_sensor",
    "sensor",
    "lidarseg",
    "panoptic",
)
_OPTIONAL = ("lidarseg", "panoptic")
_ARCHIVES = {
    "v1.0-mini": "v1.0-mini.tgz",
    "v1.0-trainval": "v1.0-trainval_meta.tgz",
    "v1.0-test": "v1.0-test_meta.tgz",
}


class _Stored(BaseModel):
    """``index.json``, which is written last: hashes of the arrays' files, and why tables of labels are of no use."""

    sha256: dict[str, str]
    damaged: dict[str, str]


class NuScenesIndex:
    """Arrays over scenes (S), keyframes (F), LiDAR sweeps (L, keyframes included) and calibrations (C).

    Attributes:
        scene_name, scene_split: bytes [S]. Splits are the official ones, b"" for an unknown scene.
        key_sample: bytes [F] sample token. key_lidar: i64 [F] row of its LIDAR_TOP sweep. key_scene: i32 [F].
        key_lidarseg, key_panoptic: bytes [F] file relative to the root, b"" = none.
        lidar_token, lidar_file: bytes [L]. lidar_time: i64 [L] microseconds. lidar_ego: f64 [L, 7] translation m and
            quaternion wxyz, ego -> global. lidar_calib: i32 [L] row of C. lidar_prev, lidar_next: i64 [L], -1 = none.
        cam_file: bytes [F, 6] in the order of ``CAMERAS``, b"" = none. cam_ego: f64 [F, 6, 7]. cam_calib: i32 [F, 6].
            cam_size: i32 [F, 6, 2] width, height px.
        calib_pose: f64 [C, 7] sensor -> ego. calib_matrix: f64 [C, 3, 3] px.
        damaged: why tables of labels cannot be used, by name; only jobs that need them mind.
    """

    scene_name: np.ndarray
    scene_split: np.ndarray
    key_sample: np.ndarray
    key_lidar: np.ndarray
    key_scene: np.ndarray
    key_lidarseg: np.ndarray
    key_panoptic: np.ndarray
    lidar_token: np.ndarray
    lidar_file: np.ndarray
    lidar_time: np.ndarray
    lidar_ego: np.ndarray
    lidar_calib: np.ndarray
    lidar_prev: np.ndarray
    lidar_next: np.ndarray
    cam_file: np.ndarray
    cam_ego: np.ndarray
    cam_calib: np.ndarray
    cam_size: np.ndarray
    calib_pose: np.ndarray
    calib_matrix: np.ndarray
    damaged: dict[str, str]

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Map the arrays of a folder; the pages are shared by every process on the machine.

        Args:
            verify: compare each file with its hash, too.

        Raises:
            UserError: a file is missing, damaged or of another version.
        """
        self.folder = folder
        stored = read_json(folder / _INDEX, _Stored)
        self.damaged = stored.damaged
        for name in _ARRAYS:
            path = folder / f"{name}.npy"
            array = read_array(path, mapped=True)
            if name not in stored.sha256 or (verify and sha256(path) != stored.sha256[name]):
                raise UserError(f"this file is not the one that {_INDEX} names", where=str(path))
            setattr(self, name, array)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        """A worker maps the files again in place of receiving them."""
        return NuScenesIndex, (self.folder,)


_ARRAYS = tuple(name for name in NuScenesIndex.__annotations__ if name != "damaged")


def open_index(root: Path, version: str) -> NuScenesIndex:
    """Open the index of ``root/version``, building it first if the tables are new or have changed, or it is damaged.

    One process builds while others wait for it. The index lies in ``root/.lidistill``, or in the user's cache folder
    when the root is read-only.

    Raises:
        UserError: the root or a table is missing or damaged.
    """
    tables = root / version
    if not root.is_dir() or not tables.is_dir():
        what = "this folder does not exist"
        if root.is_dir():
            what = f"this folder holds no '{version}'"
        raise UserError(
            what,
            where=str(root),
            cure=meant_above(root, lambda folder: (folder / version).is_dir())
            + f"dataset.root must contain {version}/ (tables, from {_ARCHIVES[version]}, nuScenes download page), "
            "samples/ and lidarseg/; set dataset.root and dataset.version",
        )
    stamp = _stamp(tables, version)
    cache = index_folder(root)
    folder = cache / f"{version}-{stamp}"
    index = _stored_index(folder)
    if index is not None:
        return index
    with waiting_lock(cache / f"{version}.lock"):
        index = _stored_index(folder)  # another process may have built it meanwhile
        if index is not None:
            return index
        logger.info(f"indexing the tables of {tables} (once)")
        _store(folder, *_build(tables))
        for old in cache.glob(f"{version}-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    return NuScenesIndex(folder)


def _stored_index(folder: Path) -> NuScenesIndex | None:
    """The index of a folder, None where there is none or a damaged one, which has to be built anew."""
    if not (folder / _INDEX).is_file():
        return None
    return kept(lambda: NuScenesIndex(folder, verify=True))


def _stamp(tables: Path, version: str) -> str:
    identity: list[Any] = [_FORMAT, version]
    for name in _TABLES:
        path = tables / f"{name}.json"
        if path.is_file():
            identity.append([name, path.stat().st_size, path.stat().st_mtime_ns])
        elif name not in _OPTIONAL:
            raise UserError(
                "this table does not exist",
                where=str(path),
                cure=f"It comes from {_ARCHIVES[version]}, nuScenes download page",
            )
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _pose(row: Calibration | EgoPose) -> list[float]:
    return [*row["translation"], *row["rotation"]]


def _build(tables: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the tables one after the other; returns the arrays of :class:`NuScenesIndex` and what it calls damaged."""
    try:
        arrays: dict[str, np.ndarray] = {}
        channels = _read_calibration(tables, arrays)
        scenes = list(iterate_table(tables / "scene.json", Scene))
        samples = _read_samples(tables, scenes, arrays)
        lidar, cameras = _read_sample_data(tables, channels, samples)
        keys = _link_sweeps(lidar, samples, arrays)
        check_links(arrays, tables)
        told = [(row["name"], row.get("nbr_samples")) for row in scenes]
        sweeps = sum(sweep[7] is not None for sweep in lidar)
        check_counts(told, arrays["key_scene"], sweeps, tables)
        _link_cameras(cameras, keys, samples, arrays)
        _read_ego_poses(tables, arrays)
        damaged: dict[str, str] = {}
        for name in _OPTIONAL:
            try:
                files = label_files(tables / f"{name}.json")
            except UserError as error:
                files, damaged[name] = {}, error.what
            keys = arrays["lidar_token"][arrays["key_lidar"]]
            arrays[f"key_{name}"] = np.array([files.get(key, b"") for key in keys.tolist()], "S")
        return arrays, damaged
    except KeyError as error:
        raise UserError(
            f"the tables do not fit together: {error} is referred to and not there",
            where=str(tables),
            cure="Unpack the metadata archive again; tables of two versions may be mixed",
        ) from error


def _read_calibration(tables: Path, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, int]]:
    """Token of a calibrated sensor -> (channel, row of the calibration arrays)."""
    names = {
        row["token"]: row["channel"] for row in iterate_table(tables / "sensor.json", SensorName)
    }
    rows = list(iterate_table(tables / "calibrated_sensor.json", Calibration))
    arrays["calib_pose"] = np.array([_pose(row) for row in rows], np.float64).reshape(-1, 7)
    matrices = [row["camera_intrinsic"] or np.eye(3).tolist() for row in rows]
    arrays["calib_matrix"] = np.array(matrices, np.float64).reshape(-1, 3, 3)
    return {row["token"]: (names[row["sensor_token"]], i) for i, row in enumerate(rows)}


def _read_samples(
    tables: Path, scenes: list[Scene], arrays: dict[str, np.ndarray]
) -> dict[str, tuple[int, int]]:
    """Sample token -> (scene row, timestamp); scenes carry the official split they belong to."""
    splits = _official_splits()
    names = [row["name"] for row in scenes]
    known = splits["mini"] if tables.name == "v1.0-mini" else splits["full"]
    arrays["scene_name"] = np.array([name.encode() for name in names], "S")
    arrays["scene_split"] = np.array([known.get(name, "").encode() for name in names], "S5")
    rows = {row["token"]: i for i, row in enumerate(scenes)}
    return {
        row["token"]: (rows[row["scene_token"]], row["timestamp"])
        for row in iterate_table(tables / "sample.json", Keyframe)
    }


def _official_splits() -> dict[str, dict[str, str]]:
    """Scene name -> train | val | test, for the mini version and for the full ones."""
    from nuscenes.utils.splits import (
        create_splits_scenes,
    )  # takes seconds to import; only where an index is built

    official = create_splits_scenes()
    mini = {name: split for split in ("train", "val") for name in official[f"mini_{split}"]}
    full = {name: split for split in ("train", "val", "test") for name in official[split]}
    return {"mini": mini, "full": full}


def _read_sample_data(
    tables: Path, channels: dict[str, tuple[str, int]], samples: dict[str, tuple[int, int]]
) -> tuple[list[tuple], dict[tuple[str, int], tuple]]:
    """LiDAR sweeps, and keyframe images by (sample token, camera); radar and in-between images are passed over."""
    lidar: list[tuple] = []
    cameras: dict[tuple[str, int], tuple] = {}
    order = {name: i for i, name in enumerate(CAMERAS)}
    for row in iterate_table(tables / "sample_data.json", SweepFile):
        channel, calib = channels[row["calibrated_sensor_token"]]
        if channel == _LIDAR:
            key = row["sample_token"] if row["is_key_frame"] else None
            link = (row["prev"], row["next"])
            names = (row["token"], row["filename"], row["timestamp"], row["ego_pose_token"])
            lidar.append((*names, calib, *link, key))
        elif channel in order and row["is_key_frame"]:
            size = (row["width"], row["height"])
            cameras[row["sample_token"], order[channel]] = (
                row["filename"],
                row["ego_pose_token"],
                calib,
                size,
            )
    return lidar, cameras


def _link_sweeps(
    lidar: list[tuple], samples: dict[str, tuple[int, int]], arrays: dict[str, np.ndarray]
) -> list[str]:
    """Fill the sweep and keyframe arrays; returns the keyframes' sample tokens, by scene, then by time."""
    rows = {sweep[0]: i for i, sweep in enumerate(lidar)}
    arrays["lidar_token"] = np.array([sweep[0].encode() for sweep in lidar], "S")
    arrays["lidar_file"] = np.array([sweep[1].encode() for sweep in lidar], "S")
    arrays["lidar_time"] = np.array([sweep[2] for sweep in lidar], np.int64)
    arrays["lidar_ego"] = np.array(
        [sweep[3].encode() for sweep in lidar], "S"
    )  # tokens until the poses are read
    arrays["lidar_calib"] = np.array([sweep[4] for sweep in lidar], np.int32)
    rows[""] = -1  # no link; a token that no row has is an error
    arrays["lidar_prev"] = np.array([rows[sweep[5]] for sweep in lidar], np.int64)
    arrays["lidar_next"] = np.array([rows[sweep[6]] for sweep in lidar], np.int64)
    by_sample = {sweep[7]: i for i, sweep in enumerate(lidar) if sweep[7] is not None}
    keys = sorted(by_sample, key=lambda token: (*samples[token], token))
    arrays["key_sample"] = np.array([token.encode() for token in keys], "S")
    arrays["key_lidar"] = np.array([by_sample[token] for token in keys], np.int64)
    arrays["key_scene"] = np.array([samples[token][0] for token in keys], np.int32)
    return keys


def _link_cameras(
    cameras: dict[tuple[str, int], tuple],
    keys: list[str],
    samples: dict[str, tuple[int, int]],
    arrays: dict[str, np.ndarray],
) -> None:
    absent = ("", "", 0, (0, 0))
    rows = []
    for token in keys:
        for camera in range(len(CAMERAS)):
            rows.append(cameras.get((token, camera), absent))
    shape = (len(keys), len(CAMERAS))
    arrays["cam_file"] = np.array([row[0].encode() for row in rows], "S").reshape(shape)
    arrays["cam_ego"] = np.array([row[1].encode() for row in rows], "S").reshape(shape)
    arrays["cam_calib"] = np.array([row[2] for row in rows], np.int32).reshape(shape)
    arrays["cam_size"] = np.array([row[3] for row in rows], np.int32).reshape(*shape, 2)


def _read_ego_poses(tables: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replace the ego pose tokens by poses f64 [..., 7]."""
    names = ("lidar_ego", "cam_ego")
    tokens, where = np.unique(
        np.concatenate([arrays[n].ravel() for n in names]), return_inverse=True
    )
    slots = {token.decode(): i for i, token in enumerate(tokens)}
    poses = np.full((len(tokens), 7), np.nan)
    for row in iterate_table(tables / "ego_pose.json", EgoPose):
        slot = slots.get(row["token"])
        if slot is not None:
            poses[slot] = _pose(row)
    lost = np.flatnonzero(np.isnan(poses[:, 0]) & (tokens != b""))
    if len(lost):
        raise KeyError(f"ego_pose {tokens[lost[0]].decode()}")
    start = 0
    for name in names:
        shape, size = arrays[name].shape, arrays[name].size
        arrays[name] = poses[where[start : start + size]].reshape(*shape, 7)
        start += size


def _store(folder: Path, arrays: dict[str, np.ndarray], damaged: dict[str, str]) -> None:
    hashes = {}
    for name in _ARRAYS:
        path = folder / f"{name}.npy"
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, arrays[name], allow_pickle=False)
        hashes[name] = sha256(path)
    write_json(folder / _INDEX, _Stored(sha256=hashes, damaged=damaged).model_dump())
