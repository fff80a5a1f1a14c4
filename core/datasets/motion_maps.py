"""Motion maps of a scan on disk: what moved about it, one map per channel, and which way its points go into them.

``prepare_motion.py`` writes them; where ``dataset.columns`` names them, each point reads its cells.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import Scan
from core.datasets.motion_cells import grid_of, read_cells
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_pixels import pixels_of, view_of
from core.decode import parse_json, read_arrays
from core.errors import UserError
from core.io import read_once, sha256, write_bytes

__all__ = [
    "MotionMaps",
    "MotionSource",
    "check_source",
    "maps_of",
    "motion_column",
    "poses_digest",
    "read_header",
    "scanner_pose",
    "write_motion",
]

_FORMAT = 1
_FILES = 256  # of poses whose digests are kept
_FAST = (
    1  # zlib level: maps are zeros nearly everywhere, and higher levels take three times as long
)
_SAME_PLACE = 1e-5  # m, and of a rotation's entries: poses are products of matrices
_AGAIN = "Delete the file and start prepare_motion.py again"


@dataclass(frozen=True)
class MotionSource:
    """What motion maps of a scan were made from.

    Attributes:
        token: the scan's. points: its number of points. poses: SHA-256 (hex) of the files that its drive's poses come
            from, empty where there is none. settings: the windows and the grid.
        neighbours: scans before and after it that its maps look at; None = whatever there were.
    """

    token: str
    points: int
    poses: str
    settings: MotionConfig | ResidualConfig
    neighbours: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they lie in a file."""
        values = {
            "format": _FORMAT,
            "token": self.token,
            "points": self.points,
            "poses": self.poses,
            **self.settings.model_dump(mode="json"),
        }
        if self.neighbours is not None:
            values["neighbours"] = list(self.neighbours)
        return values


@dataclass(frozen=True)
class MotionMaps:
    """What moved about a scan, as seen at its own time and later.

    Attributes:
        maps: f16 [C, azimuth, range] m of extent that is there at one time and not at another; range counts from the
            far end. Channel k is that of the scan k places later, 0 where there is none or not enough before it.
            Or f16 [C, row, column], change of range by range; channel k is that against the scan k + 1 places before.
        moves: f64 [C, 3, 4], the scan's points into the frame of the map; NaN where there is no map.
        pose: f64 [4, 4], scanner -> world.
    """

    maps: np.ndarray
    moves: np.ndarray
    pose: np.ndarray

    @property
    def channels(self) -> np.ndarray:
        """I64: those that have a map."""
        return np.flatnonzero(np.isfinite(self.moves).all((1, 2)))

    def at_points(self, xyz: np.ndarray, settings: MotionConfig | ResidualConfig) -> np.ndarray:
        """Let points read their cells.

        Args:
            xyz: f32 [N, 3] m about the scanner.
            settings: the grid or image; and the delay, beyond which channels stay 0.

        Returns:
            f32 [N, C] m.
        """
        xyz = np.ascontiguousarray(xyz, np.float32)
        read = np.zeros((len(xyz), len(self.maps)), np.float32)
        if isinstance(settings, ResidualConfig):  # all maps are in the scan's own frame
            pixels = pixels_of(xyz, view_of(settings))
            inside = np.flatnonzero(pixels >= 0)
            read[inside] = self.maps.reshape(len(self.maps), -1).T[pixels[inside]]
            return read
        grid = grid_of(settings)
        for channel in self.channels:
            if settings.known(channel) and self.maps[channel].any():
                values = self.maps[channel].astype(np.float32).ravel()
                move = self.moves[channel].copy()  # what is read from a file cannot be written to
                read_cells(xyz, move, grid, values, read[:, channel])
        return read


@read_once(entries=_FILES)
def _digest(path: Path) -> str:
    return sha256(path)


def poses_digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) of the files that poses come from; empty where one of them is missing or there is none."""
    digests = [_digest(path) if path.is_file() else "" for path in files]
    if not all(digests):
        return ""
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def scanner_pose(scan: Scan, where: Sequence[Path]) -> np.ndarray:
    """Scanner -> world, f64 [4, 4].

    Args:
        where: the files that its drive's poses come from, for the error.

    Raises:
        UserError: the pose of the scan is not known.
    """
    if not np.isfinite(scan.pose).all():
        named = ", ".join(str(path) for path in where)
        raise UserError(
            f"no pose of scan {scan.token}: the files are missing or damaged, or end before it"
            if named
            else f"scan {scan.token} has no pose, and what moves is told by poses",
            where=named or None,
            cure="SemanticKITTI keeps poses in poses.txt, a line for each scan, with calib.txt beside it",
        )
    pose = scan.pose.copy()
    pose[:3, 3] += pose[:3, :3] @ np.array(scan.sensor.origin)
    return pose


def write_motion(path: Path, source: MotionSource, made: MotionMaps) -> None:
    """Write the maps of a scan, atomically."""
    header = json.dumps(source.to_json(), sort_keys=True).encode()
    arrays = {
        "header": np.frombuffer(header, np.uint8),
        "moves": made.moves,
        "pose": made.pose,
        "maps": made.maps,
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.save(entry, array, allow_pickle=False)
            named = zipfile.ZipInfo(f"{name}.npy")  # of no date: equal maps are equal bytes
            archive.writestr(named, entry.getvalue(), zipfile.ZIP_DEFLATED, _FAST)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())


def read_header(path: Path) -> dict[str, Any]:
    """What a file of motion maps says of itself.

    Raises:
        UserError: it is missing or damaged, or holds something else.
    """
    arrays = read_arrays(path, "file of motion maps", only="header", cure=_AGAIN)
    return _header(arrays, path)


def _header(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    header = arrays.get("header")
    if header is None or header.dtype != np.uint8:
        raise UserError(
            "this file holds no motion maps: it has no array 'header'",
            where=str(path),
            cure="Write them with prepare_motion.py CONFIG",
        )
    return parse_json(header.tobytes(), str(path), dict[str, Any], cure=_AGAIN)


def check_source(
    header: Mapping[str, Any], wanted: MotionSource, path: Path, *, same_delay: bool = False
) -> None:
    """Compare what maps were made from with what they shall be.

    Args:
        same_delay: else a file of a longer delay than the wanted one serves: the channels up to a delay are the same.

    Raises:
        UserError: they are another scan's, of other poses, of a shorter delay, or of other windows or another grid.
    """
    expected = wanted.to_json()
    for key, value in expected.items():
        found = header.get(key)
        fits = found == value
        if key == "delay" and not same_delay:
            fits = isinstance(found, int) and found >= value
        if not fits:
            raise UserError(
                f"these motion maps are made with {_described(key, found)}; "
                f"{_described(key, value)} is asked for",
                where=str(path),
                cure=f"{_AGAIN}, which then makes them anew; or correct dataset.columns",
            )


def _described(key: str, value: Any) -> str:
    named = {
        "token": "scan",
        "points": "points:",
        "poses": "pose files of SHA-256",
        "neighbours": "scans before and after it:",
    }
    return f"{named.get(key, key)} {value if value not in (None, '') else 'none'}"


def motion_column(
    path: Path,
    settings: MotionConfig | ResidualConfig,
    scan: Scan,
    count: int,
    poses: Sequence[Path],
) -> np.ndarray:
    """Read the motion features of a scan's own points.

    Args:
        scan: as read; its keyframe's ``count`` points come first. poses: the files its drive's poses come from.

    Returns:
        f32 [count, channels] m.

    Raises:
        UserError: see :func:`maps_of`.
    """
    made = maps_of(path, settings, scan, count, poses)
    return made.at_points(scan.sensor.seen(scan.xyz[:count]), settings)


def maps_of(
    path: Path,
    settings: MotionConfig | ResidualConfig,
    scan: Scan,
    count: int,
    poses: Sequence[Path],
) -> MotionMaps:
    """Read the motion maps of a scan.

    Args:
        scan, count, poses: see :func:`motion_column`.

    Raises:
        UserError: the file is missing or damaged, or see :func:`check_source`; or the scan has another pose than when
            the maps were made.
    """
    arrays = read_arrays(path, "file of motion maps", cure="Write it with prepare_motion.py CONFIG")
    wanted = MotionSource(scan.token, count, poses_digest(poses), settings)
    check_source(_header(arrays, path), wanted, path)
    made = _arrays(arrays, settings, path)
    if not np.allclose(made.pose, scanner_pose(scan, poses), rtol=0, atol=_SAME_PLACE):
        raise UserError(
            f"these motion maps were made with another pose of scan {scan.token}",
            where=str(path),
            cure=f"{_AGAIN}, which then makes them anew",
        )
    return made


def _arrays(
    arrays: Mapping[str, np.ndarray], settings: MotionConfig | ResidualConfig, path: Path
) -> MotionMaps:
    """The arrays of a file, each of its shape and type."""
    channels = settings.channels
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "maps": (np.float16, (channels, *settings.bins)),
        "moves": (np.float64, (channels, 3, 4)),
        "pose": (np.float64, (4, 4)),
    }
    for name, (kind, shape) in shapes.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.shape != shape:
            raise UserError(
                f"expected an array '{name}' of {np.dtype(kind)} {list(shape)}",
                where=str(path),
                cure=_AGAIN,
            )
    if not np.isfinite(arrays["maps"]).all():
        raise UserError("the maps hold NaN or infinite values", where=str(path), cure=_AGAIN)
    return MotionMaps(arrays["maps"], arrays["moves"], arrays["pose"])
