"""TFRecord files, uncompressed: each record is its length, a checksum of the length, the payload, a checksum of it.

Checksums are masked CRC-32C (``tensorflow/core/lib/io/record_writer.h``). That of a length is verified whenever a
record is come upon, that of a payload whenever the payload is read whole. A payload may also be looked into where it
lies (:meth:`RecordFile.view`), which reads only what is asked for and verifies nothing.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import google_crc32c

from core.datasets.waymo.wire.message import Malformed
from core.decode import decoding, open_at_once
from core.errors import UserError

__all__ = ["CURE", "RecordFile", "RecordView", "Span", "masked_crc", "open_records", "write_record"]

CURE = (
    "It has to be a segment of the Waymo Open Dataset's perception data, v1, as it was downloaded; "
    "copy or download the file again"
)
_KIND = "TFRecord file"
_HEADER = struct.Struct("<QI")  # length of the payload and its checksum
_FOOTER = struct.Struct("<I")
_LARGEST = 1 << 28  # bytes of a payload; a frame has 5 MB
# Bytes read at a time where a payload is looked into; headers are short and lie close together.
_BLOCK = 1 << 14
_OTHERS = {  # how files begin that are no TFRecord
    b"PAR1": "a Parquet file: it belongs to a data set that dataset.format: v2 reads",
    b"\x1f\x8b": "compressed with gzip; TFRecord files are read as they were downloaded, uncompressed",
}


class Span(NamedTuple):
    """Where a record lies: its first byte, and the bytes of its payload."""

    start: int
    size: int


def masked_crc(content: bytes) -> int:
    """CRC-32C of bytes, rotated and shifted as TFRecord stores it."""
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(stream: IO[bytes], payload: bytes) -> None:
    """Append a record to a file."""
    length = struct.pack("<Q", len(payload))
    stream.write(length + _FOOTER.pack(masked_crc(length)))
    stream.write(payload)
    stream.write(_FOOTER.pack(masked_crc(payload)))


@contextmanager
def open_records(path: Path) -> Iterator[RecordFile]:
    """Open a file for reading.

    Raises:
        UserError: it is missing, cannot be read, or is no file.
    """
    with decoding(path, _KIND, CURE), open(path, "rb", 0, opener=open_at_once) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError("this is no regular file", where=str(path))
        yield RecordFile(path, stream.fileno(), status.st_size)


class RecordFile:
    """A file that is open; see :func:`open_records`."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path, self._descriptor, self._size = path, descriptor, size

    def __iter__(self) -> Iterator[Span]:
        """Go from record to record, over the payloads.

        Raises:
            UserError: the file is cut short, a length is damaged, or it is no TFRecord file.
        """
        at = 0
        while at < self._size:
            size = self._length(at)
            yield Span(at, size)
            at += _HEADER.size + size + _FOOTER.size

    def payload(self, span: Span) -> bytes:
        """Read a record whole and verify its checksums.

        Raises:
            UserError: it is damaged, or no record of that length begins there.
        """
        if self._length(span.start) != span.size:
            what = (
                f"{self._place(span.start)} has another length than when the file was gone through"
            )
            raise UserError(what, where=str(self.path), cure="The file was replaced; start again")
        content = os.pread(self._descriptor, span.size, span.start + _HEADER.size)
        footer = os.pread(self._descriptor, _FOOTER.size, span.start + _HEADER.size + span.size)
        if len(content) != span.size or footer != _FOOTER.pack(masked_crc(content)):
            raise self.damaged(span, "its payload does not have the checksum that it came with")
        return content

    def view(self, span: Span) -> RecordView:
        """Look into a payload without reading it whole; nothing of it is verified."""
        return RecordView(self._descriptor, span.start + _HEADER.size, span.size)

    def damaged(self, span: Span, what: str) -> UserError:
        """Make the error of a record."""
        return UserError(f"{self._place(span.start)}: {what}", where=str(self.path), cure=CURE)

    def _place(self, start: int) -> str:
        """Say which record begins at a byte: its number, from 1, and the byte. Errors alone ask for it."""
        at, number = 0, 1
        while at < start:
            head = os.pread(self._descriptor, _HEADER.size, at)
            if len(head) < _HEADER.size:
                break
            at += _HEADER.size + _HEADER.unpack(head)[0] + _FOOTER.size
            number += 1
        if at != start:
            return f"byte {start}, where no record begins"
        return f"record {number} at byte {start}"

    def _length(self, at: int) -> int:
        """Bytes of the payload of the record that begins at a byte; all of it lies in the file."""
        head = os.pread(self._descriptor, _HEADER.size, at)
        whole = len(head) == _HEADER.size
        if not whole or masked_crc(head[:8]) != _HEADER.unpack(head)[1]:
            fault = "its length does not have the checksum that follows"
            if not whole:
                fault = "it is cut short in its header"
            what = f"{self._place(at)}: {fault}" if at else _foreign(head)
            raise UserError(what, where=str(self.path), cure=CURE)
        size: int = _HEADER.unpack(head)[0]
        over = at + _HEADER.size + size + _FOOTER.size - self._size
        if over > 0:
            what = f"{self._place(at)} is cut short: {over} bytes are missing"
            raise UserError(what, where=str(self.path), cure=CURE)
        if size > _LARGEST:
            what = f"{self._place(at)} has {size} bytes; at most {_LARGEST} are read"
            raise UserError(what, where=str(self.path), cure=CURE)
        return size


def _foreign(head: bytes) -> str:
    """Say what a file is that begins with these bytes, which are no header of a record."""
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            return f"this is no TFRecord file but {kind}"
    return "this is no TFRecord file, or record 1 at byte 0 is damaged: it begins with another length or checksum"


class RecordView:
    """A payload in its file, read in blocks as it is asked for; a :class:`~core.datasets.waymo.wire.message.Source`."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size = descriptor, start, size
        self._block = memoryview(b"")
        self._first = 0  # byte of the payload that the block begins with

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice, /) -> memoryview:
        start, stop, _ = span.indices(self._size)
        if not self._first <= start <= stop <= self._first + len(self._block):
            self._read(start, max(stop - start, _BLOCK))
        found = self._block[start - self._first : stop - self._first]
        if len(found) != stop - start:
            raise Malformed("the file became shorter while it was read")
        return found

    def _read(self, start: int, size: int) -> None:
        size = min(size, self._size - start)
        self._block = memoryview(os.pread(self._descriptor, size, self._start + start))
        self._first = start
