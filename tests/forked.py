"""Jobs in a fork of the test's process, which never comes back into the tests, and is not waited for without end."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable

import pytest

__all__ = ["exit_code", "fork", "until"]

DEFECT = 70  # exit code of a job that raised
_LOOK = 0.01  # s between two looks


def fork(job: Callable[[], object]) -> int:
    """Start ``job`` in another process; returns its number.

    It ends with 0, or with ``DEFECT`` and a traceback. Without that, a job that raises would run the tests that follow,
    and tell them to pytest-xdist a second time.
    """
    child = os.fork()
    if child:
        return child
    code = DEFECT
    try:
        job()
        code = 0
    except BaseException:  # noqa: BLE001  (whatever it is, this process ends here)
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(child: int, seconds: float = 60.0) -> int:
    """Wait for a process; minus the signal for a killed one. The test fails when it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"process {child} hangs")


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is true. The test fails when it takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(_LOOK)
