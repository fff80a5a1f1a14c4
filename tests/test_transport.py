"""Values between processes: what arrives is what was sent, to the bit, and may be written to."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from core.transport import receive, send

Line = tuple[socket.socket, socket.socket]


@pytest.fixture
def line() -> Iterator[Line]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def passed(line: Line, value: object) -> object:
    send(line[0], value)
    return receive(line[1])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(7, dtype=torch.int32),
        torch.randn(3, 4).t(),
        torch.randn(2, 3).bfloat16(),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.empty(0, 4),
        torch.empty(3, 0, dtype=torch.int64),
        torch.randn(5)[::2],
    ],
)
def test_tensors_of_every_kind(line: Line, tensor: torch.Tensor) -> None:
    arrived = passed(line, tensor)
    assert isinstance(arrived, torch.Tensor) and arrived.dtype == tensor.dtype
    assert arrived.shape == tensor.shape and torch.equal(arrived, tensor)


def test_nested_values_with_arrays(line: Line) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    arrived = passed(line, {"a": [array, None], "b": ("text", 3)})
    assert isinstance(arrived, dict) and arrived["b"] == ("text", 3)
    assert np.array_equal(arrived["a"][0], array) and arrived["a"][0].dtype == array.dtype


def test_what_arrives_is_aligned_and_may_be_changed(line: Line) -> None:
    sent = [torch.zeros(3, dtype=torch.int8), torch.zeros(5)]
    arrived = passed(line, sent)
    assert isinstance(arrived, list)
    arrived[1] += 1
    assert arrived[1].data_ptr() % 64 == 0 and arrived[1].tolist() == [1.0] * 5
    assert sent[1].tolist() == [0.0] * 5


def test_several_values_come_in_order_and_no_descriptor_stays_open(line: Line) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        send(line[0], number)
    assert [receive(line[1]) for _ in range(5)] == list(range(5))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_other_side_gone(line: Line) -> None:
    line[0].close()
    with pytest.raises(EOFError):
        receive(line[1])
    with pytest.raises(ConnectionError):
        send(line[1], 1)


def test_no_room_for_a_value_is_an_error_and_no_message(line: Line) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            send(line[0], torch.zeros(100_000))
        assert passed(line, "small") == "small"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
