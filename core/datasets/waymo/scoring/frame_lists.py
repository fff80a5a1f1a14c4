"""Classes of range-image cells frame by frame, as Waymo's server and its metric tool read them.

A ``SegmentationFrameList`` holds frames and nothing else; a ``SemanticSegmentationSubmission`` says besides who made
them. Both are files of one message (segmentation_metrics.proto and segmentation_submission.proto of the Waymo Open
Dataset); frames are decoded one by one, when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.datasets.waymo.frame import LASERS, NUM_CLASSES, TOP
from core.datasets.waymo.wire.fields import (
    LaserField,
    RangeImageField,
    SegmentationFrameField,
    SegmentationFrameListField,
    SubmissionField,
)
from core.datasets.waymo.wire.matrices import decode_matrix, encode_matrix
from core.datasets.waymo.wire.message import Malformed, Message
from core.datasets.waymo.wire.writer import Writer
from core.decode import decoding
from core.errors import UserError

__all__ = [
    "FRAMES",
    "RESULTS",
    "RETURNS",
    "FrameFile",
    "class_image",
    "encode_prediction",
    "find_lists",
    "frame_fields_fault",
    "range_images",
]

FRAMES, RESULTS = SegmentationFrameListField.FRAMES, SubmissionField.RESULTS
RETURNS = LaserField.RETURN_1, LaserField.RETURN_2
_TOP_NUMBER = next(number for number, name in LASERS.items() if name == TOP)


def encode_prediction(token: str, images: Sequence[np.ndarray]) -> bytes:
    """A serialised SegmentationFrame of TOP.

    Args:
        token: ``<context_name>/<timestamp_micros>``.
        images: i32, of the first and the second return: [H, W, 2], instance and class, or [H, W], classes alone.
    """
    context, _, timestamp = token.rpartition("/")
    laser = Writer().integer(LaserField.NAME, _TOP_NUMBER)
    for number, image in zip(RETURNS, images, strict=True):
        laser.part(number, Writer().content(RangeImageField.LABELS, encode_matrix(image)))
    frame = Writer().part(SegmentationFrameField.LASERS, laser)
    frame.text(SegmentationFrameField.CONTEXT, context)
    return frame.integer(SegmentationFrameField.TIMESTAMP, int(timestamp)).tobytes()


class FrameFile:
    """A file of frames, of either kind.

    Args:
        path: of the file.

    Attributes:
        message: all of it. is_submission: the file also says who made the frames.
        tokens: ``<context_name>/<timestamp_micros>`` of each frame, in the order of the file.

    Raises:
        UserError: the file is missing, damaged, something else, or holds no frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with decoding(path, "file of classes by frame"):
            source = np.memmap(path, np.uint8, "r").data
            self.message = Message(source, "the file")
            numbers = {field.number for field in self.message}
            self.is_submission = numbers != {FRAMES}
            if self.is_submission and RESULTS not in numbers:
                raise Malformed("it is neither a SegmentationFrameList nor a submission")
            frames = self.message
            if self.is_submission:
                frames = self.message.part(RESULTS, "inference_results")
            self._frames = frames.parts(FRAMES, "a frame")
            self.tokens = [_token(frame) for frame in self._frames]
        if not self.tokens:
            raise UserError("this file holds no frame", where=str(path))

    def __len__(self) -> int:
        return len(self.tokens)

    def frame(self, index: int) -> Message:
        """The message of a frame."""
        return self._frames[index]

    def images(self, index: int) -> tuple[np.ndarray, ...]:
        """The range images of a frame, see :func:`range_images`.

        Raises:
            UserError: the frame is damaged or not of TOP alone.
        """
        with decoding(self.path, f"frame {self.tokens[index]}"):
            return range_images(self.frame(index))


def _token(frame: Message) -> str:
    context = frame.text(SegmentationFrameField.CONTEXT)
    return f"{context}/{frame.integer(SegmentationFrameField.TIMESTAMP)}"


def range_images(frame: Message) -> tuple[np.ndarray, ...]:
    """Decode what a SegmentationFrame holds.

    Returns:
        i32 [H, W, 2], instance and class, or [H, W], classes alone; of the first return and, where there is one, the
        second. Nothing where the frame has no lidar at all.

    Raises:
        Malformed: it holds another lidar than TOP, or more than it.
    """
    lasers = frame.parts(SegmentationFrameField.LASERS, "a lidar")
    if not lasers:
        return ()
    named = [LASERS.get(laser.integer(LaserField.NAME), "without a name") for laser in lasers]
    if named != [TOP]:
        raise Malformed(f"it holds the lidars {', '.join(named)}; expected {TOP} alone")
    images = []
    for number in RETURNS:
        name = f"return {RETURNS.index(number) + 1}"
        blob = lasers[0].part(number, name).content(RangeImageField.LABELS)
        if len(blob):
            images.append(_matrix(blob, name))
        elif not images:
            raise Malformed("it has no first return")
    return tuple(images)


def frame_fields_fault(frame: Message) -> str | None:
    """What a SegmentationFrame holds besides the classes of its cells, such as the range images themselves."""
    held = {field.number for field in frame} - set(SegmentationFrameField)
    for laser in frame.parts(SegmentationFrameField.LASERS, "a lidar"):
        held |= {field.number for field in laser} - set(LaserField)
        for number in RETURNS:
            held |= {field.number for field in laser.part(number, "a return")} - {
                RangeImageField.LABELS
            }
    if not held:
        return None
    return f"it holds more than classes (field {min(held)} of a message); leave that out"


def _matrix(blob: memoryview, name: str) -> np.ndarray:
    """A matrix of instances and classes, or of classes alone, as Waymo's metric tool wants it."""
    try:
        return decode_matrix(blob, np.int32, (None, None, 2), name)
    except Malformed as error:
        try:
            return decode_matrix(blob, np.int32, (None, None), name)
        except Malformed:
            raise error from None


def class_image(image: np.ndarray) -> np.ndarray:
    """The classes i32 [H, W] of a matrix of either form.

    Raises:
        Malformed: they are no classes, or the two channels were swapped.
    """
    classes = image if image.ndim == 2 else image[:, :, 1]
    if image.ndim == 3 and not classes.any() and image[:, :, 0].any():
        raise Malformed("channel 1 holds no class but channel 0 does; instance ids come first")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= NUM_CLASSES:
        raise Malformed(f"it holds classes {low} to {high}; expected 0 to {NUM_CLASSES - 1}")
    return classes


def find_lists(path: Path) -> Iterator[FrameFile]:
    """The files of frames that ``path`` is, or that lie in it as ``*.bin``, by name.

    Raises:
        UserError: there is none, or see :class:`FrameFile`.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(path.glob("*.bin"))
    if not paths:
        raise UserError("no .bin files in this folder", where=str(path))
    for each in paths:
        yield FrameFile(each)
