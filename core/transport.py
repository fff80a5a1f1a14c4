"""Values on their way from one process to another: one anonymous file each, arrays and tensors without a copy.

What a file descriptor names lives in memory, not under /dev/shm, and is gone with its last reader. A message is one
byte and a descriptor: it arrives whole or not at all, so neither side can be left waiting for half of one.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["receive", "send"]

_ALIGNED = 64  # bytes: where each array begins, as torch allocates
_WORD = 8  # bytes of a number in the head
_MESSAGE = b"v"


def send(connection: socket.socket, value: object) -> None:
    """Send ``value``; its tensors lie on the processor.

    Raises:
        OSError: the other side is gone, or there is no memory left for the value.
    """
    descriptor = _unnamed_file()
    try:
        _write(descriptor, value)
        socket.send_fds(connection, [_MESSAGE], [descriptor])
    finally:
        os.close(descriptor)


def _unnamed_file() -> int:
    """A descriptor of a file in memory; where the system has none (macOS), of a temporary one without a name."""
    if sys.platform == "linux":
        return os.memfd_create("lidistill")
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def receive(connection: socket.socket) -> Any:
    """Wait for a value; its arrays and tensors are this process's to change.

    Raises:
        EOFError: the other side is gone.
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, len(_MESSAGE), 1)
    except ConnectionError as error:
        raise EOFError from error
    if not message:
        raise EOFError
    descriptor = descriptors[0]
    try:
        memory = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    return _read(memoryview(memory))


class _Pickler(pickle.Pickler):
    """Hands tensors out as buffers, as NumPy's arrays are by themselves."""

    def reducer_override(self, value: object) -> Any:
        """How a tensor is taken apart; everything else as usual."""
        if not isinstance(value, Tensor):
            return NotImplemented
        plain = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(plain.data), value.dtype, tuple(value.shape))


def _tensor(buffer: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def _write(descriptor: int, value: object) -> None:
    """The number of parts, the size of each, then the parts: a pickle, and the arrays it names."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [pickled.getbuffer(), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    numbers = [len(sizes), *sizes]
    head = b"".join(number.to_bytes(_WORD, "little") for number in numbers)
    starts, end = _places(len(head), sizes)
    os.truncate(descriptor, max(end, 1))
    _write_at(descriptor, memoryview(head), 0)
    for part, start in zip(parts, starts):
        _write_at(descriptor, part, start)


def _write_at(descriptor: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


def _read(memory: memoryview) -> Any:
    def number(place: int) -> int:
        return int.from_bytes(memory[_WORD * place : _WORD * (place + 1)], "little")

    sizes = [number(1 + i) for i in range(number(0))]
    starts, _ = _places(_WORD * (1 + len(sizes)), sizes)
    parts = [memory[start : start + size] for start, size in zip(starts, sizes)]
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  (of this very program)


def _places(head: int, sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each part begins, and where the last one ends."""
    starts, end = [], head
    for size in sizes:
        start = -(-end // _ALIGNED) * _ALIGNED
        starts.append(start)
        end = start + size
    return starts, end
