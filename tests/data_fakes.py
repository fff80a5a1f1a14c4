"""Scans in memory, for tests that need no files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from core.contracts import Camera, Points, Scan, Sensor
from core.errors import UserError


def make_scan(
    points: np.ndarray,
    *,
    labels: ArrayLike | None = None,
    time_lag: ArrayLike | None = None,
    cameras: tuple[Camera, ...] = (),
    token: str = "scan",
) -> Scan:
    """A scan whose intensities count the points: 0, 1, 2, ..."""
    points = np.asarray(points, np.float32).reshape(-1, 3)
    count = len(points)
    return Scan(
        token=token,
        points=Points(
            xyz=points,
            lag=None if time_lag is None else np.asarray(time_lag, np.float32),
            sweep=None if time_lag is None else (np.asarray(time_lag) != 0).astype(np.int16),
            intensity=np.arange(count, dtype=np.float32),
            label=None if labels is None else np.asarray(labels, np.uint8),
        ),
        cameras=cameras,
        pose=np.eye(4),
    )


class ColourImage:
    """Loads an image of one colour; a class and not a closure, so that it pickles."""

    def __init__(self, size: tuple[int, int], colour: int) -> None:
        self.size, self.colour = size, colour

    def __call__(self) -> np.ndarray:
        return np.full((self.size[1], self.size[0], 3), self.colour, np.uint8)


def forward_camera(
    size: tuple[int, int] = (21, 11),
    *,
    focal: float = 10.0,
    colour: int = 51,
    load: Callable | None = None,
) -> Camera:
    """Looks along +x from the origin: u = cx - focal*y/x, v = cy - focal*z/x, principal point in the image's centre."""
    cx, cy = (size[0] - 1) / 2, (size[1] - 1) / 2
    projection = np.array([[cx, -focal, 0, 0], [cy, 0, -focal, 0], [1, 0, 0, 0]], np.float64)
    return Camera("front", size, projection, load or ColourImage(size, colour))


class FakeDataset:
    """``count`` random scans, all different; those in ``bad`` are damaged, loading ``deadly`` ends the process."""

    sensor = Sensor()
    budget = None

    def __init__(
        self,
        count: int = 10,
        *,
        bad: tuple[int, ...] = (),
        deadly: int | None = None,
        killed: bool = False,
        sweeps: int = 0,
        cameras: int = 0,
    ) -> None:
        self.count, self.bad, self.deadly, self.killed = count, bad, deadly, killed
        self.sweeps, self.num_cameras = sweeps, cameras
        self.asked_cameras: list[bool] = []

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"scan{index}"

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        self.asked_cameras.append(cameras)
        if index in self.bad:
            raise UserError("the file is cut short", where=f"{index}.bin", cure="Unpack it again")
        if index == self.deadly:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(3)
        rng = np.random.default_rng(index)
        own, count = 40 + index, 40 + index + self.sweeps
        return make_scan(
            rng.uniform(-3, 3, (count, 3)),
            labels=rng.integers(1, 5, count),
            time_lag=np.where(np.arange(count) < own, 0, 0.1),
            cameras=tuple(forward_camera(colour=10 * k) for k in range(self.num_cameras))
            if cameras
            else (),
            token=self.token(index),
        )
