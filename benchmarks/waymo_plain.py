"""Waymo's frames read in the plain way, messages byte by byte in Python, numbers by struct: benchmarks/waymo.py."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.datasets.waymo.frame import LASERS, Frame, RangeImage

__all__ = ["read_frame"]


def read_frame(path: Path, start: int) -> Frame:
    """TOP's range images, labels and poses of the record at a byte; checksums are passed over."""
    with open(path, "rb") as stream:
        stream.seek(start)
        (size,) = struct.unpack("<Q4x", stream.read(12))
        frame = parse(stream.read(size))
    returns, pixel_pose = {}, None
    for content in frame[5]:
        laser = parse(content)
        if LASERS.get(laser[1][0]) != "TOP":
            continue
        images = []
        for number in (2, 3):
            part = parse(laser[number][0])
            labels = matrix(part[6][0], floats=False) if 6 in part else None
            images.append(RangeImage(matrix(part[2][0], floats=True), labels))
            if 4 in part:
                pixel_pose = matrix(part[4][0], floats=True)
        returns["TOP"] = tuple(images)
    context = parse(frame[1][0])[1][0].decode()
    pose = struct.unpack("<16d", b"".join(parse(frame[3][0])[1]))
    return Frame(context, frame[2][0], np.reshape(pose, (4, 4)), returns, pixel_pose)


def parse(content: bytes) -> dict[int, list]:
    """The fields of a message by number."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(content):
        tag, at = varint(content, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(content, at)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, at = varint(content, at)
            value = content[at : at + size]
            at += size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def varint(content: bytes, at: int) -> tuple[int, int]:
    """A number and where the next one begins."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def varints(content: bytes) -> Iterator[int]:
    """All numbers of a packed field."""
    at = 0
    while at < len(content):
        value, at = varint(content, at)
        yield value - (1 << 64) if value >> 63 else value


def matrix(blob: bytes, *, floats: bool) -> np.ndarray:
    """A compressed MatrixFloat or MatrixInt32."""
    message = parse(zlib.decompress(blob))
    data = message[1][0]
    shape = parse(message[2][0])[1]
    if floats:
        values = struct.unpack(f"<{len(data) // 4}f", data)
        return np.array(values, np.float32).reshape(shape)
    return np.array(list(varints(data)), np.int32).reshape(shape)
