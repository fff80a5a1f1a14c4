"""What becomes of freed memory: kept for the next tensor, returned once a process has grown."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.engine.run import memory
from core.engine.run.memory import GrownHeap

REPO = Path(__file__).resolve().parents[2]
MIB = 2**20
FREED = """
import numpy as np
import psutil

from core.engine.run.memory import keep_freed_memory, release_free_memory

def resident():
    return psutil.Process().memory_info().rss

keep_freed_memory()
before = resident()
parts = [np.ones(8 * 2**20, np.uint8) for _ in range(32)]
wall = np.ones(100, np.uint8)  # lies above them: the heap cannot shrink from its end
del parts
print(resident() - before)
release_free_memory()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    command = [sys.executable, "-c", FREED]
    made = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, check=True, timeout=120
    )
    kept, left = map(int, made.stdout.split())
    assert kept > 200 * MIB
    assert left < 50 * MIB


def test_only_a_process_that_has_grown_returns_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [900, 1000, 1400, 1413, 700, 1200, 1212, 1213]  # MiB at each look
    looks = iter(resident)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=next(looks) * MIB))
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    returned: list[int] = []
    heap = GrownHeap()
    for place, _ in enumerate(resident):
        monkeypatch.setattr(memory, "release_free_memory", lambda at=place: returned.append(at))
        heap.look()
    assert returned == [3, 7]  # the first looks after a start and after a return begin anew
