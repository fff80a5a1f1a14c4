"""The sensors of a Waymo car: its top lidar and five cameras, values of one real car's header, rounded.

Frames: vehicle x forward, y left, z up, origin on the ground below the rear axle; camera x forward as well.
"""

from __future__ import annotations

import numpy as np

from core.datasets.synthetic.scene import rigid
from core.datasets.synthetic.solids import rotation
from core.datasets.waymo.frame import TOP, CameraCalibration, Context, LaserCalibration

__all__ = ["COLUMNS", "DELAYS", "ROWS", "TURN", "calibrations"]

ROWS = 64  # beams
COLUMNS = 2650  # firings per turn
TURN = 0.1  # s
_GLOBAL = 5  # shutter: these images are exposed at one instant, the real ones line by line

# rad, lowest beam first
_INCLINATIONS = (
    (-0.307335, -0.296451, -0.285906, -0.275574, -0.264976, -0.255027, -0.245771, -0.236229)
    + (-0.226859, -0.217674, -0.208414, -0.199543, -0.191052, -0.182576, -0.174371, -0.166447)
    + (-0.158614, -0.150704, -0.143424, -0.135906, -0.128955, -0.12203, -0.115232, -0.108374)
    + (-0.101943, -0.095657, -0.08984, -0.084012, -0.078729, -0.073041, -0.068079, -0.063039)
    + (-0.058076, -0.053659, -0.049377, -0.044721, -0.040748, -0.036895, -0.033079, -0.029505)
    + (-0.026626, -0.023177, -0.020249, -0.017292, -0.014277, -0.011452, -0.00903, -0.005738)
    + (-0.002851, 7.1e-05, 0.003225, 0.006177, 0.008269, 0.011729, 0.014632, 0.017088)
    + (0.020631, 0.023564, 0.02602, 0.029074, 0.031895, 0.035145, 0.038147, 0.040897)
)
_LIMITS = (-0.312778, 0.042272)  # rad
_TOP_ANGLES = (148.474, 0.103, 0.103)  # degrees, yaw, pitch, roll
_TOP_PLACE = (1.43, 0.0, 2.184)  # m

_Numbers = tuple[float, ...]
# f, c_u, c_v (px); k1, k2, p1, p2; yaw, pitch, roll (degrees); place (m); height (px)
_CAMERAS: dict[str, tuple[_Numbers, _Numbers, _Numbers, _Numbers, int]] = {
    "FRONT": (
        (2070.55, 958.27, 642.61),
        (0.04545, -0.33569, 0.00136, -0.00068),
        (0.319, -0.584, -0.470),
        (1.544, -0.023, 2.116),
        1280,
    ),
    "FRONT_LEFT": (
        (2079.44, 979.55, 635.79),
        (0.04655, -0.35191, 0.00060, 0.00230),
        (45.215, -0.247, -0.452),
        (1.497, 0.095, 2.115),
        1280,
    ),
    "FRONT_RIGHT": (
        (2082.41, 954.32, 668.64),
        (0.04411, -0.34182, 0.00162, -0.00082),
        (-44.632, 0.810, -0.374),
        (1.495, -0.097, 2.116),
        1280,
    ),
    "SIDE_LEFT": (
        (2074.20, 974.49, 231.83),
        (0.05002, -0.35037, 0.00190, 0.00071),
        (90.348, 0.148, -0.065),
        (1.432, 0.116, 2.115),
        886,
    ),
    "SIDE_RIGHT": (
        (2072.19, 1002.06, 227.16),
        (0.04443, -0.34489, 0.00074, 0.00002),
        (-90.415, -0.661, -0.465),
        (1.430, -0.116, 2.116),
        886,
    ),
}
_WIDTH = 1920  # px
# s after the turn's first firing that an image is taken: when the lidar sweeps through it
DELAYS = {
    "FRONT": 0.0524,
    "FRONT_LEFT": 0.0424,
    "FRONT_RIGHT": 0.0624,
    "SIDE_LEFT": 0.0224,
    "SIDE_RIGHT": 0.0724,
}


def calibrations(name: str, image_scale: float) -> Context:
    """Describe a segment.

    Args:
        name: of the segment. image_scale: of the real images' size; 0 = no cameras.
    """
    top = LaserCalibration(_mount(_TOP_ANGLES, _TOP_PLACE), np.array(_INCLINATIONS), _LIMITS)
    cameras = {}
    if image_scale:
        cameras = {camera: _camera(camera, image_scale) for camera in _CAMERAS}
    stats = {"time_of_day": "Day", "location": "location_other", "weather": "sunny"}
    return Context(name, {TOP: top}, cameras, stats)


def _camera(name: str, scale: float) -> CameraCalibration:
    (focal, u, v), (k1, k2, p1, p2), angles, place, height = _CAMERAS[name]
    matrix = np.array([[focal * scale, 0, u * scale], [0, focal * scale, v * scale], [0, 0, 1]])
    size = (max(1, round(_WIDTH * scale)), max(1, round(height * scale)))
    lens = np.array([k1, k2, p1, p2, 0.0])
    return CameraCalibration(matrix, lens, _mount(angles, place), size, _GLOBAL)


def _mount(angles: _Numbers, place: _Numbers) -> np.ndarray:
    """Sensor -> vehicle, f64 [4, 4]; angles: yaw, pitch, roll in degrees."""
    return rigid(rotation(*np.radians(angles)), place)
