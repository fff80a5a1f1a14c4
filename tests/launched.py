"""The environment of commands that tests start, those of several processes among them."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

__all__ = ["BIN", "ENV", "REPO"]

REPO = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# Open MPI keeps all jobs of a machine below one folder: one that ends may remove it while another begins, which then
# fails or hangs. Tests that run beside each other have a folder each.
_SESSIONS = tempfile.mkdtemp(prefix="mpi-")
_OWNER = os.getpid()
ENV = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(REPO),
    "TMPDIR": _SESSIONS,
}


@atexit.register
def _clear() -> None:
    if os.getpid() == _OWNER:  # not a fork of the tests' process
        shutil.rmtree(_SESSIONS, ignore_errors=True)
