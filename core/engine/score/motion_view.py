"""A picture of the motion channels of a scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.config import Config
from core.data.motion_job import column_of_motion
from core.data.sample import keyframe_scan
from core.datasets import build_dataset
from core.datasets.columns import column_file
from core.datasets.motion_maps import maps_of
from core.engine.report.motion_picture import motion_montage
from core.engine.report.pictures import encode_png
from core.engine.score.moving import moving_class
from core.io import write_bytes

__all__ = ["show_motion"]


def show_motion(
    config: Config, split: str, scan: str, out: Path, column: str | None = None
) -> None:
    """Draw what ``prepare_motion.py`` has written for a scan, as networks read it.

    Args:
        config: its ``dataset`` names the scans and the column. scan: its token. out: the PNG. column: its name; None =
            the only one of motion.

    Raises:
        UserError: no such scan or column, or no motion maps of the scan.
    """
    scans = build_dataset(config, split)
    chosen = column_of_motion(scans, column)
    index = scans.index_of(scan)
    keyframe = keyframe_scan(scans.read(index, cameras=False))
    assert chosen.motion is not None, "chosen by it"
    path = column_file(chosen, scans.root, scan)
    made = maps_of(path, chosen.motion, keyframe, len(keyframe.xyz), scans.pose_files(index))
    points = keyframe.sensor.seen(keyframe.xyz)
    values = made.at_points(points, chosen.motion)
    moving = moving_class(scans.labels)
    moves: np.ndarray | None = None
    if moving is not None and keyframe.labels is not None:
        moves = keyframe.labels == moving
    title = f"{scans.title} {split}, {scan}"
    picture = motion_montage(points, values, moves, made, chosen.motion, title)
    write_bytes(out, encode_png(picture))
