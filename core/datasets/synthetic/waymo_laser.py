"""One turn of Waymo's top lidar: every column from where the car is when it fires, two returns per pulse.

A pulse is no line. Its footprint is a cone of a milliradian, so that at an edge a part of it passes and meets what lies
behind; leaves and glass let a part through. What the passing part meets answers as a second return, if it lies far
enough behind the first to be told from it. A pulse whose first echo is not heard has the second one as its first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.datasets.synthetic.materials import Mat
from core.datasets.synthetic.raycast import NOTHING, cast_each
from core.datasets.synthetic.response import brightness, echo, surfaces
from core.datasets.synthetic.scene import Scene, Snapshot
from core.datasets.synthetic.waymo_labels import labels_of
from core.datasets.synthetic.waymo_rig import COLUMNS, ROWS, TURN
from core.datasets.waymo.frame import LaserCalibration, RangeImage
from core.datasets.waymo.range_image import azimuths, inclinations

__all__ = ["REACH", "Turn", "firing_poses", "turn"]

REACH = 75.0  # m
_STRENGTH = 60.0  # m, as of the other scanners
_SLICES = 10  # of a turn; traffic stands still for one hundredth of a second at a time
_FOOTPRINT = 8e-4  # rad, 1 sigma of a pulse's cone
_APART = 0.75  # m, nearer echoes are one
_BEYOND = 0.02  # m behind a surface that what passes it goes on
_PASSES = np.zeros(len(Mat))  # share of a pulse that a material lets through
_PASSES[Mat.FOLIAGE], _PASSES[Mat.GLASS], _PASSES[Mat.CABIN] = 0.35, 0.7, 0.4
_EDGE = 0.5  # greatest share that passes an edge
_SCALE = 0.6  # intensity of reflectance 1; a reflector's grows with the cube of its reflectance


class _Rays(NamedTuple):
    """Rays in the world: origins f64 [n, 3] m, directions f64 [n, 3], unit."""

    origins: np.ndarray
    directions: np.ndarray


class _Echoes(NamedTuple):
    """What pulses bring back, [n] each; rows that are not heard hold anything.

    Attributes:
        heard: bool. values: f32 [n, 3], range (m), intensity, elongation. labels: i32 [n, 2].
    """

    heard: np.ndarray
    values: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Turn:
    """One turn: both returns, with labels, and the pose f64 [W, 4, 4], vehicle -> world, of each column."""

    returns: tuple[RangeImage, RangeImage]
    poses: np.ndarray


def firing_poses(scene: Scene, time: float, columns: int) -> np.ndarray:
    """Poses of the car, vehicle -> world f64 [W, 4, 4], when the columns of a turn fire; the first at ``time`` s."""
    return np.stack([scene.ego_pose(time + TURN * k / columns) for k in range(columns)])


def turn(
    scene: Scene, time: float, laser: LaserCalibration, density: float, rng: np.random.Generator
) -> Turn:
    """Simulate one turn.

    Args:
        scene: the world. time: s, of the first firing. laser: the lidar. density: share of the firings.
        rng: noise, drop-outs and where in a footprint the passing part is.
    """
    columns = max(8, round(COLUMNS * density))
    poses = firing_poses(scene, time, columns)
    rays = _directions(laser, columns)
    height = len(rays)
    images = [_Image(height, columns), _Image(height, columns)]
    for part, snapshot in _slices(scene, time, columns):
        turned = poses[part, :3, :3] @ laser.extrinsic[:3, :3]
        places = poses[part, :3, :3] @ laser.extrinsic[:3, 3] + poses[part, :3, 3]
        directions = np.einsum("wij,hwj->hwi", turned, rays[:, part]).reshape(-1, 3)
        origins = np.tile(places, (height, 1))
        for image, echoes in zip(images, _pulses(snapshot, _Rays(origins, directions), rng)):
            image.put(part, echoes)
    first, second = (RangeImage(image.values, image.labels) for image in images)
    return Turn((first, second), poses)


class _Image:
    """A range image that is filled by and by; without an echo all its channels are -1 and its labels 0."""

    def __init__(self, height: int, width: int) -> None:
        self.values = np.full((height, width, 4), -1, np.float32)
        self.labels = np.zeros((height, width, 2), np.int32)

    def put(self, columns: slice, echoes: _Echoes) -> None:
        """Fill in some columns: echoes row by row."""
        values, labels = self.values[:, columns], self.labels[:, columns]  # views
        heard = echoes.heard.reshape(values.shape[:2])
        values[heard, :3] = echoes.values[echoes.heard]
        values[heard, 3] = 0  # in no zone without labels
        labels[heard] = echoes.labels[echoes.heard]


def _directions(laser: LaserCalibration, columns: int) -> np.ndarray:
    """Unit directions of the pixels in the lidar's frame, f64 [H, W, 3]."""
    elevation = inclinations(laser, ROWS)[:, None]
    azimuth = azimuths(laser, columns)[None, :]
    x = np.cos(elevation) * np.cos(azimuth)
    y = np.cos(elevation) * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], -1)


def _slices(scene: Scene, time: float, columns: int) -> Iterator[tuple[slice, Snapshot]]:
    """Stretches of columns, each with the world in the middle of its time."""
    borders = np.linspace(0, columns, _SLICES + 1).round().astype(int)
    for start, stop in itertools.pairwise(borders):
        if start < stop:
            middle = time + TURN * (start + stop) / 2 / columns
            yield slice(start, stop), scene.snapshot(middle, body=False)


def _pulses(snapshot: Snapshot, rays: _Rays, rng: np.random.Generator) -> tuple[_Echoes, _Echoes]:
    """First and second returns of pulses."""
    hit = _cast(snapshot, rays)
    first = _echoes(snapshot, hit, np.ones(len(hit.distance)), rng)
    passing, start, share = _passing(snapshot, rays, hit, rng)
    behind = _cast(snapshot, passing)
    behind = behind._replace(distance=behind.distance + start)
    second = _echoes(snapshot, behind, share, rng)
    met = hit.what != NOTHING
    second = second._replace(heard=second.heard & met & (behind.distance > hit.distance + _APART))
    return _in_order(first, second)


def _in_order(first: _Echoes, second: _Echoes) -> tuple[_Echoes, _Echoes]:
    """What is heard alone is the first return; an echo that does not come well after it is not heard."""
    alone = second.heard & ~first.heard
    later = second.values[:, 0] > first.values[:, 0] + _APART / 2
    leading = _Echoes(
        heard=first.heard | alone,
        values=np.where(alone[:, None], second.values, first.values),
        labels=np.where(alone[:, None], second.labels, first.labels),
    )
    return leading, second._replace(heard=second.heard & first.heard & later)


class _Hit(NamedTuple):
    """As of `raycast.cast_each`, [n] each."""

    distance: np.ndarray
    what: np.ndarray
    cosine: np.ndarray
    ground: np.ndarray


def _cast(snapshot: Snapshot, rays: _Rays) -> _Hit:
    limit = len(snapshot.solids.kind)
    return _Hit(*cast_each(snapshot.geometry, rays.origins, rays.directions, REACH, limit))


def _passing(
    snapshot: Snapshot, rays: _Rays, hit: _Hit, rng: np.random.Generator
) -> tuple[_Rays, np.ndarray, np.ndarray]:
    """The part of each pulse that goes on: its rays, where they start (f64 [n] m from the lidar), and its share."""
    count = len(hit.distance)
    material = snapshot.solids.material[np.maximum(hit.what, 0)]
    passes = np.where(hit.what >= 0, _PASSES[material], 0.0)
    through = passes > 0
    aside = rays.directions + _FOOTPRINT * rng.standard_normal((count, 3))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    start = np.where(through, hit.distance + _BEYOND, 0.0)
    rays = _Rays(
        rays.origins + start[:, None] * rays.directions,
        np.where(through[:, None], rays.directions, aside),
    )
    share = np.where(through, passes, _EDGE) * rng.random(count)
    return rays, start, share


def _echoes(snapshot: Snapshot, hit: _Hit, share: np.ndarray, rng: np.random.Generator) -> _Echoes:
    """The answers to a ``share`` [n] of each pulse from where it hit."""
    surface = surfaces(snapshot.solids, hit.what, hit.ground)
    heard, distance, reflectance, deep = echo(
        surface, hit.distance, hit.cosine, _STRENGTH, rng, share
    )
    mirrored = np.where(reflectance > 1.0, reflectance**3, reflectance)
    intensity = brightness(_SCALE * share * mirrored, hit.cosine, distance)
    return _Echoes(
        heard=heard & (distance > 0) & (distance <= REACH),
        values=np.stack([distance, intensity, _elongation(hit, deep, share, rng)], 1).astype("f4"),
        labels=labels_of(hit.what, surface.cls, surface.thing),
    )


def _elongation(
    hit: _Hit, deep: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """How far echoes are drawn out, f64 [n] from 0 to 1.5: by slanting surfaces, leaves, and where a part passes."""
    slanting = np.sqrt(np.maximum(1.0 - hit.cosine**2, 0.0)) / np.maximum(hit.cosine, 0.05)
    spread = 0.02 * slanting + 1.2 * deep + 0.4 * (share < 1.0)
    noise = 0.06 * np.abs(rng.standard_normal(len(deep)))
    return np.clip(spread * rng.random(len(deep)) + noise, 0.0, 1.5)
