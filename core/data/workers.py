"""Processes that load data: how they start, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import BaseContext

__all__ = ["leave_on_signals", "worker_context"]

_PRELOADED = "core.data.loader"  # and with it torch


def worker_context() -> BaseContext:
    """Choose how workers start.

    ``fork`` is fastest (nothing is imported anew), but not safe once MPI runs in the parent.
    There a server process forks them, which has imported the loader, and with it torch, once for all of them.
    """
    if not any(name.startswith(("OMPI_", "PMI_", "PMIX_")) for name in os.environ):
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def leave_on_signals() -> None:
    """Let SIGTERM end a forked worker, which inherits the trainer's handlers: those turn it into a request.

    It leaves with code 0: a worker that the parent stops on its way out is no failure to report.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(0))
