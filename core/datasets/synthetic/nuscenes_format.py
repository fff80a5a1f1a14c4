"""Writes one keyframe of the synthetic world in the nuScenes v1.0 layout, and gathers the tables.

Layout, tables and keys follow the schema of the nuScenes devkit (docs/schema_nuscenes.md, schema_lidarseg, panoptic).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.datasets.synthetic.classes import NUSCENES_RAW, Cls
from core.datasets.synthetic.materials import GROUND_CLASS
from core.datasets.synthetic.nuscenes_names import version
from core.datasets.synthetic.raycast import cast
from core.datasets.synthetic.render import expose, render
from core.datasets.synthetic.scene import Scene, Snapshot, rigid
from core.datasets.synthetic.sensors import LIDAR32, NUSCENES_CAMERAS, NUSCENES_LIDAR, Sweep, scan
from core.datasets.synthetic.solids import rotation
from core.datasets.synthetic.spec import WorldSpec
from core.io import atomic_path, write_bytes

__all__ = [
    "LIDAR_MOUNT",
    "PERIOD",
    "instance_numbers",
    "quaternion",
    "token",
    "write_keyframe",
    "write_map",
]

PERIOD = 0.5  # s between keyframes
_EPOCH = 1_532_402_927_000_000  # µs
_JPEG = 92  # quality
# nuScenes laser frame (x right, y forward) -> x forward
_TO_FORWARD = rigid(rotation(yaw=-np.pi / 2), (0.0, 0.0, 0.0))
LIDAR_MOUNT = NUSCENES_LIDAR @ _TO_FORWARD  # LIDAR_TOP -> ego


def token(*parts: object) -> str:
    """Return 32 hex digits that depend on ``parts`` alone."""
    key = "/".join(str(part) for part in parts)
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def quaternion(turn: np.ndarray) -> list[float]:
    """Return (w, x, y, z) of a rotation matrix [3, 3], w >= 0."""
    # 4 q qT; the row with the largest diagonal element is the most exact
    xx, yy, zz = np.diagonal(turn)
    skew = turn - turn.T
    both = turn + turn.T
    wx, wy, wz = skew[2, 1], skew[0, 2], skew[1, 0]
    xy, xz, yz = both[0, 1], both[0, 2], both[1, 2]
    rows = np.array(
        [
            [1 + xx + yy + zz, wx, wy, wz],
            [wx, 1 + xx - yy - zz, xy, xz],
            [wy, xy, 1 - xx + yy - zz, yz],
            [wz, xz, yz, 1 - xx - yy + zz],
        ]
    )
    q = rows[int(np.diagonal(rows).argmax())]
    q = q / np.linalg.norm(q)
    if q[0] < 0:
        q = -q
    return q.tolist()


def instance_numbers(scene: Scene) -> np.ndarray:
    """Number the things of each category from 1, as panoptic labels do: u16 [things + 1] (0 for no thing)."""
    numbers = np.zeros(len(scene.things) + 1, np.uint16)
    seen = np.zeros(32, np.uint16)
    for thing in scene.things:
        category = NUSCENES_RAW[thing.cls]
        seen[category] += 1
        numbers[thing.number] = min(int(seen[category]), 999)
    return numbers


def write_keyframe(
    root: Path, spec: WorldSpec, index: int, name: str, scene: Scene, frame: int
) -> dict[str, Any]:
    """Write the files of keyframe ``frame`` of scene ``index`` and of the sweeps up to the next keyframe.

    Returns:
        rows for ``sample``, ``sample_data``, ``ego_pose`` and ``sample_annotation`` (without prev and next), ordered in
        time within each channel.
    """
    rows: dict[str, Any] = {"sample_data": [], "ego_pose": []}
    time = frame * PERIOD
    rows["sample"] = {
        "token": token(spec.seed, name, "sample", frame),
        "timestamp": _stamp(index, time),
        "scene_token": token(spec.seed, name, "scene"),
    }
    snapshot = scene.snapshot(time)
    sweep = _write_sweep(root, spec, index, name, snapshot, frame, 0, rows)
    _write_labels(root, spec, name, frame, sweep, instance_numbers(scene))
    rows["sample_annotation"] = _annotate(spec, name, scene, snapshot, frame, sweep)
    if spec.image_scale:
        _write_images(root, spec, index, name, scene, frame, rows)
    if frame + 1 < spec.keyframes:
        for part in range(1, spec.sweeps_per_keyframe + 1):
            at = time + part * PERIOD / (spec.sweeps_per_keyframe + 1)
            _write_sweep(root, spec, index, name, scene.snapshot(at), frame, part, rows)
    return rows


def _write_images(
    root: Path,
    spec: WorldSpec,
    index: int,
    name: str,
    scene: Scene,
    frame: int,
    rows: dict[str, Any],
) -> None:
    """Render and write the images of a keyframe, and add their rows."""
    for number, camera in enumerate(NUSCENES_CAMERAS):
        at = frame * PERIOD - camera.lag
        stamp = _stamp(index, at)
        now = scene.snapshot(at, body=False)
        size = camera.size(spec.image_scale)
        pose = now.ego @ camera.mount
        radiance, _, _ = render(now, pose, camera.matrix(spec.image_scale), size)
        rng = np.random.default_rng([spec.seed, index, frame, 100 + number])
        path = f"samples/{camera.name}/{_log(name)}__{camera.name}__{stamp}.jpg"
        _write_image(root / path, expose(radiance, rng))
        _record(rows, spec, name, camera.name, frame, 0, stamp, now.ego, path, size)


def _write_image(path: Path, image: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=_JPEG)
    write_bytes(path, stream.getvalue())


def _log(name: str) -> str:
    return f"synthetic-{name}"


def _stamp(index: int, time: float) -> int:
    return _EPOCH + index * 1_000_000_000 + round(time * 1e6)


def _write_sweep(
    root: Path,
    spec: WorldSpec,
    index: int,
    name: str,
    snapshot: Snapshot,
    frame: int,
    part: int,
    rows: dict[str, Any],
) -> Sweep:
    """Write the laser's sweep number ``part`` from keyframe ``frame`` on (0: the keyframe's own)."""
    rng = np.random.default_rng([spec.seed, index, frame, part])
    sweep = scan(snapshot, NUSCENES_LIDAR, LIDAR32, spec.lidar_scale, rng)
    x, y, z = sweep.points.T
    ring = sweep.ring.astype(np.float32)
    cloud = np.stack([-y, x, z, sweep.intensity, ring], 1).astype(np.float32)
    time = frame * PERIOD + part * PERIOD / (spec.sweeps_per_keyframe + 1)
    stamp = _stamp(index, time)
    folder = "sweeps" if part else "samples"
    path = f"{folder}/LIDAR_TOP/{_log(name)}__LIDAR_TOP__{stamp}.pcd.bin"
    write_bytes(root / path, cloud.tobytes())
    _record(rows, spec, name, "LIDAR_TOP", frame, part, stamp, snapshot.ego, path, (0, 0))
    return sweep


def _record(
    rows: dict[str, Any],
    spec: WorldSpec,
    name: str,
    channel: str,
    frame: int,
    part: int,
    stamp: int,
    ego: np.ndarray,
    path: str,
    size: tuple[int, int],
) -> None:
    """Add a sample_data row and its ego_pose row; a sweep belongs to the keyframe that follows it."""
    key = token(spec.seed, name, channel, frame, part)
    rows["sample_data"].append(
        {
            "token": key,
            "sample_token": token(spec.seed, name, "sample", frame + (part > 0)),
            "ego_pose_token": key,
            "calibrated_sensor_token": token(spec.seed, name, "calibrated", channel),
            "timestamp": stamp,
            "fileformat": "pcd" if channel == "LIDAR_TOP" else "jpg",
            "is_key_frame": part == 0,
            "height": size[1],
            "width": size[0],
            "filename": path,
            "channel": channel,
        }
    )
    rows["ego_pose"].append(
        {
            "token": key,
            "timestamp": stamp,
            "rotation": quaternion(ego[:3, :3]),
            "translation": ego[:3, 3].tolist(),
        }
    )


def _write_labels(
    root: Path, spec: WorldSpec, name: str, frame: int, sweep: Sweep, numbers: np.ndarray
) -> None:
    key = token(spec.seed, name, "LIDAR_TOP", frame, 0)
    labels = NUSCENES_RAW[sweep.cls]
    write_bytes(root / "lidarseg" / version(spec) / f"{key}_lidarseg.bin", labels.tobytes())
    panoptic = labels.astype(np.uint16) * 1000 + numbers[sweep.thing]
    stream = io.BytesIO()
    np.lib.format.write_array(stream, panoptic.astype(np.uint16), allow_pickle=False)
    with (
        atomic_path(root / "panoptic" / version(spec) / f"{key}_panoptic.npz") as path,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(
            zipfile.ZipInfo("data.npy", (1980, 1, 1, 0, 0, 0)),
            stream.getvalue(),
            zipfile.ZIP_DEFLATED,
        )


def _annotate(
    spec: WorldSpec, name: str, scene: Scene, snapshot: Snapshot, frame: int, sweep: Sweep
) -> list[dict[str, Any]]:
    """Boxes of all things the laser hit."""
    hits = np.bincount(sweep.thing, minlength=len(scene.things) + 1)
    visibility = _visibility(snapshot, len(scene.things))
    level = np.searchsorted([0.4, 0.6, 0.8], visibility) + 1
    rows = []
    for thing in scene.things:
        if hits[thing.number] == 0:
            continue
        centre, yaw = thing.box_at(frame * PERIOD)
        length, width, height = thing.size.tolist()
        attributes = []
        if thing.attribute:
            attributes.append(token("attribute", thing.attribute))
        rows.append(
            {
                "token": token(spec.seed, name, "annotation", frame, thing.number),
                "sample_token": token(spec.seed, name, "sample", frame),
                "instance_token": token(spec.seed, name, "instance", thing.number),
                "visibility_token": str(level[thing.number]),
                "attribute_tokens": attributes,
                "translation": centre.tolist(),
                "size": [width, length, height],
                "rotation": quaternion(rotation(yaw)),
                "num_lidar_pts": int(hits[thing.number]),
                "num_radar_pts": 0,
            }
        )
    return rows


def _visibility(snapshot: Snapshot, things: int) -> np.ndarray:
    """Share of each thing's parts in plain sight of the roof, f64 [things + 1]."""
    solids = snapshot.solids
    parts = np.flatnonzero(solids.thing > 0)
    origin = (snapshot.ego @ NUSCENES_LIDAR)[:3, 3].copy()
    offset = solids.centre[parts] - origin
    rays = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    _, what, _, _ = cast(snapshot.geometry, origin, rays, 150.0, snapshot.visible)
    thing = solids.thing[parts]
    seen = (what >= 0) & (solids.thing[np.maximum(what, 0)] == thing)
    total = np.bincount(thing, minlength=things + 1)
    in_sight = np.bincount(thing, weights=seen, minlength=things + 1)
    return in_sight / np.maximum(total, 1)


def write_map(path: Path, scene: Scene) -> None:
    """The semantic prior of one town: 255 on road and sidewalk, 0.1 m per px, north up."""
    flat = GROUND_CLASS[scene.town.ground] <= Cls.SIDEWALK
    mask = np.repeat(np.repeat(flat[::-1], 2, 0), 2, 1).astype(np.uint8) * 255
    with atomic_path(path) as temporary:
        Image.fromarray(mask).save(temporary, "PNG", compress_level=2)
