"""The tables of a nuScenes v1.0 world: rows that do not depend on a frame, and the links between the others."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from core.datasets.synthetic.classes import NUSCENES_CATEGORIES, NUSCENES_RAW
from core.datasets.synthetic.nuscenes_format import LIDAR_MOUNT, quaternion, token
from core.datasets.synthetic.nuscenes_names import version
from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.sensors import NUSCENES_CAMERAS
from core.datasets.synthetic.spec import WorldSpec
from core.io import write_json

__all__ = ["Row", "write_tables"]

Row = dict[str, Any]
_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_VISIBILITY = ("v0-40", "v40-60", "v60-80", "v80-100")


def write_tables(root: Path, spec: WorldSpec, scenes: list[Scene], frames: list[list[Row]]) -> None:
    """Write the 13 tables and those of lidarseg and panoptic.

    Args:
        root: data set root. spec: the world. scenes: one per name of ``spec.names``.
        frames: per scene, per keyframe, what ``nuscenes_format.write_keyframe`` returned.
    """
    tables: dict[str, list[Row]] = defaultdict(list)
    _constant(tables)
    for index, (name, scene) in enumerate(zip(spec.names, scenes)):
        _scene(tables, spec, index, name, scene, frames[index])
    for name, suffix in (("lidarseg", "lidarseg.bin"), ("panoptic", "panoptic.npz")):
        for row in tables["sample_data"]:
            if row["is_key_frame"] and row["fileformat"] == "pcd":
                path = f"{name}/{version(spec)}/{row['token']}_{suffix}"
                tables[name].append(
                    {"token": row["token"], "sample_data_token": row["token"], "filename": path}
                )
    for name, rows in tables.items():
        write_json(root / version(spec) / f"{name}.json", rows, indent=0)


def _constant(tables: dict[str, list[Row]]) -> None:
    tables["category"] = [
        {"token": token("category", name), "name": name, "description": "", "index": index}
        for index, name in enumerate(NUSCENES_CATEGORIES)
    ]
    tables["attribute"] = [
        {"token": token("attribute", name), "name": name, "description": ""} for name in _ATTRIBUTES
    ]
    tables["visibility"] = [
        {
            "token": str(k + 1),
            "level": level,
            "description": "share of the object's parts seen from the roof, percent",
        }
        for k, level in enumerate(_VISIBILITY)
    ]
    tables["sensor"] = [
        {"token": token("sensor", "LIDAR_TOP"), "channel": "LIDAR_TOP", "modality": "lidar"}
    ]
    tables["sensor"] += [
        {"token": token("sensor", camera.name), "channel": camera.name, "modality": "camera"}
        for camera in NUSCENES_CAMERAS
    ]


def _scene(
    tables: dict[str, list[Row]],
    spec: WorldSpec,
    index: int,
    name: str,
    scene: Scene,
    frames: list[Row],
) -> None:
    log = token(spec.seed, name, "log")
    tables["log"].append(
        {
            "token": log,
            "logfile": f"synthetic-{name}",
            "vehicle": "synthetic",
            "date_captured": "2018-07-24",
            "location": "boston-seaport",  # one of the devkit's four; traffic keeps to the right there
        }
    )
    mask = token(spec.seed, name, "map")
    tables["map"].append(
        {
            "token": mask,
            "category": "semantic_prior",
            "filename": f"maps/{mask}.png",
            "log_tokens": [log],
        }
    )
    tables["calibrated_sensor"].append(_calibrated(spec, name, "LIDAR_TOP", LIDAR_MOUNT, []))
    for camera in NUSCENES_CAMERAS if spec.image_scale else ():
        matrix = camera.matrix(spec.image_scale).tolist()
        row = _calibrated(spec, name, camera.name, camera.mount, matrix)
        tables["calibrated_sensor"].append(row)
    samples = [frame["sample"] for frame in frames]
    tables["sample"] += _linked(samples)
    tables["scene"].append(
        {
            "token": token(spec.seed, name, "scene"),
            "log_token": log,
            "nbr_samples": len(samples),
            "first_sample_token": samples[0]["token"],
            "last_sample_token": samples[-1]["token"],
            "name": name,
            "description": f"Synthetic town {index} of seed {spec.seed}",
        }
    )
    channels: dict[str, list[Row]] = defaultdict(list)
    for frame in frames:
        tables["ego_pose"] += frame["ego_pose"]
        for row in frame["sample_data"]:
            channels[row.pop("channel")].append(row)
    for rows in channels.values():
        tables["sample_data"] += _linked(rows)
    _instances(tables, spec, name, scene, frames)


def _calibrated(
    spec: WorldSpec, name: str, channel: str, mount: np.ndarray, matrix: list[list[float]]
) -> Row:
    """Row of a sensor at ``mount`` (sensor -> ego, f64 [4, 4]); ``matrix``: a camera's intrinsics, px."""
    return {
        "token": token(spec.seed, name, "calibrated", channel),
        "sensor_token": token("sensor", channel),
        "translation": mount[:3, 3].tolist(),
        "rotation": quaternion(mount[:3, :3]),
        "camera_intrinsic": matrix,
    }


def _linked(rows: list[Row]) -> list[Row]:
    """The same rows with ``prev`` and ``next``."""
    keys = ["", *(row["token"] for row in rows), ""]
    return [row | {"prev": keys[k], "next": keys[k + 2]} for k, row in enumerate(rows)]


def _instances(
    tables: dict[str, list[Row]], spec: WorldSpec, name: str, scene: Scene, frames: list[Row]
) -> None:
    tracks: dict[str, list[Row]] = defaultdict(list)
    for frame in frames:
        for row in frame["sample_annotation"]:
            tracks[row["instance_token"]].append(row)
    for thing in scene.things:
        key = token(spec.seed, name, "instance", thing.number)
        rows = tracks.get(key)
        if not rows:
            continue
        tables["sample_annotation"] += _linked(rows)
        tables["instance"].append(
            {
                "token": key,
                "category_token": token("category", NUSCENES_CATEGORIES[NUSCENES_RAW[thing.cls]]),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )
