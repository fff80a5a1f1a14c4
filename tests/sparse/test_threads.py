"""The helper threads of the compiled kernels: they survive forks, other callers and changing numbers of threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from forked import exit_code, fork
from sparse_scene import scene

from core.sparse import Conv3d
from core.sparse.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="the compiled kernels are missing")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work():
    """A convolution of several tiles, and what it gives on one thread."""
    torch.manual_seed(0)
    x, conv = scene(1700, 8, dtype=torch.float32), Conv3d(8, 16)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = conv(x).feats
    torch.set_num_threads(before)
    return lambda: torch.equal(conv(x).feats.detach(), expected)


def test_threads_may_come_and_go(work):
    for threads in (2, 4, 1, 3, 2, 8, 2):
        torch.set_num_threads(threads)
        assert work()


def test_a_forked_child_has_helpers_of_its_own(work):
    assert work()

    def twice() -> None:
        assert work() and work()

    assert exit_code(fork(twice)) == 0
    assert work()


def test_callers_on_several_threads_do_not_disturb_each_other(work):
    with ThreadPoolExecutor(4, initializer=lambda: torch.set_num_threads(2)) as callers:
        assert all(callers.map(lambda _: all(work() for _ in range(20)), range(8)))


def test_helpers_wake_from_their_sleep(work):
    for _ in range(3):
        time.sleep(0.01)  # longer than helpers spin
        assert work()
