"""What is uploaded to Waymo's benchmark of 3-D semantic segmentation: put together from single frames, and checked.

``submission*.bin`` are SemanticSegmentationSubmissions, as Waymo's tutorial writes them; ``frame_list*.bin`` hold the
same frames as bare SegmentationFrameLists, which the server has wanted of the validation split and the metric tool
reads. A file is a head and the frames' files one after the other: no more than one frame is in memory.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from core.datasets.benchmark import Container, Split
from core.datasets.waymo.frame import NUM_CLASSES
from core.datasets.waymo.scoring.cells import CellSplit
from core.datasets.waymo.scoring.frame_lists import (
    FRAMES,
    RESULTS,
    RETURNS,
    FrameFile,
    find_lists,
    frame_fields_fault,
    range_images,
)
from core.datasets.waymo.scoring.method_info import INFO, MethodInfo
from core.datasets.waymo.wire.message import Malformed, Message
from core.datasets.waymo.wire.writer import Writer
from core.decode import decoding
from core.errors import UserError, counted
from core.io import atomic_path

__all__ = ["FrameContainer"]

_KINDS = {True: "submission", False: "frame_list"}  # by FrameFile.is_submission
_PACKED = re.compile(rf"({'|'.join(_KINDS.values())})(-\d{{5}}-of-\d{{5}})?\.bin")
_MOST = (1 << 31) - 1  # bytes of one message


class FrameContainer(Container):
    """Waymo's files of many frames."""

    def pack(self, folder: Path, names: Sequence[str], per_file: int | None) -> list[Path]:
        """Write both kinds of files, each atomically; see :meth:`Container.pack`."""
        info = MethodInfo.read(folder / INFO)
        frames = []
        for name in names:
            with decoding(folder / name, "prediction of a frame", "Start the same command again"):
                frames.append((folder / name, (folder / name).stat().st_size))
        size = per_file or max(1, len(frames))
        shards = [frames[start : start + size] for start in range(0, len(frames), size)]
        written = []
        for is_submission, stem in _KINDS.items():
            for number, shard in enumerate(shards, 1):
                part = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
                target = folder / f"{stem}{part}.bin"
                _write(target, shard, info if is_submission else None)
                written.append(target)
        for path in folder.iterdir():
            if _PACKED.fullmatch(path.name) and path not in written:
                path.unlink()
        return written

    def faults(self, path: Path, scans: Split) -> Iterator[str]:
        """See :meth:`Container.faults`; where both kinds of files are there, each has to hold all frames."""
        lists = list(find_lists(path))
        for is_submission in _KINDS:
            kind = [file for file in lists if file.is_submission == is_submission]
            if kind:
                yield from _info_faults(kind)
                yield from _set_faults(kind, cast(CellSplit, scans))

    def outstanding(self, path: Path) -> list[str]:
        """Fields of ``submission.json`` that are still empty."""
        for file in find_lists(path):
            if file.is_submission:
                with decoding(file.path, "submission"):
                    info = MethodInfo.of_message(file.message)
                return [f"{', '.join(info.lacking)} in {INFO}"] if info.lacking else []
        return []


def _write(target: Path, frames: Sequence[tuple[Path, int]], info: MethodInfo | None) -> None:
    """Write a submission, or with ``info`` None a bare list.

    Args:
        frames: files and their sizes in bytes.

    Raises:
        UserError: there are too many for one message.
    """
    results = sum(Writer().header(FRAMES, size).size + size for _, size in frames)
    head = Writer()
    if info is not None:
        info.write(head)
        head.header(RESULTS, results)
    if head.size + results > _MOST:
        raise UserError(
            f"{counted(len(frames), 'frame')} take {head.size + results} bytes; a message has at most {_MOST}",
            where=str(target),
            cure="Write several files: --frames-per-file 500",
        )
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        stream.write(head.tobytes())
        for frame, size in frames:
            stream.write(Writer().header(FRAMES, size).tobytes())
            with open(frame, "rb") as source:
                shutil.copyfileobj(source, stream)


# --- what is wrong ----------------------------------------------------------------------------------------------------
def _info_faults(lists: Sequence[FrameFile]) -> Iterator[str]:
    """Of the fields beside the frames; all files have to say the same."""
    first = None
    for file in lists:
        if not file.is_submission:
            continue
        try:
            info = MethodInfo.of_message(file.message)
        except Malformed as error:
            yield f"{file.path.name}: {error}"
            continue
        first = first or info
        if info != first:
            yield f"{file.path.name}: it names another method than {lists[0].path.name}"


def _set_faults(lists: Sequence[FrameFile], scans: CellSplit) -> Iterator[str]:
    """Of files that together have to hold each frame of the split once."""
    numbers = {scans.token(index): index for index in range(len(scans))}
    holders: dict[str, str] = {}
    for file in lists:
        for place, token in enumerate(file.tokens):
            name = f"{file.path.name}: frame {token}"
            if token in holders:
                yield f"{name} is there twice, also in {holders[token]}"
            elif token not in numbers:
                yield f"{name} is not one of the {len(numbers):,} frames of the {scans.split} split"
            else:
                for fault in _frame_faults(file.frame(place), scans, numbers[token]):
                    yield f"{name}: {fault}"
            holders[token] = file.path.name
    for token in numbers:
        if token not in holders:
            yield f"{lists[0].path.name}: frame {token} is missing"


def _frame_faults(frame: Message, scans: CellSplit, index: int) -> Iterator[str]:
    try:
        unasked = frame_fields_fault(frame)
        images = range_images(frame)
    except Malformed as error:
        yield str(error)
        return
    if unasked is not None:
        yield unasked
    if len(images) != len(RETURNS):
        yield f"it has {counted(len(images), 'return')}; both are asked for"
        return
    occupied = scans.cells(index).occupied
    for number, (image, cells) in enumerate(zip(images, occupied), 1):
        for fault in _image_faults(image, cells):
            yield f"return {number}: {fault}"


def _image_faults(image: np.ndarray, occupied: np.ndarray) -> Iterator[str]:
    """Of one return.

    Args:
        image: i32, as stored. occupied: bool [H, W], cells with a point.
    """
    wanted = (*occupied.shape, 2)
    if image.shape != wanted:
        shapes = " x ".join(map(str, image.shape)), " x ".join(map(str, wanted))
        yield f"the matrix is {shapes[0]}; expected {shapes[1]}"
        return
    instances, classes = image[:, :, 0], image[:, :, 1]
    if instances.any():
        hint = "" if classes.any() else "; are the two swapped? The class comes second"
        yield f"channel 0, of instances, holds {int(instances.max())}; expected zeros{hint}"
    wrong = (classes < 0) | (classes >= NUM_CLASSES)
    if wrong.any():
        yield f"class {int(classes[wrong][0])} in {counted(int(wrong.sum()), 'cell')}; expected 1 to {NUM_CLASSES - 1}"
    beside = int(np.count_nonzero((classes != 0) & ~occupied))
    if beside:
        yield f"a class in {counted(beside, 'cell')} without a point"
    without = int(np.count_nonzero((classes == 0) & occupied))
    if without:
        yield f"no class in {counted(without, 'cell')} with a point, which count as misses"
