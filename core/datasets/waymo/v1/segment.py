"""Segments of v1: one TFRecord file each, one Frame message per record.

The index (:meth:`RecordSegment.frames`) steps over images and range images: it verifies the checksum of every length
and the structure of every frame, and reads a few MB of headers in place of a gigabyte. A frame that is read is read
whole, its checksum verified, and compared with its row of the index (time, pose, whether it has labels), so no damaged
byte gets through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from core.datasets.files import listing
from core.datasets.waymo.frame import FRAME_ROW, TOP, CameraImage, Context, Frame
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v1.messages import (
    Head,
    decode_context,
    decode_frame,
    decode_head,
    decode_images,
)
from core.datasets.waymo.v1.tfrecord import CURE, RecordFile, Span, open_records
from core.datasets.waymo.v1.writer import segment_file
from core.datasets.waymo.wire.message import Malformed, Message
from core.errors import UserError

__all__ = ["RecordSegment"]

_SUFFIX = ".tfrecord"
_PREFIX, _ENDING = "segment-", "_with_camera_labels"
_REPLACED = "The file was replaced since it was gone through; start again"


@dataclass(frozen=True)
class RecordSegment(Segment):
    """A segment in a TFRecord file. Its name is that of the file, and the frames have to bear it."""

    format: ClassVar[str] = "v1"
    name: str
    path: Path

    @classmethod
    def find(cls, folder: Path) -> dict[str, Segment]:
        """The segments of a folder: ``segment-<name>_with_camera_labels.tfrecord``, or ``<name>.tfrecord``.

        Raises:
            UserError: two files are the same segment; there is none, but there are tables of format v2.
        """
        found: dict[str, Segment] = {}
        for file in sorted(listing(folder)):
            if not file.endswith(_SUFFIX) or file.startswith("."):
                continue
            name = file.removesuffix(_SUFFIX).removeprefix(_PREFIX).removesuffix(_ENDING)
            if name in found:
                what = f"'{file}' and '{found[name].path.name}' are the same segment"
                raise UserError(what, where=str(folder), cure="Remove one of them")
            found[name] = cls(name, folder / file)
        if not found and any(file.endswith(".parquet") for file in listing(folder / "lidar")):
            raise UserError(
                f"this folder holds lidar/*.parquet, and no *{_SUFFIX}",
                where=str(folder),
                cure="Set dataset.format v2, or name the folder of the TFRecord files",
            )
        return dict(sorted(found.items()))

    def frames(self) -> np.ndarray:
        """See :meth:`Segment.frames`. ``start`` is the first byte of a record, ``size`` the bytes of its payload."""
        rows = []
        with open_records(self.path) as records:
            for span in records:
                with self._decoding(records, span):
                    head = self._head(Message(records.view(span), "Frame"))
                rows.append((head.timestamp, span.start, span.size, head.labelled, head.pose))
        if not rows:
            raise UserError("the file has no frames", where=str(self.path), cure=CURE)
        found = np.array(rows, FRAME_ROW)
        found = found[np.argsort(found["timestamp"], kind="stable")]
        twice = np.flatnonzero(np.diff(found["timestamp"]) == 0)
        if len(twice):
            what = f"two frames have timestamp {found['timestamp'][twice[0]]}"
            raise UserError(what, where=str(self.path), cure=CURE)
        return found

    def context(self) -> Context:
        """See :meth:`Segment.context`; that of the first frame."""
        with open_records(self.path) as records:
            span = next(iter(records), None)
            if span is None:
                raise UserError("the file has no frames", where=str(self.path), cure=CURE)
            with self._decoding(records, span):
                message = Message(memoryview(records.payload(span)), "Frame")
                self._head(message)
                return decode_context(message)

    def read(self, row: np.void, lasers: Sequence[str] = (TOP,), labels: bool = True) -> Frame:
        """See :meth:`Segment.read`."""
        with self._frame(row) as message:
            return decode_frame(message, lasers, labels)

    def images(self, row: np.void, cameras: Sequence[str]) -> dict[str, CameraImage]:
        """See :meth:`Segment.images`."""
        with self._frame(row) as message:
            return decode_images(message, cameras)

    def sources(self) -> tuple[Path, ...]:
        """See :meth:`Segment.sources`."""
        return (self.path,)

    @contextmanager
    def _frame(self, row: np.void) -> Iterator[Message]:
        """A frame in memory, verified and compared with its row; around its decoding."""
        with open_records(self.path) as records:
            span = Span(int(row["start"]), int(row["size"]))
            payload = records.payload(span)
            with self._decoding(records, span):
                message = Message(memoryview(payload), "Frame")
                self._compare(self._head(message), row)
                yield message

    @contextmanager
    def _decoding(self, records: RecordFile, span: Span) -> Iterator[None]:
        """Name the record that cannot be decoded."""
        try:
            yield
        except Malformed as error:
            raise records.damaged(span, str(error)) from error

    def _head(self, message: Message) -> Head:
        head = decode_head(message)
        if head.context != self.name:
            what = f"the file is named after segment '{self.name}', but holds '{head.context}'"
            cure = f"If it is the file that you mean, name it {segment_file(head.context)}"
            raise UserError(what, where=str(self.path), cure=cure)
        return head

    def _compare(self, head: Head, row: np.void) -> None:
        same = head.timestamp == row["timestamp"] and head.labelled == row["labelled"]
        if not same or not np.array_equal(head.pose, row["pose"]):
            what = f"at byte {row['start']} lies another frame than when the file was gone through"
            raise UserError(what, where=str(self.path), cure=_REPLACED)
