"""nuScenes' JSON tables, read row by row: memory does not grow with the file, and each row has the types it should."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, NotRequired, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from tqdm import tqdm
from typing_extensions import TypedDict

from core.decode import decoding, type_errors
from core.errors import UserError
from core.geometry import FARTHEST
from core.paths import name_fault

__all__ = [
    "Calibration",
    "EgoPose",
    "Keyframe",
    "Scene",
    "SensorName",
    "SweepFile",
    "iterate_table",
    "label_files",
]

_CHUNK = 8 << 20  # characters read at a time
_GAP = re.compile(r"[\s,]*")
_CURE = "Unpack the metadata archive again"
_NOT_UNIT = 5e-3  # of a quaternion's length


def _empty_or_square(rows: list[list[float]]) -> list[list[float]]:
    if len(rows) not in (0, 3):
        raise ValueError("must hold three rows, or none")
    return rows


def _below_root(name: str) -> str:
    fault = name_fault(name)
    if fault is not None:
        raise ValueError(f"{fault}; files lie below dataset.root")
    return name


def _unit(quaternion: list[float]) -> list[float]:
    length = math.hypot(*quaternion)
    if not abs(length - 1) <= _NOT_UNIT:
        raise ValueError(f"a quaternion of length {length:.4g} is no rotation")
    return quaternion


# Tokens name files of predictions. This pattern is checked in compiled code: there are millions of them.
Token = Annotated[str, Field(max_length=200, pattern=r"^[^/\\\x00-\x1f\x7f]*$")]
File = Annotated[str, AfterValidator(_below_root)]
Number = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
Vector = Annotated[list[Number], Field(min_length=3, max_length=3)]
Quaternion = Annotated[list[Number], Field(min_length=4, max_length=4), AfterValidator(_unit)]
Microseconds = Annotated[int, Field(ge=0, lt=1 << 62)]
Pixels = Annotated[int, Field(ge=0, lt=1 << 31)]
Matrix = Annotated[list[Vector], AfterValidator(_empty_or_square)]
Row = TypeVar("Row")


class SensorName(TypedDict):
    """``sensor.json``."""

    token: Token
    channel: Token


class Calibration(TypedDict):
    """``calibrated_sensor.json``: sensor -> vehicle, m and quaternion wxyz; px, empty of other sensors than cameras."""

    token: Token
    sensor_token: Token
    translation: Vector
    rotation: Quaternion
    camera_intrinsic: Matrix


class Scene(TypedDict):
    """``scene.json``."""

    token: Token
    name: Token
    nbr_samples: NotRequired[int]


class Keyframe(TypedDict):
    """``sample.json``."""

    token: Token
    scene_token: Token
    timestamp: Microseconds


class SweepFile(TypedDict):
    """``sample_data.json``: a file of a sensor, and those before and after it."""

    token: Token
    sample_token: Token
    ego_pose_token: Token
    calibrated_sensor_token: Token
    timestamp: Microseconds
    is_key_frame: bool
    filename: File
    prev: Token
    next: Token
    width: Pixels
    height: Pixels


class EgoPose(TypedDict):
    """``ego_pose.json``: vehicle -> world, m and quaternion wxyz."""

    token: Token
    translation: Vector
    rotation: Quaternion


class LabelFile(TypedDict):
    """``lidarseg.json`` and ``panoptic.json``."""

    sample_data_token: Token
    filename: File


def iterate_table(path: Path, of: type[Row]) -> Iterator[Row]:
    """Rows of a table, decoded one at a time.

    Args:
        of: what a row must hold; other keys of it are left out.

    Raises:
        UserError: the file is missing, unreadable, no JSON list or cut short, or a key of a row is missing or has
            another type.
    """
    adapter: TypeAdapter[Row] = TypeAdapter(of)
    with (
        decoding(path, "table", _CURE),
        open(path, encoding="utf-8") as stream,
        _progress(path) as bar,
    ):
        for number, row in enumerate(_rows(stream, path, bar)):
            try:
                yield adapter.validate_python(row, strict=True)
            except ValidationError as error:
                what = f"row {number}: {type_errors(error)}"
                raise UserError(what, where=str(path), cure=_CURE) from error


def label_files(path: Path) -> dict[bytes, bytes]:
    """Read ``lidarseg.json`` or ``panoptic.json``: file by the token of a sweep.

    Raises:
        UserError: the table is missing or damaged.
    """
    files = {}
    for row in iterate_table(path, LabelFile):
        files[row["sample_data_token"].encode()] = row["filename"].encode()
    return files


def _progress(path: Path) -> Any:
    size = path.stat().st_size
    shown = size > 8 * _CHUNK and sys.stderr.isatty()
    return tqdm(
        total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=not shown
    )


def _rows(stream: IO[str], path: Path, bar: Any) -> Iterator[Any]:
    """The values of a JSON list."""
    decoder = json.JSONDecoder()
    buffer = stream.read(_CHUNK).lstrip()
    if not buffer.startswith("["):
        raise _damaged(path, "it does not start with '['")
    position = 1
    while True:
        gap = _GAP.match(buffer, position)
        if gap is not None:  # always: it also matches nothing
            position = gap.end()
        if buffer.startswith("]", position):
            return
        try:
            row, position = decoder.raw_decode(buffer, position)
        except json.JSONDecodeError as error:
            more = stream.read(_CHUNK)
            if not more or len(buffer) - position > _CHUNK:
                raise _damaged(path, f"{error.msg} after {stream.tell()} bytes") from error
            bar.update(len(more))
            buffer, position = buffer[position:] + more, 0
            continue
        yield row


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"this table is damaged or cut short ({why})", where=str(path), cure=_CURE)
